"""Fast reading of CSV files, by Arrow, where its result is that of Python's `csv` module."""

from __future__ import annotations

import concurrent.futures
import csv
import functools
import os
import re
from collections.abc import Collection, Sequence
from typing import Any, final

import numpy as np

from lightkeras.data.datasets.column_arrays import PlainNumbers, Texts, offsets_of
from lightkeras.data.datasets.columns import MISSING, NUMBER, Cells

_BLOCK_BYTES = 1 << 23
"""Bytes that a thread of Arrow reads at a time; a longer row is left to the `csv` module."""

_SEARCHED_BYTES = 1 << 20
"""Bytes that are searched at a time, to limit memory."""

_SAMPLED_BYTES = 1 << 16
"""Bytes at the beginning of a longer file by which columns are taken for numbers."""

_IN_NUMBERS = "0123456789+-.eE"
_FIRST_CODE = re.compile(rb'[ \t"]*-?[ \t]*0[0-9]')


def read_cells(content: bytes, separator: str, count: int, header: bool) -> list[Cells] | None:
    """The cells of a CSV file, column by column.

    Args:
        content: The file, UTF-8.
        separator: Character between two fields.
        count: Number of columns.
        header: Whether the first line has the names of the columns; then it is one line, in any case.

    Returns:
        `None` where the `csv` module may read other cells, or raise an error, which names the line.
    """
    quotes = _Quotes(content) if b'"' in content else None
    if (
        not separator.isascii()
        or separator in '"\r\n'
        or content[:1] in b"\r\n"
        or (b"\r" in content and content.count(b"\r") != content.count(b"\r\n"))
        or (quotes is not None and not quotes.enclose_fields(separator))
    ):
        return None
    reader = _Reader(content, separator, count, header, quotes is not None and quotes.enclose_lines())
    numbers = reader.number_columns()
    return (reader.cells(numbers) if numbers else None) or reader.cells()


@final
class _Reader:
    """Reads columns of a CSV file by Arrow."""

    def __init__(self, content: bytes, separator: str, count: int, header: bool, newlines: bool) -> None:
        self._content, self._separator = content, separator
        self._names = [str(number) for number in range(count)]
        self._header, self._newlines = header, newlines

    def cells(self, numbers: Collection[str] = ()) -> list[Cells] | None:
        """The cells of all columns; `None` unless Arrow can read them and these columns are plain numbers."""
        table = self._table(self._content, numbers)
        limit = csv.field_size_limit()
        if table is None or table.num_rows == 0:
            return None
        columns = dict(zip(self._names, table.columns, strict=True))
        texts = [column for name, column in columns.items() if name not in numbers]
        if len(self._content) > limit and any(_longest(column) > limit for column in texts):
            return None
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            found = [
                threads.submit(PlainNumbers.of, column, functools.partial(self._texts, name))
                for name, column in columns.items()
                if name in numbers
            ]
        plain = [each.result() for each in found]
        if any(each is None for each in plain):
            return None
        left = iter(plain)
        return [next(left) if name in numbers else Texts(column) for name, column in columns.items()]  # type: ignore[misc]

    def number_columns(self) -> list[str]:
        """The columns that are numbers in the first lines, if no field of the file looks like a code such as `007`."""
        end = self._content.rfind(b"\n", 0, _SAMPLED_BYTES) + 1
        if len(self._content) <= _SAMPLED_BYTES or self._separator in _IN_NUMBERS:
            return []
        sample = self._table(self._content[:end])
        if sample is None or sample.num_rows == 0:
            return []
        kinds = {name: Texts(column).kinds for name, column in zip(self._names, sample.columns, strict=True)}
        found = [name for name, of_rows in kinds.items() if of_rows.max() == NUMBER]
        return [] if not found or self._has_long_fields() or _holds_codes(self._content, self._separator) else found

    def _table(self, content: bytes, numbers: Collection[str] = (), only: Sequence[str] = ()) -> Any:
        """A table of Arrow; `None` where it raises an error. Of `numbers`, a text of `MISSING` is null."""
        import pyarrow
        import pyarrow.csv

        types = {name: pyarrow.float64() if name in numbers else pyarrow.string() for name in self._names}
        try:
            return pyarrow.csv.read_csv(
                pyarrow.BufferReader(content),
                pyarrow.csv.ReadOptions(
                    block_size=_BLOCK_BYTES, column_names=self._names, skip_rows_after_names=int(self._header)
                ),
                pyarrow.csv.ParseOptions(delimiter=self._separator, newlines_in_values=self._newlines),
                pyarrow.csv.ConvertOptions(
                    column_types=types,
                    null_values=list(MISSING),
                    strings_can_be_null=False,
                    check_utf8=False,
                    include_columns=list(only),
                ),
            )
        except pyarrow.ArrowException:
            return None

    def _texts(self, name: str) -> Texts:
        return Texts(self._table(self._content, only=[name]).column(0))

    def _has_long_fields(self) -> bool:
        """Whether a field without a separator in it may be longer than the `csv` module reads."""
        length = csv.field_size_limit() // 2  # a longer field holds a whole piece of this length
        ends = [self._separator.encode(), b"\n"]
        return any(
            all(self._content.find(end, start, start + length) < 0 for end in ends)
            for start in range(0, len(self._content) - length, length)
        )


