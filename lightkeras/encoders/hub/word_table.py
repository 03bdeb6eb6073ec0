"""How a text module divides a text into words, and which row of its table each word has, read from its graph.

Many text modules lower-case a text, replace what a regular expression matches, split the rest at white space, look the
words up in a vocabulary, and combine rows of a table. Then Python can do the same without TensorFlow. The operations
and the vocabulary are read from the graph; rows and weights are those that the module gives for single words.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from re import _constants, _parser  # type: ignore[attr-defined]  # how Python reads a pattern
from typing import Any

import numpy as np

from lightkeras.encoders.hub.graph_split import node_name, without_calls
from lightkeras.encoders.hub.linear_table import Table

WORD = r"[^ \t\n\r\f\v]+"
UNKNOWN = ("qzxjqzxj", "jxqzjxqz", "zzqqxxjj", "qjxqjxqj", "xqjzxqjz", "qqqqqzzzzz", "jjjjxqxqx", "zxzxzxqjq")
"""Words that a vocabulary does not hold."""

WORDS_AT_ONCE = 2_000
"""Words of the vocabulary, or up to twice as many, whose rows are found at once: bounds the gradient."""

_ALIKE = {"LITERAL", "NOT_LITERAL", "IN", "RANGE", "NEGATE", "ANY", "BRANCH", "SUBPATTERN", "MAX_REPEAT", "MIN_REPEAT"}
"""Parts of regular expressions that TensorFlow and Python read alike, by Python's names."""


class NoWordTableError(ValueError):
    """A module does something else with a text than looking its words up in a vocabulary."""


@dataclasses.dataclass(frozen=True)
class WordTable:
    """What a module does with a text.

    Args:
        lower: Which letters are lower-cased first: `"ascii"`, `"unicode"`, or `None` for none.
        replace: Patterns and replacements of `re.sub`, applied in this order.
        vocabulary: The words by the rows of the table; `""` for a row without a word.
        unknown: Row of every other word; `None` if they are left out.
        empty: Row of a text without a word that has a row; `None` for no row.
        divide: What the sum of the rows is divided by: the `"count"` of words with a row, its `"root"`, or `None`.
    """

    lower: str | None
    replace: tuple[tuple[str, str], ...]
    vocabulary: tuple[str, ...] = ()
    unknown: int | None = None
    empty: int | None = None
    divide: str | None = None

    def words(self, text: str) -> list[str]:
        """Divides a text into words."""
        if self.lower == "unicode":
            text = text.partition("\0")[0].lower()  # TensorFlow's ends a text there
        elif self.lower:
            text = text.encode().lower().decode()
        for pattern, replacement in self.replace:
            text = re.sub(pattern, replacement, text)
        return re.findall(WORD, text)


def find_word_table(table: Table, numbers: Mapping[bytes, int] | None = None) -> WordTable:
    """Finds what a module that is linear in a table does with a text; else a NoWordTableError says why not.

    Args:
        table: The table of the module.
        numbers: Result of `word_numbers`; `None` reads it.
    """
    function, nodes, look_up = graph_of(table)
    found = WordTable(*_normalization(_chain(look_up, nodes, node_name(function.inputs[0].name))))
    listed = _decoded(word_numbers(table) if numbers is None else numbers)
    words = [word for word in listed if found.words(word) == [word]]  # others never occur
    if len(words) < 2:
        raise NoWordTableError("its vocabulary has no words")
    found = dataclasses.replace(found, divide=_divisor(table, words[0], words[1]))
    return dataclasses.replace(
        found,
        vocabulary=_by_rows(table, words, found),
        unknown=_row(table, sorted(set(UNKNOWN) - set(words)), "unknown words have"),
        empty=_row(table, [""], "an empty text has"),
    )


def graph_of(table: Table) -> tuple[Any, dict[str, Any], Any]:
    """The module's function of text, the nodes of its graph without calls, and the look-up among them."""
    import tensorflow as tf

    function = next(f for f in table.module.__call__.concrete_functions if f.inputs[0].dtype == tf.string)
    nodes = {node.name: node for node in without_calls(function.graph.as_graph_def())[0].node}
    return function, nodes, _find_look_up(nodes.values())


