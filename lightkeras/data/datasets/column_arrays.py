"""Columns of a table in arrays, so that a million cells are converted at once: numbers in NumPy's, texts in Arrow's.

The functions of `columns.py`, which convert one cell, define what a cell means. A number that is written as plainly as
almost all are, is recognized by its bytes and read by Arrow, which rounds correctly, as Python does; those functions
are called for every other text, once for each one that differs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np

from lightkeras.data.datasets.columns import MISSING, NOTHING, NUMBER, TEXT, Cells, kinds_and_numbers

if TYPE_CHECKING:
    import pyarrow

_LIMIT = float(np.finfo(np.float32).max)
_DIGITS = np.isin(np.arange(256), list(b"0123456789"))
_PLAIN = np.isin(np.arange(256), list(b"0123456789-."))
_LETTERS = np.isin(np.arange(256), list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))
_PRINTED = (np.arange(256) > ord(" ")) & (np.arange(256) < 127)
_MOST_ARROW = 2**31 - 1
"""Bytes of the texts that an Arrow array of 32-bit offsets holds."""


@final
class Numbers(Cells):
    """Cells of a NumPy array of numbers or booleans of at most 64 bits; `None` where it is NaN."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @staticmethod
    def can_hold(array: np.ndarray) -> bool:
        """Whether an array is one of these numbers."""
        return array.dtype.kind in "biuf" and array.dtype.itemsize <= 8

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: Any) -> Any:
        value = self._array[row].tolist()
        return None if value != value else value

    def __iter__(self) -> Iterator[Any]:
        return iter(_with_none(self._array))

    @functools.cached_property
    def _kinds_and_numbers(self) -> tuple[np.ndarray, np.ndarray]:
        kinds = np.where(np.isnan(self._array), NOTHING, NUMBER).astype(np.uint8)
        numbers = self._array.astype(np.float64)
        return kinds, np.where(np.abs(numbers) <= _LIMIT, numbers, np.nan)

    def distinct(self) -> tuple[list[Any], np.ndarray]:
        values, first, codes = np.unique(self._array, return_index=True, return_inverse=True)
        order = np.argsort(first)
        positions = np.empty(len(order), np.int64)
        positions[order] = np.arange(len(order))
        return _with_none(values[order]), positions[codes]

    def take(self, rows: np.ndarray) -> Numbers:
        return Numbers(self._array[rows])


@final
class Texts(Cells):
    """Cells that are texts of a file, in Arrow arrays without nulls.

    Args:
        array: The texts.
        rows: The rows of `array` that these cells are; `None` for all.
        read: `kinds` and `numbers`; `None` computes them when they are needed.
    """

    def __init__(
        self,
        array: pyarrow.ChunkedArray | Sequence[str],
        rows: np.ndarray | None = None,
        read: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        import pyarrow

        if isinstance(array, pyarrow.Array):
            array = pyarrow.chunked_array([array])
        elif not isinstance(array, pyarrow.ChunkedArray):
            array = pyarrow.chunked_array([pyarrow.array(array, pyarrow.large_string())])
        self._given: Any = array
        self._rows = rows
        if read is not None:
            self._kinds_and_numbers = read

    def __len__(self) -> int:
        return len(self._given if self._rows is None else self._rows)

    def __getitem__(self, row: Any) -> Any:
        return self._given[int(row if self._rows is None else self._rows[row])].as_py()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._array.to_pylist())

    @functools.cached_property
    def _array(self) -> Any:
        """The texts in one piece. Columns of plain numbers never need it."""
        import pyarrow

        chunks = self._given.cast(pyarrow.large_string()) if self._given.nbytes > _MOST_ARROW else self._given
        array = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
        return array if self._rows is None else array.take(pyarrow.array(self._rows))

    @functools.cached_property
    def _kinds_and_numbers(self) -> tuple[np.ndarray, np.ndarray]:
        parts = [_kinds_and_numbers(chunk) for chunk in self._given.chunks if len(chunk)]
        none = np.zeros(0, np.uint8), np.zeros(0)
        kinds, numbers = map(np.concatenate, zip(*(parts or [none]), strict=True))
        return kinds, numbers

    def distinct(self) -> tuple[list[Any], np.ndarray]:
        return _distinct(self._array)

    def take(self, rows: np.ndarray) -> Texts:
        kinds, numbers = self._kinds_and_numbers
        chosen = rows if self._rows is None else self._rows[rows]
        return Texts(self._given, chosen, (kinds[rows], numbers[rows]))


