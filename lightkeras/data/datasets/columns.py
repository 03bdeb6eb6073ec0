"""Columns of a table as they were read, and the conversion of their cells to numbers, categories, dates and texts."""

from __future__ import annotations

import abc
import dataclasses
import datetime
import decimal
import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final

import numpy as np

from lightkeras.system.messages import did_you_mean

MISSING = ("?", "", "NA", "N/A", "nan", "NaN", "null", "None")
"""Texts that stand for a missing value."""

_NUMBER = re.compile(r"[+-]?(([1-9][0-9]*|0)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""A number as text. Not 007, 1_000 or Arabic digits, which Python's `float` reads too: they are rather codes."""
_WHOLE = re.compile(r"(-?[1-9][0-9]*|0)\.0")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?", re.ASCII)

Kind = Literal["number", "date", "text"]
"""What a column holds: see `kind_of`."""


KINDS: tuple[Kind | None, ...] = (None, "number", "date", "text", None)
"""Kinds of cells by their code in `Cells.kinds`: first a cell without a value, last one that is none of them."""
NOTHING, NUMBER, _, TEXT, OTHER = range(len(KINDS))


class Cells(Sequence[Any]):
    """The cells of a column as they were read, and what is computed of all of them at once."""

    @property
    def kinds(self) -> np.ndarray:
        """The kind of each cell, as its position in `KINDS`: uint8 `[rows]`."""
        return self._kinds_and_numbers[0]

    @property
    def numbers(self) -> np.ndarray:
        """The numbers of `as_number`, NaN where it raises an error or there is no value: float64 `[rows]`."""
        return self._kinds_and_numbers[1]

    @functools.cached_property
    @abc.abstractmethod
    def _kinds_and_numbers(self) -> tuple[np.ndarray, np.ndarray]: ...

    @abc.abstractmethod
    def distinct(self) -> tuple[list[Any], np.ndarray]:
        """The cells without repetitions, in the order of the rows, and the position of each row's cell in them."""

    @abc.abstractmethod
    def take(self, rows: np.ndarray) -> Cells:
        """The cells of some rows."""

    def missing(self, text: bool = False) -> np.ndarray:
        """Whether the cells have no value, see `is_missing`: bool `[rows]`."""
        if not text:
            return np.asarray(self.kinds == NOTHING)
        values, codes = self.distinct()
        return np.array([is_missing(value, text=True) for value in values], bool).take(codes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


_HASHED = (str, bytes, int, float, bool, type(None))


@final
class Objects(Cells):
    """Cells that are objects of Python."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, row: Any) -> Any:
        return self._values[row]

    @functools.cached_property
    def _kinds_and_numbers(self) -> tuple[np.ndarray, np.ndarray]:
        return kinds_and_numbers(self._values)

    def distinct(self) -> tuple[list[Any], np.ndarray]:
        positions: dict[Any, int] = {}
        values: list[Any] = []
        codes = np.empty(len(self), np.int64)
        for row, value in enumerate(self._values):
            # Others may be equal but another text, such as a time in two zones, or have no hash.
            key = (type(value), value) if type(value) in _HASHED else (None, row)
            position = positions.setdefault(key, len(values))
            if position == len(values):
                values.append(value)
            codes[row] = position
        return values, codes

    def take(self, rows: np.ndarray) -> Objects:
        return Objects([self._values[row] for row in rows.tolist()])


@final
class RowNames(Sequence[str]):
    """Names of rows, such as `"line 33"`, made when they are needed for a message.

    Args:
        count: Number of rows.
        name: The name of a row.
    """

    def __init__(self, count: int, name: Callable[[int], str]) -> None:
        self._count, self._name = count, name

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: Any) -> Any:
        return self._name(range(self._count)[row])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


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

    def cells(self, column: str) -> Cells:
        """The cells of a column."""
        found = self[column]
        return found if isinstance(found, Cells) else Objects(found)

    def place(self, column: str, row: int) -> str:
        """The place of a cell for errors: `"Column 'weight' in line 4 of cars.csv"`."""
        return f"Column {column!r} in {self.rows[row]} of {self.name}"

    def converted(self, column: str, convert: Callable[[Any, str], Any]) -> np.ndarray:
        """`convert(cell, place)` of each row, called once for equal cells: an object array `[rows]`.

        A ValueError of the conversion is that of the first row that has one.
        """
        values, codes = self.cells(column).distinct()
        found = np.empty(len(values), object)
        for number, value in enumerate(values):
            try:
                found[number] = convert(value, "")
            except ValueError:
                convert(value, self.place(column, int(np.argmax(codes == number))))
                raise
        return found.take(codes)

    def take(self, names: Sequence[str], rows: np.ndarray) -> Columns:
        """Some columns and rows."""
        kept = {name: self.cells(name) for name in names}
        if len(rows) < len(self.rows):
            kept = {name: cells.take(rows) for name, cells in kept.items()}
        return Columns(kept, RowNames(len(rows), lambda row: self.rows[int(rows[row])]), self.name)


def is_missing(value: Any, text: bool = False) -> bool:
    """Whether a cell has no value: `None`, NaN, or one of `MISSING`; in a column of text, of these only `""`."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return value == "" if text else value.strip() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def kind_of(column: str, table: Columns) -> Kind:
    """What a column holds: only numbers and booleans, only ISO dates, or only other texts; cells without a value aside.

    A column without any value counts as numbers. A ValueError that names the first cell that differs if it holds both
    numbers or dates and others, or a cell is none of these, such as a list.
    """
    cells = table.cells(column)
    kinds = cells.kinds
    if (kinds == OTHER).any():
        row = int(np.argmax(kinds == OTHER))
        _kind_of_cell(cells[row], table.place(column, row))  # raises
    found = [code for code in range(len(KINDS)) if code != NOTHING and (kinds == code).any()]
    if len(found) < 2:
        return KINDS[found[0]] or "number" if found else "number"
    kind = KINDS[found[0]]  # numbers before dates before texts
    row = int(np.argmax((kinds != NOTHING) & (kinds != found[0])))
    value, where, others = cells[row], table.place(column, row), int(np.count_nonzero(kinds == found[0]))
    article = {"number": "a number", "date": "an ISO date"}[str(kind)]
    code = ", and not a code with leading zeros" if kind == "number" and _begins_with_zero(value) else ""
    raise ValueError(
        f"{where} holds {value!r}: expected {article}{code}, as in {others} other "
        f"row{'s' * (others != 1)}. Correct it or leave the column out of features, or, if these are texts or "
        f"categories, give it as Text({column!r}) or OneHot({column!r})."
    )


def kinds_and_numbers(values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """`Cells.kinds` and `Cells.numbers` of some cells, one by one."""
    kinds, numbers = np.empty(len(values), np.uint8), np.empty(len(values))
    for row, value in enumerate(values):
        kinds[row], numbers[row] = _kind_and_number(value)
    return kinds, numbers


def _kind_and_number(value: Any) -> tuple[int, float]:
    if is_missing(value):
        return NOTHING, math.nan
    try:
        kind = KINDS.index(_kind_of_cell(value, ""))
    except ValueError:
        return OTHER, math.nan
    try:
        return kind, as_number(value, "") if kind == NUMBER else math.nan
    except (ValueError, OverflowError):
        return kind, math.nan


def _kind_of_cell(value: Any, where: str) -> Kind:
    if isinstance(value, (bool, int, float, decimal.Decimal)):
        return "number"
    if isinstance(value, datetime.date):  # and its subclass, `datetime`
        return "date"
    if isinstance(value, (str, bytes)):
        text = (value.decode(errors="replace") if isinstance(value, bytes) else value).strip()
        return "number" if _is_number(text) else "date" if is_date(text) else "text"
    raise ValueError(
        f"{where} holds {str(value)[:60]}, of the type {type(value).__name__}: expected a number, a text or a date. "
        "Leave the column out of features, or make columns of its parts."
    )


def is_date(value: str | bytes) -> bool:
    """Whether a text looks like an ISO date, with or without a time; `as_date` raises if it is none of the calendar."""
    return _DATE.fullmatch((value.decode(errors="replace") if isinstance(value, bytes) else value).strip()) is not None


def as_date(value: Any, where: str) -> str:
    """Converts a cell to text such as `"2024-03-01T18:30:00"`: an ISO date, with or without a time, or a `date`.

    A ValueError unless it is a date, in UTC if it has a time zone. Fractions of a second are dropped.
    """
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    found = text
    if isinstance(text, str):
        try:
            found = datetime.datetime.fromisoformat(text.strip()) if is_date(text) else None
        except ValueError:
            found = None
    if not isinstance(found, datetime.date):
        raise ValueError(
            f"{where} holds {text!r}: expected an ISO date, such as '2024-03-01' or '2024-03-01T18:30:00'. Convert "
            "the column, for example with pandas.to_datetime, or give it as Text."
        )
    if not isinstance(found, datetime.datetime):
        return f"{found.isoformat()}T00:00:00"
    if found.utcoffset() not in (None, datetime.timedelta(0)):
        raise ValueError(f"{where} holds {str(text)!r}: expected a time in UTC, or without a time zone. Convert it.")
    return found.replace(tzinfo=None).isoformat(timespec="seconds")


def as_text(value: Any, where: str, as_written: bool = False) -> bytes:
    """Converts a cell to text in UTF-8, without white space at its ends unless `as_written`."""
    _kind_of_cell(value, where)  # raises for a list
    try:
        return category_key(value, text=as_written).encode()
    except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair
        raise ValueError(f"{where} holds {value[:40]!r}, which cannot be encoded as UTF-8: {error}.") from error


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
        code = ", and not a code with leading zeros" if _begins_with_zero(text) else ""
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
    return _NUMBER.fullmatch(text) is not None


def _begins_with_zero(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lstrip("+-").startswith("0")


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
