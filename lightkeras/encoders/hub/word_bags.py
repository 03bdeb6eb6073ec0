"""Bags of many texts at once, of modules that look words up in a vocabulary.

`Table.bags` takes the weights from gradients, each as wide as the table. Where a module is a `WordTable`, the weight of
a row follows from two numbers: how often the text has its word, and how many words of the text have a row. The module's
own operations divide the texts and look the words up; the weight of a word that occurs once is that of `Table.bags` for
a text with as many words, and for a word that occurs several times it is added as often, in float32, as the gradient is
added. All texts that `Table.bags` is asked for are compared, to the bit; after a difference it computes all of them.
"""

from __future__ import annotations

import threading
from typing import Any, final

import numpy as np

from lightkeras.data.bags import Bags
from lightkeras.encoders.hub.graph_split import computes, node_name, without_calls
from lightkeras.encoders.hub.linear_table import Table, joined, strings
from lightkeras.encoders.hub.word_table import (
    UNKNOWN,
    NoWordTableError,
    exported,
    find_look_up,
    find_word_table,
    text_function,
)

TEXTS_PER_WORD = 1 / 8
"""Words are counted once as many texts were encoded: finding the row of a word takes an eighth of a text's time."""

_LEFT_OUT, _UNFORESEEN = -1, -2  # in place of rows


@final
class WordBags:
    """The bags of a table, faster than its own once it is known how the module counts words.

    Args:
        table: The table of the module.
        first: Texts that the table computes itself, at least, before words are counted.
    """

    def __init__(self, table: Table, first: float = 1000) -> None:
        self._table = table
        self._encoded, self._wanted = 0, float(first)
        self._counted: _Counted | None = None
        self._lock = threading.Lock()

    def bags(self, texts: np.ndarray) -> Bags:
        """The bags of `bytes` or `str`, to the bit those of `Table.bags`. Raises a NotLinearError as it does."""
        self._encoded += len(texts)
        if self._counted is None and self._encoded >= self._wanted and self._lock.acquire(blocking=False):
            try:
                self._count()
            finally:
                self._lock.release()
        if (counted := self._counted) is None:
            return self._table.bags(texts)
        found = counted.bags(texts)
        if found is None:
            self._counted, self._wanted = None, float("inf")
        return self._table.bags(texts) if found is None else found

    def _count(self) -> None:
        """Counts words from here on, if the module does and there were enough texts."""
        import tensorflow as tf

        try:
            self._wanted = max(self._wanted, len(_words_of(self._table)) * TEXTS_PER_WORD)
            if self._encoded >= self._wanted and self._counted is None:
                self._counted = _Counted(self._table)
        except (NoWordTableError, KeyError, IndexError, tf.errors.OpError):
            self._wanted = float("inf")  # a graph of another kind: its gradients are slower, but correct

    @property
    def counts_words(self) -> bool:
        """Whether words are counted by now."""
        return self._counted is not None