def vocabulary_size(table: Table) -> int:
    """How many words a module's vocabulary has."""
    import tensorflow as tf

    handle, _ = _vocabulary(table)
    return int(tf.raw_ops.LookupTableSizeV2(table_handle=handle))


def word_numbers(table: Table) -> dict[bytes, int]:
    """The words of a module's vocabulary with their numbers."""
    import tensorflow as tf

    handle, kind = _vocabulary(table)
    keys, numbers = tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=tf.string, Tvalues=kind)
    return dict(zip(keys.numpy().tolist(), numbers.numpy().tolist(), strict=True))


def _vocabulary(table: Table) -> tuple[Any, Any]:
    """The handle of a module's vocabulary, and the type of its numbers."""
    import tensorflow as tf

    function, _, look_up = graph_of(table)
    captures = dict(zip([tensor.name for tensor in function.inputs[1:]], function.captured_inputs, strict=True))
    handle = {node_name(name): captured for name, captured in captures.items()}.get(node_name(look_up.input[0]))
    if handle is None or look_up.attr["Tin"].type != tf.string.as_datatype_enum:
        raise NoWordTableError("its vocabulary is not a table of words")
    return handle, tf.dtypes.as_dtype(look_up.attr["Tout"].type)


def _find_look_up(nodes: Any) -> Any:
    """The node of a graph that looks words up; else a NoWordTableError says why there is not one."""
    found = [node for node in nodes if node.op == "LookupTableFindV2"]
    if len(found) == 1:
        return found[0]
    hashes = any(node.op.startswith("StringToHashBucket") for node in nodes)
    reason = "its words are hashed (StringToHashBucket), so that there is" if hashes and not found else "it has"
    raise NoWordTableError(f"{reason} no vocabulary" if not found else f"it has {len(found)} vocabularies")


def _chain(look_up: Any, nodes: Mapping[str, Any], text: str) -> list[Any]:
    """The operations on the text before a look-up, the first one first, without the split at white space."""
    import tensorflow as tf

    found: list[Any] = []
    name, splits = look_up.input[1], 0
    while node_name(name) != text:
        node = nodes[node_name(name)]
        # The words are the last of what makes a sparse tensor.
        name = node.input[-1] if node.op == "RaggedTensorToSparse" else node.input[0]
        if node.op == "StringSplitV2" and not found:
            separator, splits = nodes[node_name(node.input[1])], splits + 1
            if separator.op != "Const" or tf.make_ndarray(separator.attr["value"].tensor).item() != b"":
                raise NoWordTableError("it does not split texts at white space")
        elif node.op in ("StringLower", "StaticRegexReplace") and splits:
            found.append(node)
        elif node.op not in ("Identity", "RaggedTensorToSparse"):
            raise NoWordTableError(f"it prepares texts with the operation {node.op}")
    if splits != 1:
        raise NoWordTableError("it does not split texts at white space once")
    return found[::-1]


def _normalization(chain: Sequence[Any]) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    lower, replace = None, []
    for number, node in enumerate(chain):
        if node.op == "StaticRegexReplace" and node.attr["replace_global"].b:
            replace.append(_for_python(node.attr["pattern"].s.decode(), node.attr["rewrite"].s.decode()))
        elif node.op == "StringLower" and number == 0:
            lower = "unicode" if node.attr["encoding"].s == b"utf-8" else "ascii"
        else:
            raise NoWordTableError(f"it prepares texts with {node.op} after {number} other operations")
    return lower, tuple(replace)


def _for_python(pattern: str, rewrite: str) -> tuple[str, str]:
    """A regular expression of TensorFlow (RE2) and its rewrite for `re.sub`, if they have one meaning there."""
    translated = pattern.replace("[:punct:]", re.escape(string.punctuation)).replace("[:space:]", r" \t\n\r\f\v")
    try:
        other = {str(part) for part in _operations(_parser.parse(translated))} - _ALIKE
    except re.error as error:
        raise NoWordTableError(f"Python does not read its regular expression {pattern!r}: {error}") from error
    if other or "{," in pattern or "[:" in translated or "\\" in rewrite or re.search(translated, "") is not None:
        raise NoWordTableError(f"Python would read its regular expression {pattern!r} -> {rewrite!r} otherwise")
    return translated, rewrite


