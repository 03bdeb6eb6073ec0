"""Features of a table: which columns a batch has, and what each of them holds."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from lightkeras.data.datasets.columns import (
    Columns,
    as_date,
    as_number,
    as_text,
    category_key,
    category_order,
    is_missing,
    kind_of,
)
from lightkeras.system.messages import did_you_mean


@final
@dataclasses.dataclass(frozen=True)
class Number:
    """A column of numbers; a missing value is `NaN`. A column that is given by its name may be one."""

    column: str


@final
@dataclasses.dataclass(frozen=True)
class Date:
    """A column of ISO dates, with or without a time: `"2024-03-01"`, `"2024-03-01T18:30:00"`, or Python's `date`.

    A batch has them as text, `"2024-03-01T00:00:00"`, for `lk.TableEncoder`. A column that is given by its name is a
    column of dates if all its values are ISO dates; this feature makes any other value an error.

    Args:
        column: The column.

    Examples:
        >>> from lightkeras.data import Lookup, Table
        >>> sales = {"day": ["2024-03-01", "2024-03-02"], "sold": [3.0, 5.0]}
        >>> table = Table(sales, "sold", features=[Date("day")], test=0, validation=0)
        >>> table.prepare(Lookup())
        >>> table.train().arrays[0]["day"].tolist()
        [b'2024-03-01T00:00:00', b'2024-03-02T00:00:00']
    """

    column: str


@final
@dataclasses.dataclass(frozen=True)
class Text:
    """A column of text as it is written, for an encoder, such as `lk.TableEncoder` or `lk.TextVectorizer`.

    A column that is given by its name is a column of text, too, if no value is a number or a date; there, white space
    at the ends is dropped, and `?` or `NA` is a missing value.

    Args:
        column: The column.

    Examples:
        >>> from lightkeras.data import Lookup, Table
        >>> reviews = {"text": ["1984", "a delight"], "stars": [4.0, 5.0]}
        >>> table = Table(reviews, "stars", features=[Text("text")], test=0, validation=0)
        >>> table.prepare(Lookup())
        >>> table.train().arrays[0]["text"].tolist()
        [b'1984', b'a delight']
    """

    column: str


@final
@dataclasses.dataclass(frozen=True)
class Stripped:
    """A column of text without white space at the ends: what a name of a column becomes."""

    column: str


@final
@dataclasses.dataclass(frozen=True)
class OneHot:
    """A column of categories, encoded as one column of 0 and 1 per category: `origin_USA`, `origin_Europe`, ...

    Args:
        column: The column.
        values: The categories. A dict gives them names, as in `{1: "USA", 2: "Europe", 3: "Japan"}`; in a
            list they are their own names. `None` takes those of the whole table, in sorted order.
        text: Whether the column holds text, whose categories differ where they are written differently: "1", "1.0"
            and " 1 " are three, and "NA" is not a missing value. Otherwise these are one category.

    Raises:
        ValueError: There are no categories, or one occurs twice.

    Examples:
        >>> from lightkeras.data import Lookup, Table
        >>> cars = {"origin": [1, 2, 3, 1], "mpg": [18.0, 26.0, 31.0, 15.0]}
        >>> origin = OneHot("origin", {1: "USA", 2: "Europe", 3: "Japan"})
        >>> table = Table(cars, "mpg", features=[origin], test=0, validation=0)
        >>> table.prepare(Lookup())
        >>> table.train().arrays[0]["origin_USA"].tolist()
        [1.0, 0.0, 0.0, 1.0]
    """

    column: str
    values: Mapping[Any, str] | Sequence[Any] | None = None
    text: bool = False

    def __post_init__(self) -> None:
        if self.values is None:
            return
        keys = [self.key(value) for value in self.values]
        names = list(self.names().values())
        if not keys or len(set(keys)) < len(keys) or len(set(names)) < len(names):
            raise ValueError(f"OneHot({self.column!r}, {self.values!r}): expected at least one category, each once.")

    def names(self) -> dict[str, str]:
        """Names of the categories by the values of the column; empty if they come from the table."""
        if isinstance(self.values, Mapping):
            return {self.key(value): str(name) for value, name in self.values.items()}
        return {self.key(value): self.key(value) for value in self.values or ()}

    def key(self, value: Any) -> str:
        """Returns a value of the column as text, equal for equal categories."""
        return category_key(value, self.text)

    def found_in(self, column: Sequence[Any]) -> OneHot:
        """Returns this with the categories of some cells, if none were given."""
        if self.values is not None:
            return self
        keys = {self.key(value) for value in column if not is_missing(value, self.text)}
        return OneHot(self.column, sorted(keys, key=category_order), self.text)


Feature = Number | Date | Text | Stripped | OneHot


def column_of(feature: str | Feature) -> str:
    """The column of a feature, or of a name."""
    return feature if isinstance(feature, str) else feature.column


def found_in(feature: str | Feature, table: Columns) -> Feature:
    """A feature for a name of a column, by what the table holds; an `OneHot` with its categories."""
    if isinstance(feature, OneHot):
        return feature.found_in(table.cells(feature.column).distinct()[0])
    if not isinstance(feature, str):
        return feature
    kind = kind_of(feature, table)
    if kind == "number":
        return Number(feature)
    return Date(feature) if kind == "date" else Stripped(feature)


def lacks_value(feature: Feature, value: Any) -> bool:
    """Whether a cell of a feature's column has no value."""
    return is_missing(value, text=_is_text(feature))


