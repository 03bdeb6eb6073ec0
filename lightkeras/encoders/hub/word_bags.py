"""Bags of many texts at once, of modules that look words up in a vocabulary.

`Table.bags` takes the weights from gradients, each as wide as the table. Where a module is a `WordTable`, the weight of
a row follows from two numbers: how often the text has its word, and how many words of the text have a row. The module's
own operations divide the texts and look the words up; the weight of a word that occurs once is that of `Table.bags` for
a text with as many words, and for a word that occurs several times it is added as often, in float32, as the gradient is
added.

That no word has a weight of its own is checked before words are counted: all words of the vocabulary, in texts of many,
must have the same weights, to the bit. Of every number of words, one text is compared to the bit with `Table.bags`.
"""

from __future__ import annotations

import threading
from typing import final

import numpy as np

from lightkeras.data.bags import Bags
from lightkeras.encoders.hub.graph_split import computes, node_name
from lightkeras.encoders.hub.linear_table import NotLinearError, Table, joined, strings
from lightkeras.encoders.hub.word_table import (
    UNKNOWN,
    NoWordTableError,
    find_word_table,
    graph_of,
    vocabulary_size,
    word_numbers,
)

TEXTS_PER_WORD = 1 / 8
"""Words are counted once as many texts were encoded: finding the row of a word takes an eighth of a text's time."""

WORDS_PER_TEXT = 10_000
"""Words of the vocabulary that are compared in one text: bounds the gradient, which has a row for each."""

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
        self._any_returned = False  # bags that were counted
        self._lock = threading.Lock()

    def bags(self, texts: np.ndarray) -> Bags:
        """The bags of `bytes` or `str`, as `Table.bags` gives them.

        Raises:
            NotLinearError: As `Table.bags` does; or the weights of these texts do not follow from the number of words,
                as those of the vocabulary and of earlier texts did.
        """
        self._encoded += len(texts)
        if self._counted is None and self._encoded >= self._wanted and self._lock.acquire(blocking=False):
            try:
                self._count()
            finally:
                self._lock.release()
        if (counted := self._counted) is None:
            return self._table.bags(texts)
        found = counted.bags(texts)
        with self._lock:
            if found is None and self._any_returned:
                raise NotLinearError("its output is not a sum of rows whose weights follow from the number of words")
            if found is not None and self._counted is counted:
                self._any_returned = True
                return found
            self._counted, self._wanted = None, float("inf")
        return self._table.bags(texts)

    def _count(self) -> None:
        """Counts words from here on, if the module does and there were enough texts."""
        import tensorflow as tf

        try:
            self._wanted = max(self._wanted, vocabulary_size(self._table) * TEXTS_PER_WORD)
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
    """How a module counts the words of a text, and the weight of a word that occurs once by the number of words.

    Raises a NoWordTableError if the module does not count words, or if words have weights of their own.
    """

    def __init__(self, table: Table) -> None:
        self._table, self._once = table, dict[int, np.float32]()
        numbers = word_numbers(table)
        found = find_word_table(table, numbers)
        function, nodes, look_up = graph_of(table)
        name = look_up.input[1]
        while nodes[node_name(name)].op != "StringSplitV2":
            node = nodes[node_name(name)]
            name = node.input[-1] if node.op == "RaggedTensorToSparse" else node.input[0]
        self._look_up = computes(function, [f"{look_up.name}:0", f"{node_name(name)}:0"])
        rows = {numbers[word.encode()]: row for row, word in enumerate(found.vocabulary) if word}
        unknown_words = sorted({*UNKNOWN} - {*found.vocabulary})
        unknown, _ = self._numbers(_array(unknown_words))
        if len(set(unknown.tolist())) != 1 or unknown[0] in rows or max(map(abs, rows)) > 4 * len(rows) + 1000:
            raise NoWordTableError("its vocabulary numbers words in another way")
        self._first = min(*rows, int(unknown[0]))
        self._rows = np.full(max(*rows, int(unknown[0])) - self._first + 1, _UNFORESEEN, np.int64)
        self._rows[[number - self._first for number in rows]] = list(rows.values())
        self._rows[unknown[0] - self._first] = _LEFT_OUT if found.unknown is None else found.unknown
        self._compare([*filter(None, found.vocabulary), unknown_words[0]])

    def _compare(self, words: list[str]) -> None:
        """Compares the weights of all words with each other, the last one among known and between two of them."""
        starts = range(0, len(words) - 1, WORDS_PER_TEXT)
        parts = [words[start : start + WORDS_PER_TEXT + 1] for start in starts]  # a part shares a word with the next
        for part in (*parts, words[:2], [words[0], words[-1], words[1]]):
            text = _array([" ".join(part)])
            counts, lengths = self._counts(text)
            if lengths[0] == 0 or not self._agree(self._table.bags(text, check=False), counts, lengths):
                raise NoWordTableError("its words have weights of their own")

    def bags(self, texts: np.ndarray) -> Bags | None:
        """The bags; `None` if the module counts in another way."""
        counts, lengths = self._counts(texts)
        # The last text of each number of words that is new.
        new = [*{n: text for text, n in enumerate(lengths.tolist()) if n > 0 and n not in self._once}.values()]
        if new:
            asked = np.array(new)
            if not self._agree(_of_table(self._table, texts, asked), counts.take(asked), lengths[asked]):
                return None
        once = np.array([self._once.get(length, 0) for length in lengths.tolist()], np.float32)
        weights = _added(np.repeat(once, np.diff(counts.splits)), counts.weights)
        made = Bags(counts.ids, weights, counts.splits)
        return _replaced(made, self._table, texts, np.flatnonzero(once == 0))

    def _numbers(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of all words in the vocabulary, and which text each belongs to."""
        numbers, places = self._look_up(strings(texts))
        return numbers.numpy(), places.numpy()[:, 0]

    def _counts(self, texts: np.ndarray) -> tuple[Bags, np.ndarray]:
        """Bags with counts for weights, and the number of words of each text.

        It is 0 where the weights do not follow from it: without words, or with a word that the vocabulary lacks.
        """
        numbers, owner = self._numbers(texts)
        place = numbers - self._first
        outside = (place < 0) | (place >= len(self._rows))
        rows = np.where(outside, _UNFORESEEN, self._rows[np.where(outside, 0, place)])
        unforeseen = owner[rows == _UNFORESEEN]
        owner, rows = owner[rows >= 0], rows[rows >= 0]
        words = np.bincount(owner, minlength=len(texts))
        words[unforeseen] = 0
        width = int(self._table.variable.shape[0])
        entries, times = np.unique(owner * width + rows, return_counts=True)
        owner, ids = entries // width, (entries % width).astype(np.int32)
        return Bags.from_lengths(ids, times, np.bincount(owner, minlength=len(texts))), words

    def _agree(self, found: Bags, counts: Bags, lengths: np.ndarray) -> bool:
        """Whether bags of the table are those that counting gives. Learns weights of new numbers of words."""
        if not np.array_equal(found.splits, counts.splits) or not np.array_equal(found.ids, counts.ids):
            return False
        for text, length in enumerate(lengths.tolist()):
            part = slice(found.splits[text], found.splits[text + 1])
            weights, times = found.weights[part], counts.weights[part]
            single = [self._once[length]] if length in self._once else weights[times == 1]
            if len(single) == 0:
                continue
            if not np.array_equal(_added(np.full(len(times), single[0]), times), weights):
                return False
            self._once[length] = single[0]
        return True


def _array(texts: list[str]) -> np.ndarray:
    return np.array(texts, dtype=object)


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