def _operations(parsed: Any) -> Iterator[Any]:
    """The operations of a parsed pattern, also of the patterns inside."""
    if isinstance(parsed, (list, tuple, _parser.SubPattern)):
        for part in parsed:
            yield from _operations(part)
    elif isinstance(parsed, _constants._NamedIntConstant) and parsed is not _constants.MAXREPEAT:
        yield parsed


def _decoded(words: Iterable[bytes]) -> list[str]:
    """Words as text, sorted."""
    try:
        return sorted(word.decode() for word in words)
    except UnicodeDecodeError as error:
        raise NoWordTableError(f"its vocabulary is not UTF-8: {error}") from error


def _by_rows(table: Table, words: Sequence[str], found: WordTable) -> tuple[str, ...]:
    """The words by their rows, one for each; `found` lacks the vocabulary."""
    by_row: dict[int, str] = {}
    parts = max(1, len(words) // WORDS_AT_ONCE)
    for part in (words[start::parts] for start in range(parts)):
        by_row |= zip(_rows(table, part, found), part, strict=True)
    if len(by_row) != len(words):
        raise NoWordTableError("several words have the same row of its table")
    return tuple(by_row.get(row, "") for row in range(int(table.variable.shape[0])))


def _rows(table: Table, words: Sequence[str], found: WordTable) -> list[int]:
    """The row of each of at least two words.

    Each bit of a word's number makes two texts, of the words that have it and of the others. A row that is in one text
    of each bit belongs to the word of that number, if no other row does. Where a regular expression matches across
    words, each makes a text of its own.
    """
    bits = (len(words) - 1).bit_length()
    numbers = np.arange(len(words))
    halves = [[word for n, word in enumerate(words) if n >> bit & 1 == has] for bit in range(bits) for has in (0, 1)]
    bags = table.bags(np.array([*map(" ".join, halves)], dtype=object), check=False)
    lengths = np.diff(bags.splits)
    rows, place = np.unique(bags.ids, return_inverse=True)
    seen = np.zeros((len(rows), len(halves)), bool)
    seen[place, np.repeat(np.arange(len(halves)), lengths)] = True
    own = seen[:, 1::2] @ (1 << np.arange(bits))
    divisors = {None: np.ones(len(halves)), "count": lengths, "root": np.sqrt(lengths)}[found.divide]
    if (
        (seen[:, 0::2] ^ seen[:, 1::2]).all()
        and np.array_equal(np.sort(own), numbers)
        and np.allclose(bags.weights * np.repeat(divisors, lengths), 1, rtol=1e-5)
    ):
        return list(rows[np.argsort(own)].tolist())
    if all(found.words(" ".join(half)) == half for half in halves):
        raise NoWordTableError("not every word has one row of its table")
    alone = table.bags(np.array(words, dtype=object), check=False)
    if (np.diff(alone.splits) != 1).any() or not np.allclose(alone.weights, 1, rtol=1e-6):
        raise NoWordTableError("not every word has one row of its table")
    return list(alone.ids.tolist())


def _row(table: Table, texts: Sequence[str], what: str) -> int | None:
    """The one row of all these texts; `None` for none."""
    bags = table.bags(np.array(texts, dtype=object), check=False)
    rows = {tuple(ids.tolist()) for ids in np.split(bags.ids, bags.splits[1:-1])}
    if len(rows) != 1 or len(min(rows)) > 1 or not np.allclose(bags.weights, 1, rtol=1e-6):
        raise NoWordTableError(f"{what} {len({*bags.ids.tolist()})} rows of its table")
    return next(iter(min(rows)), None)


def _divisor(table: Table, one: str, other: str) -> str | None:
    """What the sum is divided by, from the weights of three words, two of them the same."""
    weights = sorted(table.bags(np.array([f"{one} {one} {other}"], dtype=object), check=False).weights.tolist())
    for name, divisor in ((None, 1.0), ("count", 3.0), ("root", 3**0.5)):
        if len(weights) == 2 and np.allclose(weights, [1 / divisor, 2 / divisor], rtol=1e-5):
            return name
    raise NoWordTableError(f"it adds rows with the weights {weights}, which are neither a sum nor a mean")
