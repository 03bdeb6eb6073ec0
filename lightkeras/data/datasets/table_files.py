"""Readers of tables: CSV and other text files, JSON Lines, Parquet, pandas, arrays."""

from __future__ import annotations

import codecs
import collections
import csv
import dataclasses
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from lightkeras.data.datasets.column_arrays import Numbers, Texts, in_arrays
from lightkeras.data.datasets.columns import Columns, RowNames
from lightkeras.data.datasets.csv_files import read_cells

JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_WORD = re.compile(r"[^ \t\r\n]+")
_NOT_ONE_LINE = -1
"""In place of the line of the names, if there are lines before it or it spans several."""


def read_file(path: str | Path) -> Columns:
    """Reads a table in a file: JSON Lines or Parquet by its suffix, else text as `TableFile` reads it.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It cannot be read, or has no rows or names of columns that are not unique.
        ImportError: The file is Parquet, and pyarrow is not installed.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix in JSON_LINES:
        return _read_json_lines(path)
    if suffix in PARQUET:
        return _read_parquet(path)
    return TableFile(path).read()


def is_frame(table: Any) -> bool:
    """Whether this is a DataFrame of pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(table, pandas.DataFrame)


@final
@dataclasses.dataclass(frozen=True)
class TableFile:
    """A table in a text file: UTF-8, one row per line, fields in double quotes where they hold a separator.

    Args:
        path: The file.
        columns: Names of the columns, if the file has no header line; `None` takes its first line.
        separator: Character between two fields; a space means any number of spaces and
            tabs. `None` derives it from the suffix: a comma for `.csv`, a tab for `.tsv`, else a space.

    Raises:
        ValueError: `separator` is not a single character, a column is named twice, or the suffix is that of JSON
            Lines or Parquet.

    Examples:
        ```python
        import lightkeras as lk

        from pathlib import Path

        Path("cars.txt").write_text("18.0 8 3504\\n27.0 4 2130\\n")
        file = lk.data.TableFile("cars.txt", columns=["mpg", "cylinders", "weight"])  # has no header line
        cars = lk.data.Table(file, "mpg", test=0, validation=0)
        cars.prepare(lk.Lookup())
        print(cars.features)  # ('cylinders', 'weight')
        ```
    """

    path: str | Path
    columns: Sequence[str] | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        if self.separator is not None and len(self.separator) != 1:
            raise ValueError(f"TableFile(separator={self.separator!r}): expected one character, such as ',' or ' '.")
        suffix = Path(self.path).suffix.lower()
        if suffix in (*JSON_LINES, *PARQUET):
            raise ValueError(f"TableFile({str(self.path)!r}) is for text: give the path alone to read {suffix} files.")
        if isinstance(self.columns, str):
            raise ValueError(f"TableFile(columns={self.columns!r}): expected a list of names, [{self.columns!r}].")
        if self.columns is not None:
            _check_names(self.columns, "TableFile(columns=...)")

    def read(self) -> Columns:
        """Reads the file.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: It is not UTF-8, has no rows, names a column twice or leaves it without a name, or the number
                of fields in a line differs from the number of columns.
        """
        path = Path(self.path).expanduser()
        separator = self.separator or _SEPARATORS.get(path.suffix.lower(), " ")
        content = _content_of(path)
        rows = _rows(io.BytesIO(content), separator, path)
        names, header = self.columns, 0
        if names is None:
            header, first = next(rows, (0, [""]))
            if header == 0:
                raise ValueError(f"{path} is empty: expected a line with the names of the columns, and rows below it.")
            names = [name.strip() for name in first]
            _check_names(names, f"The first line of {path}")
            if header > 1 or any("\n" in name for name in first):
                header = _NOT_ONE_LINE
        if separator != " " and header != _NOT_ONE_LINE:
            read = read_cells(content, separator, len(names), header=header == 1)
            if read is not None:
                found = RowNames(len(read[0]), _LineNames(path, separator, skipped=header))
                return Columns(dict(zip(names, read, strict=True)), found, str(path))
        lines, cells = [], []
        for line, row in rows:
            if len(row) != len(names):
                raise ValueError(
                    f"Line {line} of {path} has {len(row)} field{'s' * (len(row) != 1)}, and there are {len(names)} "
                    f"columns ({', '.join(names)}): expected one field for each. Correct the line, or set the "
                    "separator with TableFile(separator=...)."
                )
            lines.append(line)
            cells.append(row)
        if not cells:
            raise ValueError(f"{path} has no rows: expected at least one line below the names.")
        values = {name: Texts([row[number] for row in cells]) for number, name in enumerate(names)}
        return Columns(values, RowNames(len(lines), lambda row: f"line {lines[row]}"), str(path))