@final
class _Counted:
    """How a module counts the words of a text, and the weight of a word that occurs once by the number of words."""

    def __init__(self, table: Table) -> None:
        self._table, self._once = table, dict[int, np.float32]()
        found = find_word_table(table)
        function, nodes, look_up = _graph_of(table)
        name = look_up.input[1]
        while nodes[node_name(name)].op != "StringSplitV2":
            node = nodes[node_name(name)]
            name = node.input[-1] if node.op == "RaggedTensorToSparse" else node.input[0]
        self._look_up = computes(function, [f"{look_up.name}:0", f"{node_name(name)}:0"])
        numbers = _words_of(table)
        rows = {numbers[word.encode()]: row for row, word in enumerate(found.vocabulary) if word}
        unknown, _ = self._numbers(np.array(sorted({*UNKNOWN} - {*found.vocabulary}), dtype=object))
        if len(set(unknown.tolist())) != 1 or unknown[0] in rows or max(map(abs, rows)) > 4 * len(rows) + 1000:
            raise NoWordTableError("its vocabulary numbers words in another way")
        self._first = min(*rows, int(unknown[0]))
        self._rows = np.full(max(*rows, int(unknown[0])) - self._first + 1, _UNFORESEEN, np.int64)
        self._rows[[number - self._first for number in rows]] = list(rows.values())
        self._rows[unknown[0] - self._first] = _LEFT_OUT if found.unknown is None else found.unknown

    def bags(self, texts: np.ndarray) -> Bags | None:
        """The bags; `None` if the module counts in another way."""
        numbers, owner = self._numbers(texts)
        place = numbers - self._first
        outside = (place < 0) | (place >= len(self._rows))
        rows = np.where(outside, _UNFORESEEN, self._rows[np.where(outside, 0, place)])
        asked = np.zeros(len(texts), bool)  # of the table itself
        asked[owner[rows == _UNFORESEEN]] = True
        owner, rows = owner[rows >= 0], rows[rows >= 0]
        words = np.bincount(owner, minlength=len(texts))
        width = int(self._table.variable.shape[0])
        entries, times = np.unique(owner * width + rows, return_counts=True)
        owner, ids = entries // width, (entries % width).astype(np.int32)
        lengths = np.bincount(owner, minlength=len(texts))
        asked |= words == 0
        new = [number for number, count in enumerate(words.tolist()) if not asked[number] and count not in self._once]
        learned = self._learn(texts, new, words, Bags.from_lengths(ids, times, lengths))
        if learned is None:
            return None
        asked[learned] = True
        once = np.array([self._once.get(count, 0) for count in words.tolist()], np.float32)
        made = Bags.from_lengths(ids, _added(once[owner], times), lengths)
        return _replaced(made, self._table, texts, np.flatnonzero(asked))

    def _numbers(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of all words in the vocabulary, and which text each belongs to."""
        numbers, places = self._look_up(strings(texts))
        return numbers.numpy(), places.numpy()[:, 0]

    def _learn(self, texts: np.ndarray, new: list[int], words: np.ndarray, counts: Bags) -> list[int] | None:
        """Learns weights from texts with another number of words than before; `counts` has counts for weights.

        Returns:
            The texts whose weights are still unknown; `None` if the module counts in another way.
        """
        asked = list({int(words[number]): number for number in new}.values())
        if not asked:
            return []
        found, expected = _of_table(self._table, texts, np.array(asked)), counts.take(np.array(asked))
        if not np.array_equal(found.splits, expected.splits) or not np.array_equal(found.ids, expected.ids):
            return None
        once: dict[int, np.float32] = {}
        for number, text in enumerate(asked):
            part = slice(found.splits[number], found.splits[number + 1])
            weights, times = found.weights[part], expected.weights[part]
            single = weights[times == 1]
            if len(single) == 0:
                continue
            if not np.array_equal(_added(np.full(len(times), single[0]), times), weights):
                return None
            once[int(words[text])] = single[0]
        self._once |= once
        return [number for number in new if int(words[number]) not in self._once]


def _added(once: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Each weight added to itself, as often as its word occurs; one after the other, because the sums are rounded."""
    found = once.copy()
    left = np.arange(len(times))
    for count in range(2, int(times.max(initial=1)) + 1):
        left = left[times[left] >= count]
        found[left] += once[left]
    return found


def _replaced(bags: Bags, table: Table, texts: np.ndarray, asked: np.ndarray) -> Bags:
    """The bags with those of some texts from the table itself."""
    if len(asked) == 0:
        return bags
    own, place = _of_table(table, texts, asked), {number: at for at, number in enumerate(asked.tolist())}
    parts = [own.take(np.array([place[n]])) if n in place else bags.take(np.array([n])) for n in range(len(bags))]
    return joined([part.ids for part in parts], [part.weights for part in parts], [np.diff(p.splits) for p in parts])


def _of_table(table: Table, texts: np.ndarray, asked: np.ndarray) -> Bags:
    """The bags of some texts from the table, which compares the first ones of all texts with the module's output."""
    return table.bags(texts[asked], check=bool(asked.max() < table.width))


def _graph_of(table: Table) -> tuple[Any, dict[str, Any], Any]:
    """The module's function of text, the nodes of its graph without calls, and the look-up among them."""
    function = text_function(table)
    nodes = {node.name: node for node in without_calls(function.graph.as_graph_def())[0].node}
    return function, nodes, find_look_up(nodes.values())


def _words_of(table: Table) -> dict[bytes, int]:
    """The words of a module's vocabulary with their numbers."""
    function, _, look_up = _graph_of(table)
    captures = dict(
        zip([node_name(tensor.name) for tensor in function.inputs[1:]], function.captured_inputs, strict=True)
    )
    keys, numbers = exported(look_up, captures)
    return dict(zip(keys, numbers, strict=True))