def _holds_codes(content: bytes, separator: str) -> bool:
    """Whether a field may begin with a zero and another digit: it is a code, which Arrow takes for a number."""
    data: Any = np.frombuffer(content, np.uint8)
    ends = np.isin(np.arange(256), list(f'{separator}\r\n" \t'.encode()))
    signs, spaces = (np.isin(np.arange(256), list(each)) for each in (b"-", b" \t"))

    def holds(start: int) -> bool:
        part = data[start : start + _SEARCHED_BYTES + 2]
        before, zero, after = part[:-2], part[1:-1], part[2:]
        found = (zero == ord("0")) & (after - ord("0") < 10) & (before - ord("0") >= 10) & (before != ord("."))
        places = np.flatnonzero(found) + start
        for skipped in (signs, spaces):
            places = places - skipped.take(data.take(places, mode="clip"))
        return bool(ends.take(data.take(places, mode="clip")).any())

    if _FIRST_CODE.match(content):
        return True
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        return any(threads.map(holds, range(0, len(data), _SEARCHED_BYTES)))


def _longest(column: Any) -> int:
    """Bytes of the longest text."""
    return max(int(np.diff(offsets_of(chunk)).max(initial=0)) for chunk in column.chunks)


@final
class _Quotes:
    """The places of the double quotes of a file."""

    def __init__(self, content: bytes) -> None:
        self._data: Any = np.frombuffer(content, np.uint8)
        found = self._find()
        self._is_quote = self._data.take(found) == ord('"')
        self._places = found[self._is_quote]

    def enclose_fields(self, separator: str) -> bool:
        """Whether all enclose whole fields, or are doubled inside one; the two modules differ about others."""
        if len(self._places) % 2:
            return False
        ends = np.isin(np.arange(256), list(f'{separator}\r\n"'.encode()))
        before, after = self._places[::2] - 1, self._places[1::2] + 1
        opened = ends.take(self._data.take(before, mode="clip")) | (before < 0)
        closed = ends.take(self._data.take(after, mode="clip")) | (after == len(self._data))
        return bool(opened.all() and closed.all())

    def enclose_lines(self) -> bool:
        """Whether a field spans several lines."""
        return bool((np.cumsum(self._is_quote, dtype=np.uint8)[~self._is_quote] % 2).any())

    def _find(self) -> np.ndarray:
        """The places of the quotes and of the ends of lines."""

        def places(start: int) -> np.ndarray:
            part = self._data[start : start + _SEARCHED_BYTES]
            return np.flatnonzero((part == ord('"')) | (part == ord("\n"))) + start

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            found = list(threads.map(places, range(0, len(self._data), _SEARCHED_BYTES)))
        return np.concatenate([np.zeros(0, np.int64), *found])