def without_value(feature: Feature, table: Columns) -> np.ndarray:
    """Whether the cells of a feature's column have no value: bool `[rows]`."""
    return table.cells(feature.column).missing(text=_is_text(feature))


def _is_text(feature: Feature) -> bool:
    return isinstance(feature, Text) or (isinstance(feature, OneHot) and feature.text)


def names_of(feature: Feature) -> list[str]:
    """The names of the columns of a batch that a feature makes."""
    if isinstance(feature, OneHot):
        return [f"{feature.column}_{name}" for name in feature.names().values()]
    return [feature.column]


def inputs_of(features: Sequence[Feature], table: Columns) -> dict[str, np.ndarray]:
    """Columns of a batch by name: float32, or text as an object array of `bytes`, which are empty without a value.

    A ValueError if a value cannot be converted, or two features make a column of the same name.
    """
    arrays: dict[str, np.ndarray] = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(lambda feature: _columns_of(feature, table), features))
    for columns in found:
        twice = next((name for name in columns if name in arrays), None)
        if twice is not None:
            raise ValueError(f"Two features make a column {twice!r}: rename a column, or a category of OneHot.")
        arrays.update(columns)
    return arrays


def numbers_of(name: str, table: Columns) -> np.ndarray:
    """A column of numbers, float32 `[rows]`; a ValueError that names the first cell that is not one."""
    cells = table.cells(name)
    numbers = cells.numbers
    wrong = np.isnan(numbers) & ~cells.missing()
    if wrong.any():
        row = int(np.argmax(wrong))
        as_number(cells[row], table.place(name, row))  # raises
    return numbers.astype(np.float32)


def _columns_of(feature: Feature, table: Columns) -> dict[str, np.ndarray]:
    if isinstance(feature, OneHot):
        return _one_hot(feature, table)
    if isinstance(feature, Number):
        return {feature.column: numbers_of(feature.column, table)}

    def text(value: Any, where: str) -> bytes:
        if lacks_value(feature, value):
            return b""
        if isinstance(feature, Date):
            return as_date(value, where).encode()
        return as_text(value, where, as_written=isinstance(feature, Text))

    return {feature.column: table.converted(feature.column, text)}


def _one_hot(feature: OneHot, table: Columns) -> dict[str, np.ndarray]:
    names = feature.names()
    known = {**{name: name for name in names.values()}, **names}
    positions = {name: position for position, name in enumerate(names.values())}

    def position(value: Any, where: str) -> int:
        if feature.key(value) not in known:
            raise ValueError(
                f"{where} holds {value!r}, which is not a category of it. {did_you_mean(feature.key(value), known)}"
            )
        return positions[known[feature.key(value)]]

    found = table.converted(feature.column, position).astype(np.int64)
    return {f"{feature.column}_{name}": (found == place).astype(np.float32) for name, place in positions.items()}
