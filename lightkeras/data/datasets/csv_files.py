"""Fast reading of CSV files, by Arrow, where its result is that of Python's `csv` module."""

from __future__ import annotations

import concurrent.futures
import csv
import os
from typing import Any, final

import numpy as np

from lightkeras.data.datasets.column_arrays import Texts, offsets_of

_BLOCK_BYTES = 1 << 23
"""Bytes that a thread of Arrow reads at a time; a longer row is left to the `csv` module."""

_SEARCHED_BYTES = 1 << 20
"""Bytes that are searched for quotes at a time, to limit memory."""


def read_texts(content: bytes, separator: str, count: int, header: bool) -> list[Texts] | None:
    """The cells of a CSV file, column by column.

    Args:
        content: The file, UTF-8.
        separator: Character between two fields.
        count: Number of columns.
        header: Whether the first line has the names of the columns; then it is one line, in any case.

    Returns:
        `None` where the `csv` module may read other cells, or raise an error, which names the line.
    """
    import pyarrow
    import pyarrow.csv

    quotes = _Quotes(content) if b'"' in content else None
    if (
        not separator.isascii()
        or separator in '"\r\n'
        or content[:1] in b"\r\n"
        or (b"\r" in content and content.count(b"\r") != content.count(b"\r\n"))
        or (quotes is not None and not quotes.enclose_fields(separator))
    ):
        return None
    names = [str(number) for number in range(count)]
    try:
        table = pyarrow.csv.read_csv(
            pyarrow.BufferReader(content),
            pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES, column_names=names, skip_rows_after_names=int(header)),
            pyarrow.csv.ParseOptions(
                delimiter=separator, newlines_in_values=quotes is not None and quotes.enclose_lines()
            ),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pyarrow.string()), strings_can_be_null=False, check_utf8=False
            ),
        )
    except pyarrow.ArrowException:
        return None
    limit = csv.field_size_limit()
    if table.num_rows == 0 or (len(content) > limit and any(_longest(column) > limit for column in table.columns)):
        return None
    return list(map(Texts, table.columns))


def _longest(column: Any) -> int:
    """Bytes of the longest text."""
    return max(int(np.diff(offsets_of(chunk)).max(initial=0)) for chunk in column.chunks)


@final
class _Quotes:
    """The places of the double quotes of a file."""

    def __init__(self, content: bytes) -> None:
        self._data: Any = np.frombuffer(content, np.uint8)
        self._places = self._find('"')

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
        return bool((np.searchsorted(self._places, self._find("\n")) % 2).any())

    def _find(self, character: str) -> np.ndarray:
        def places(start: int) -> np.ndarray:
            return np.flatnonzero(self._data[start : start + _SEARCHED_BYTES] == ord(character)) + start

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            found = list(threads.map(places, range(0, len(self._data), _SEARCHED_BYTES)))
        return np.concatenate([np.zeros(0, np.int64), *found])