@final
class _LineNames:
    """Names of the rows of a CSV file by their lines, `"line 33"`; the file is read again, up to the row.

    Args:
        path: The file.
        separator: Character between two fields.
        skipped: Rows before the first one.
    """

    def __init__(self, path: Path, separator: str, skipped: int) -> None:
        self._path, self._separator, self._skipped = path, separator, skipped
        self._rows: Iterator[tuple[int, list[str]]] | None = None
        self._lines: list[int] = []

    def __call__(self, row: int) -> str:
        if self._rows is None:
            self._rows = _rows(io.BytesIO(_content_of(self._path)), self._separator, self._path)
        while len(self._lines) <= row + self._skipped:
            self._lines.append(next(self._rows)[0])
        return f"line {self._lines[row + self._skipped]}"


def _rows(content: io.BytesIO, separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Numbers, from 1, and fields of the lines of a file in UTF-8 that are not blank."""
    if separator == " ":
        for number, line in enumerate(content.getvalue().decode().splitlines(), 1):
            if line.strip():
                yield number, _words(line, number, path)
        return
    # Not `splitlines`, which also ends a line at what a text may hold, such as U+2028.
    reader = csv.reader(io.TextIOWrapper(content, "utf-8", newline=""), delimiter=separator, strict=True)
    while True:
        at = reader.line_num + 1  # a field in quotes may span several lines
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"Line {at} of {path} cannot be read: {error}.") from error
        if row is None:
            return
        if row:
            yield at, row


def from_arrays(arrays: Mapping[str, Any]) -> Columns:
    """Converts arrays or lists to columns; a ValueError unless all have one axis of the same length."""
    values = {str(name): _as_array(name, column) for name, column in arrays.items()}
    if not values:
        raise ValueError("Received no columns: expected a dict of arrays, one for each column.")
    for name, array in values.items():
        if array.ndim != 1:
            raise ValueError(f"Column {name!r} has shape {array.shape}: expected one value per row, [rows].")
    lengths = {name: len(array) for name, array in values.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"Columns differ in their number of rows: {found}. Expected them equally long.")
    count = next(iter(lengths.values()))
    if count == 0:
        raise ValueError("The columns are empty: expected at least one row.")
    cells = {
        name: Numbers(array) if Numbers.can_hold(array) else in_arrays(array.tolist()) for name, array in values.items()
    }
    return Columns(cells, _numbered(count), "the table")


def _as_array(name: Any, column: Any) -> np.ndarray:
    try:
        array = np.asarray(column)
    except ValueError as error:
        raise ValueError(f"Column {name!r} is not an array: {error} Expected one value per row, [rows].") from error
    # Of nanoseconds, NumPy makes integers.
    return array.astype("datetime64[us]") if array.dtype.kind == "M" else array


def from_frame(frame: Any) -> Columns:
    """Converts a DataFrame of pandas to columns; a ValueError if it has no rows, or a column twice."""
    names = [str(name) for name in frame.columns]
    if not names or not len(frame):
        raise ValueError("The DataFrame is empty: expected at least one column and one row.")
    _check_names(names, "The DataFrame")
    columns = [frame.iloc[:, number] for number in range(len(names))]
    values = [_cells_of(column) for column in columns]
    return Columns(dict(zip(names, values, strict=True)), _numbered(len(frame)), "the DataFrame")


def _cells_of(column: Any) -> Sequence[Any]:
    """The cells of a column of pandas."""
    if isinstance(column.dtype, np.dtype) and Numbers.can_hold(column.to_numpy()):
        return Numbers(column.to_numpy())
    return in_arrays(column.astype(object).where(column.notna(), None).tolist())


def _read_json_lines(path: Path) -> Columns:
    found: list[dict[str, Any]] = []
    lines = []
    for number, line in enumerate(_content_of(path).decode().split("\n"), 1):
        if line.strip():
            found.append(_json_object(line, f"Line {number} of {path}"))
            lines.append(number)
    if not found:
        raise ValueError(f"{path} is empty: expected one JSON object on each line.")
    names = dict.fromkeys(name for row in found for name in row)
    if not names:
        raise ValueError(f"{path} has no columns: expected JSON objects with a value for each column.")
    values = {name: in_arrays([row.get(name) for row in found]) for name in names}
    return Columns(values, RowNames(len(lines), lambda row: f"line {lines[row]}"), str(path))


def _json_object(line: str, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs) or "" in row:
            _check_names([name for name, _ in pairs], where)
        return row

    try:
        row = json.loads(line, object_pairs_hook=unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}. Expected one JSON object on each line.") from error
    if not isinstance(row, dict):
        raise ValueError(f'{where} holds {line.strip()[:60]}: expected a JSON object, such as {{"x": 1}}.')
    return row


def _read_parquet(path: Path) -> Columns:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f'Reading {path} needs pyarrow, which is not installed: python -m pip install "lightkeras[parquet]"'
        ) from error
    _check_exists(path)
    try:
        # The schema of the file alone: no partitions that the names of its folders seem to give.
        table = pyarrow.parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
    _check_names(table.column_names, f"The schema of {path}")
    if not table.num_rows or not table.num_columns:
        raise ValueError(f"{path} has no rows: expected at least one, of at least one column.")
    values = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pyarrow.types.is_timestamp(column.type):  # nanoseconds need pandas
            column = column.cast(pyarrow.timestamp("us", column.type.tz), safe=False)
        values[name] = _cells_of_arrow(column)
    return Columns(values, _numbered(table.num_rows), str(path))


def _cells_of_arrow(column: Any) -> Sequence[Any]:
    import pyarrow

    kind = column.type
    if pyarrow.types.is_floating(kind) or (pyarrow.types.is_integer(kind) and not column.null_count):
        return Numbers(column.to_numpy())
    if (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)) and not column.null_count:
        return Texts(column)
    return column.to_pylist()  # type: ignore[no-any-return]


def _numbered(rows: int) -> RowNames:
    return RowNames(rows, lambda row: f"row {row}")


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}; expected a table: CSV or other text, JSON Lines or Parquet.")


def _content_of(path: Path) -> bytes:
    """The content of a text file without a byte order mark; a ValueError that names the line if it is not UTF-8."""
    _check_exists(path)
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        if not content.isascii():
            content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"Line {line} of {path} is not UTF-8: it holds the byte 0x{content[error.start]:02x} ({error.reason}). "
            "Convert the file, for example with `iconv -f latin1 -t utf-8`."
        ) from error
    return content


def _words(line: str, number: int, path: Path) -> list[str]:
    if '"' not in line:
        return _WORD.findall(line)
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.quotes, lexer.escape, lexer.commenters = True, '"', "", ""
    try:
        return list(lexer)
    except ValueError as error:
        raise ValueError(
            f"Line {number} of {path} cannot be read: {error}; expected double quotes in pairs."
        ) from error


def _check_names(names: Sequence[str], where: str) -> None:
    for number, name in enumerate(names):
        if not name:
            raise ValueError(f"{where} leaves column {number + 1} without a name: expected one for each column.")
    twice = next((name for name, count in collections.Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{where} names the column {twice!r} twice: expected each name once.")