@final
class PlainNumbers(Cells):
    """Cells of a text file that are plain numbers or have no value; their texts are read when they are needed.

    Args:
        read: `kinds` and `numbers`.
        texts: Reads the texts of the cells.
    """

    def __init__(self, read: tuple[np.ndarray, np.ndarray], texts: Callable[[], Texts]) -> None:
        self._read = read
        self._texts = functools.cache(texts)

    @classmethod
    def of(cls, array: pyarrow.ChunkedArray, texts: Callable[[], Texts]) -> PlainNumbers | None:
        """The cells of an Arrow array of float64, where null is no value; `None` if float32 cannot hold one of them."""
        numbers = array.to_numpy()
        if np.count_nonzero(np.abs(numbers) <= _LIMIT) < len(numbers) - array.null_count:
            return None
        kinds = np.full(len(numbers), NUMBER, np.uint8)
        if array.null_count:
            kinds[array.is_null().to_numpy()] = NOTHING
        return cls((kinds, numbers), texts)

    @property
    def _kinds_and_numbers(self) -> tuple[np.ndarray, np.ndarray]:
        return self._read

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: Any) -> Any:
        return self._texts()[row]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._texts())

    def distinct(self) -> tuple[list[Any], np.ndarray]:
        return self._texts().distinct()

    def take(self, rows: np.ndarray) -> PlainNumbers:
        return PlainNumbers((self.kinds[rows], self.numbers[rows]), lambda: self._texts().take(rows))


def _kinds_and_numbers(array: Any) -> tuple[np.ndarray, np.ndarray]:
    """`Cells.kinds` and `Cells.numbers` of an Arrow array of texts."""
    kinds, numbers = np.full(len(array), TEXT, np.uint8), np.full(len(array), np.nan)
    empty, plain, words = _by_first_byte(array)
    kinds[empty] = NOTHING
    found = _plain_numbers(array, plain)
    if found is None:
        plain = np.zeros(len(array), bool)
    else:
        numbers[plain] = found
        plain = ~np.isnan(numbers)
        kinds[plain] = NUMBER
    others = np.flatnonzero(~(empty | plain | words))
    if len(others):
        values, codes = _distinct(array.take(others))
        kinds[others], numbers[others] = (each[codes] for each in kinds_and_numbers(values))
    return kinds, numbers


def in_arrays(values: list[Any]) -> Sequence[Any]:
    """The same cells as `Numbers` or `Texts`, if they are numbers of one type or texts; `None` only among floats."""
    kinds = set(map(type, values))
    try:
        if kinds <= {float, type(None)}:
            return Numbers(np.array(values, np.float64))
        if kinds in ({int}, {bool}):
            return Numbers(np.array(values, np.int64 if kinds == {int} else np.bool_))
        return Texts(values) if kinds == {str} else values
    except (OverflowError, UnicodeEncodeError):  # more than 64 bits, or half of a surrogate pair
        return values


def _with_none(array: np.ndarray) -> list[Any]:
    missing = np.isnan(array)
    if not missing.any():
        return list(array.tolist())
    found = array.astype(object)
    found[missing] = None
    return list(found)


def offsets_of(array: Any) -> np.ndarray:
    """Where the text of each row begins and the last one ends, in the bytes of an Arrow array."""
    import pyarrow

    dtype = np.int64 if pyarrow.types.is_large_string(array.type) else np.int32
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array) + 1]


def _by_first_byte(array: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks of rows: empty texts, those that may be plain numbers, and words, which are no numbers, dates or `MISSING`.

    A plain number begins with a digit, a minus or a point, and not with zeros that make it a code.
    """
    offsets = offsets_of(array)
    starts, ends = offsets[:-1], offsets[1:]
    buffer = array.buffers()[2]
    content = np.frombuffer(b"\0" if buffer is None or buffer.size == 0 else buffer, np.uint8)
    empty = starts == ends
    first = content.take(starts, mode="clip")
    plain = _PLAIN.take(first) & ~empty
    rest = ~(plain | empty)
    words = rest & _LETTERS.take(first) & (ends - starts > max(map(len, MISSING))) if rest.any() else rest
    if words.any():
        words &= _PRINTED.take(content.take(ends - 1, mode="clip"))
    digits = starts + (first == ord("-"))
    zeros = np.flatnonzero(plain & (content.take(digits, mode="clip") == ord("0")) & (digits + 1 < ends))
    plain[zeros[_DIGITS.take(content.take(digits[zeros] + 1))]] = False
    return empty, plain, words


def _plain_numbers(array: Any, plain: np.ndarray) -> np.ndarray | None:
    """The numbers of these rows; NaN for one that float32 cannot hold, `None` if some are not plain numbers."""
    import pyarrow

    try:
        chosen = array if plain.all() else array.filter(pyarrow.array(plain))
        numbers = chosen.cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
    except pyarrow.ArrowInvalid:
        return None
    wrong = ~(np.abs(numbers) <= _LIMIT)  # also NaN, written with a sign
    return np.where(wrong, np.nan, numbers) if wrong.any() else numbers


def _distinct(array: Any) -> tuple[list[str], np.ndarray]:
    encoded = array.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
