"""Columns of a table, read from a file or from arrays, before conversion to numbers."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from lightkeras.system.messages import did_you_mean

MISSING = ("?", "", "NA", "N/A", "nan", "NaN", "null", "None")
"""Texts that stand for a missing value."""

_NUMBER = re.compile(r"[+-]?([1-9][0-9]*|0)?(\.[0-9]*)?([eE][+-]?[0-9]+)?")
"""A number as text. Not 007, 1_000 or Arabic digits, which Python's `float` reads too: they are rather codes."""
_WHOLE = re.compile(r"(-?[1-9][0-9]*|0)\.0")

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


@final
@dataclasses.dataclass(frozen=True)
class Columns:
    """A table by columns of equal length, with its name and those of its rows (`"line 33"`) for errors."""

    values: Mapping[str, Sequence[Any]]
    rows: Sequence[str]
    name: str

    def __getitem__(self, column: str) -> Sequence[Any]:
        if column not in self.values:
            raise ValueError(f"{self.name} has no column {column!r}. {did_you_mean(column, self.values)}")
        return self.values[column]


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
        ValueError: `separator` is not a single character, or a column is named twice.
    """

    path: str | Path
    columns: Sequence[str] | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        if self.separator is not None and len(self.separator) != 1:
            raise ValueError(f"TableFile(separator={self.separator!r}): expected one character, such as ',' or ' '.")
        if isinstance(self.columns, str):
            raise ValueError(f"TableFile(columns={self.columns!r}): expected a list of names, [{self.columns!r}].")
        if self.columns is not None:
            _check_names(self.columns, "TableFile(columns=...)")

    def read(self) -> Columns:
        """Reads the file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not UTF-8, has no rows, names a column twice or leaves it without a name, or the number
                of fields in a line differs from the number of columns.
        """
        path = Path(self.path).expanduser()
        rows = self._rows(_text_of(path), path)
        names = self.columns
        if names is None:
            _, first = next(rows, (0, None))
            if first is None:
                raise ValueError(f"{path} is empty: expected a line with the names of the columns, and rows below it.")
            names = [name.strip() for name in first]
            _check_names(names, f"The first line of {path}")
        lines, cells = [], []
        for line, row in rows:
            if len(row) != len(names):
                raise ValueError(
                    f"Line {line} of {path} has {len(row)} field{'s' * (len(row) != 1)}, and there are {len(names)} "
                    f"columns ({', '.join(names)}): expected one field for each. Correct the line, or set the "
                    "separator with TableFile(separator=...)."
                )
            lines.append(f"line {line}")
            cells.append(row)
        if not cells:
            raise ValueError(f"{path} has no rows: expected at least one line below the names.")
        return Columns({name: [row[number] for row in cells] for number, name in enumerate(names)}, lines, str(path))

    def _rows(self, text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
        """Numbers, from 1, and fields of the lines that are not blank."""
        separator = self.separator or _SEPARATORS.get(path.suffix.lower(), " ")
        if separator == " ":
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    yield number, _words(line, number, path)
            return
        reader = csv.reader(text.splitlines(keepends=True), delimiter=separator, strict=True)
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
    values = {name: np.asarray(column) for name, column in arrays.items()}
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
    return Columns({n: a.tolist() for n, a in values.items()}, [f"row {row}" for row in range(count)], "the table")


def is_missing(value: Any, text: bool = False) -> bool:
    """Whether a cell has no value: `None`, NaN, or one of `MISSING`; in a column of text, of these only `""`."""
    if isinstance(value, str):
        return value == "" if text else value.strip() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_number(value: Any, where: str) -> float:
    """Converts a cell, a number or its text; a ValueError unless it is a number that is finite in float32.

    Text is decimal digits with an optional sign, point and exponent. `where` names the cell in errors, as in
    `"Column 'weight' in line 4 of cars.csv"`.
    """
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    try:
        number = float(text)
    except (TypeError, ValueError):
        raise ValueError(f"{where} holds {text!r}: expected a number.") from None
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise ValueError(f"{where} holds {text!r}: expected a finite number, as float32 can hold it.")
    if isinstance(text, str) and not _is_number(text.strip()):
        code = ", and not a code with leading zeros" if text.strip().lstrip("+-").startswith("0") else ""
        raise ValueError(f"{where} holds {text!r}: expected a number{code}.")
    return number


def category_key(value: Any, text: bool = False) -> str:
    """Converts a category to text.

    1, 1.0, "1", "1.0" and " 1 " are the same category; "01", "+1", "1e0" and "1.00" are others.

    Args:
        value: The category: text or a number.
        text: Whether the column holds text: "1", "1.0" and " 1 " are three categories.
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    key = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    if text:
        return key
    whole = _WHOLE.fullmatch(key.strip())
    return whole[1] if whole else key.strip()


def category_order(key: str) -> tuple[bool, float, str]:
    """Sorts categories: numbers by their value, then texts."""
    return (False, float(key), key) if _is_number(key) else (True, 0.0, key)


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and any(digit.isdigit() for digit in re.split("[eE]", text)[0])


def parse_row(given: str | Mapping[str, Any], number: int) -> dict[str, Any]:
    """Converts a typed row to a dict: `"weight=2372,origin=Japan"`, a JSON object, or a dict.

    Raises a ValueError if it cannot be read or gives a column twice, a TypeError if it is neither text nor a mapping.
    """
    if isinstance(given, Mapping):
        return dict(given)
    if not isinstance(given, str):
        raise TypeError(f"Row {number} is {type(given).__name__} {given!r}: expected text or a dict.")
    if given.strip().startswith("{"):
        try:
            pairs = json.loads(given, object_pairs_hook=list)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Row {number} begins with a brace, but is not JSON: {error}.") from error
    else:
        pairs = []
        for part in given.split(","):
            name, equals, value = part.partition("=")
            if not equals or not name.strip():
                raise ValueError(
                    f"Row {number} is {given!r}: expected column=value,column=value or a JSON object, "
                    f"and {part.strip()!r} is neither."
                )
            pairs.append((name.strip(), value.strip()))
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"Row {number} gives {twice!r} twice: expected each column once.")
    return dict(pairs)


def _text_of(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}; expected a table as text.")
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"Line {line} of {path} is not UTF-8: it holds the byte 0x{content[error.start]:02x} ({error.reason}). "
            "Convert the file, for example with `iconv -f latin1 -t utf-8`."
        ) from error


def _words(line: str, number: int, path: Path) -> list[str]:
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
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{where} names the column {twice!r} twice: expected each name once.")
