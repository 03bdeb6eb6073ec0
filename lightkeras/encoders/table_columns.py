"""What is learned from a column of a table, and how it becomes numbers: in NumPy, and in a model of Keras's own layers.

Both give the same numbers. Dates are taken apart in the model by the digits at their places in the text.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import keras
import numpy as np
from keras import ops

from lightkeras.data.datasets.columns import as_date, category_key, category_order
from lightkeras.system import schema

MISSING = "missing"
DATE_PARTS = ("days", "month", "day", "weekday", "hour")
_EPOCH = 719_468
"""Days from March 1 of the year 0 to January 1 of 1970."""
_CHARACTERS = "0123456789-:T"
_LENGTH = len("2024-03-01T18:30:00")


class Learned(abc.ABC):
    """What was learned from a column of the train split, to make numbers of its values."""

    kind: ClassVar[str]
    dtype: str

    @abc.abstractmethod
    def names(self, column: str) -> list[str]:
        """The names of the numbers, in order."""

    @abc.abstractmethod
    def encode(self, values: np.ndarray, column: str) -> np.ndarray:
        """Makes numbers of a column's values `[n]`: float32 `[n, len(names)]`."""

    @abc.abstractmethod
    def join(self, raw: Any, column: str) -> Any:
        """The same for a `keras.Input` of the column, with layers and operations of Keras."""


@final
@dataclasses.dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of numbers, which become those of mean 0 and deviation 1; constant ones become 0."""

    mean: list[float]
    deviation: list[float]

    @classmethod
    def of(cls, numbers: np.ndarray) -> Scale:
        """Learns from float32 `[n, width]`."""
        deviation = numbers.std(axis=0, dtype=np.float64)
        return cls(_float32(numbers.mean(axis=0, dtype=np.float64)), _float32(np.where(deviation > 0, deviation, 1)))

    def __call__(self, numbers: Any) -> Any:
        """Scales an array or a tensor, float32 `[n, width]`."""
        return (numbers - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)


@final
@dataclasses.dataclass(frozen=True)
class Number(Learned):
    """Numbers, the missing ones filled with the median, then scaled."""

    median: float
    scale: Scale
    kind: ClassVar[str] = "number"
    dtype: ClassVar[str] = "float32"  # type: ignore[misc]

    @classmethod
    def of(cls, values: np.ndarray, column: str) -> Number:
        """Learns from float32 `[n]`; a ValueError if all are missing."""
        if np.isnan(values).all():
            raise ValueError(f"Column {column!r} has no value in the train split: leave it out of the features.")
        median = np.float32(np.nanmedian(values.astype(np.float64)))
        return cls(float(median), Scale.of(np.where(np.isnan(values), median, values)[:, None]))

    def names(self, column: str) -> list[str]:
        return [column]

    def encode(self, values: np.ndarray, column: str) -> np.ndarray:
        return self.scale(np.where(np.isnan(values), np.float32(self.median), values)[:, None])  # type: ignore[no-any-return]

    def join(self, raw: Any, column: str) -> Any:
        return self.scale(ops.expand_dims(ops.where(ops.isnan(raw), self.median, raw), -1))


@final
@dataclasses.dataclass(frozen=True)
class Category(Learned):
    """Categories as columns of 0 and 1, one for each category of the train split, a missing one among them.

    Args:
        categories: Text, or numbers as text; `""` for a missing one. Of others, all columns are 0.
        dtype: `"string"`, or `"float32"` for a column of numbers.
    """

    categories: list[str]
    dtype: Literal["string", "float32"] = "string"
    kind: ClassVar[str] = "category"

    @classmethod
    def of(cls, values: np.ndarray, column: str, most: int) -> Category:
        """Learns from float32 or text `[n]`; a ValueError if there are more categories than `most`."""
        dtype: Literal["string", "float32"] = "string" if values.dtype == object else "float32"
        found = sorted(set(_keys(_distinct(values)[0])), key=category_order)
        if len(found) > most:
            raise ValueError(
                f"Column {column!r} has {len(found):,} categories in the train split, more than "
                f"max_categories={most:,}. Give a column of texts an encoder, "
                f"texts={{{column!r}: lk.TextVectorizer(...)}}, leave the column out of the features, or raise "
                "max_categories."
            )
        return cls(found, dtype)

    def names(self, column: str) -> list[str]:
        return [f"{column}_{category or MISSING}" for category in self.categories]

    def encode(self, values: np.ndarray, column: str) -> np.ndarray:
        numbers = {category: number for number, category in enumerate(self.categories)}
        distinct, codes = _distinct(values)
        places = np.array([numbers.get(key, -1) for key in _keys(distinct)], np.int64).take(codes)
        return np.equal(places[:, None], np.arange(len(numbers))).astype(np.float32)

    def join(self, raw: Any, column: str) -> Any:
        if self.dtype == "string":
            other = "[UNK]"
            while other in self.categories:
                other += "_"
            look_up = keras.layers.StringLookup(
                vocabulary=self.categories,
                oov_token=other,
                output_mode="one_hot",
                name=_layer_name(column, "categories"),
            )
            return ops.cast(look_up(raw)[:, 1:], "float32")  # the first column is that of others
        known = np.array([float(category) for category in self.categories if category], np.float32)
        found = ops.equal(ops.expand_dims(raw, -1), known)
        if "" in self.categories:  # sorts last
            found = ops.concatenate([found, ops.expand_dims(ops.isnan(raw), -1)], axis=-1)
        return ops.cast(found, "float32")


@final
@dataclasses.dataclass(frozen=True)
class Date(Learned):
    """Dates as the numbers `DATE_PARTS`, the missing ones filled with the median date, then scaled.

    `days` are those since 1970 with the part of the day, `month` is 1 to 12, `day` 1 to 31, `weekday` 0 (Monday) to 6,
    and `hour` 0 to 24 with the part of the hour.

    Args:
        median: The median date, the earlier one of two, such as `"2024-03-01T18:30:00"`.
        scale: Mean and deviation of the numbers.
    """

    median: str
    scale: Scale
    kind: ClassVar[str] = "date"
    dtype: ClassVar[str] = "string"  # type: ignore[misc]

    @classmethod
    def of(cls, values: np.ndarray, column: str) -> Date:
        """Learns from text `[n]`; a ValueError if one is not a date."""
        dates, codes = _dates(values, column)
        order = np.array(sorted(range(len(dates)), key=dates.__getitem__), np.int64)
        counts = np.where([dates[code] == "" for code in order], 0, np.bincount(codes, minlength=len(dates))[order])
        if not counts.any():
            raise ValueError(f"Column {column!r} has no date in the train split: leave it out of the features.")
        # The one in the middle of all dates in order, the earlier of two.
        median = dates[order[np.searchsorted(np.cumsum(counts), (counts.sum() - 1) // 2, side="right")]]
        return cls(median, Scale.of(_date_parts([date or median for date in dates])[codes]))

    def names(self, column: str) -> list[str]:
        return [f"{column}_{part}" for part in DATE_PARTS]

    def encode(self, values: np.ndarray, column: str) -> np.ndarray:
        dates, codes = _dates(values, column)
        return self.scale(_date_parts([date or self.median for date in dates])[codes])  # type: ignore[no-any-return]

    def join(self, raw: Any, column: str) -> Any:
        characters = keras.layers.TextVectorization(
            standardize=None,
            split="character",
            vocabulary=list(_CHARACTERS),
            output_sequence_length=_LENGTH,
            name=_layer_name(column, "characters"),
        )
        digits = ops.cast(characters(raw), "int32") - 2  # negative for padding and other characters
        is_digit = ops.logical_and(digits >= 0, digits <= 9)

        def number(first: int, length: int) -> tuple[Any, Any]:
            """The number at a place of the text, and whether there is one."""
            value = sum(digits[:, first + place] * 10 ** (length - 1 - place) for place in range(length))
            return value, ops.all(is_digit[:, first : first + length], axis=-1)

        (year, has_year), (month, has_month), (day, has_day) = number(0, 4), number(5, 2), number(8, 2)
        hour, minute, second = (
            ops.where(has, value, 0) for value, has in (number(11, 2), number(14, 2), number(17, 2))
        )
        known = ops.logical_and(ops.logical_and(has_year, has_month), has_day)
        known = ops.logical_and(known, ops.logical_and(month >= 1, month <= 12))
        # Days of the civil calendar, by years that begin in March, after H. Hinnant, "chrono-compatible low-level date
        # algorithms", `days_from_civil`.
        late = ops.cast(month <= 2, "int32")
        years = year - late
        of_year = ops.floor_divide(153 * (month - 3 + 12 * late) + 2, 5) + day - 1
        leaps = ops.floor_divide(years, 4) - ops.floor_divide(years, 100) + ops.floor_divide(years, 400)
        since = 365 * years + leaps + of_year  # March 1 of the year 0, a Wednesday
        seconds = 3600 * hour + 60 * minute + second
        parts = _numbers(ops.cast, since - _EPOCH, month, day, ops.mod(since + 2, 7), seconds)
        median = np.broadcast_to(_date_parts([self.median])[0], (len(DATE_PARTS),)).copy()
        return self.scale(ops.where(ops.expand_dims(known, -1), ops.stack(parts, axis=-1), median))


KINDS: Mapping[str, type[Number] | type[Category] | type[Date]] = {each.kind: each for each in (Number, Category, Date)}


def to_plain(learned: Learned) -> dict[str, Any]:
    """What was learned, as plain values."""
    return {"kind": learned.kind, **dataclasses.asdict(learned)}  # type: ignore[call-overload]


def from_plain(plain: Any) -> Learned:
    """The opposite of `to_plain`, of decoded JSON; a ValueError if these are not its values."""
    kind = plain.get("kind") if isinstance(plain, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"a column is of the kind {kind!r}: expected {', '.join(KINDS)}.")
    if (problem := schema.find_problem(plain, KINDS[kind])) is not None:
        raise ValueError(f"of a column, {problem}.")
    values = {name: value for name, value in plain.items() if name != "kind"}
    if "scale" in values:
        values["scale"] = Scale(**values["scale"])
    learned = KINDS[kind](**values)
    missing = np.array([b""], object) if learned.dtype == "string" else np.array([np.nan], np.float32)
    if learned.encode(missing, "").shape[1] != len(
        learned.names("")
    ):  # a ValueError if sizes differ, or a date is none
        raise ValueError(f"a {kind} has {len(values['scale'].mean)} means: expected {len(learned.names(''))}.")
    return learned


def _float32(values: np.ndarray) -> list[float]:
    return [float(value) for value in values.astype(np.float32)]


def _keys(values: np.ndarray) -> list[str]:
    """The categories of values as text; `""` for a missing one. Bytes that are not UTF-8 are replaced."""
    if values.dtype == object:
        return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]
    # By way of text, because 1.1 in float32 is 1.10000002384 in Python.
    return ["" if math.isnan(value) else category_key(float(str(value))) for value in values]


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values `[n]` without repetitions, texts in the order of the rows, and the position of each row's value."""
    if values.dtype != object:
        return np.unique(values, return_inverse=True)
    texts = values.tolist()
    positions = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    codes = np.fromiter(map(positions.__getitem__, texts), np.int64, len(texts))
    return np.array(list(positions), object), codes


def _dates(values: np.ndarray, column: str) -> tuple[list[str], np.ndarray]:
    """The dates of `_distinct` in the form of `as_date`, `""` for a missing one; a ValueError if one is not a date."""
    distinct, codes = _distinct(values)
    dates = []
    for number, value in enumerate(distinct.tolist()):
        try:
            dates.append(as_date(value, "") if value else "")
        except ValueError:
            as_date(value, f"Column {column!r} in example {int(np.argmax(codes == number))}")
            raise
    return dates, codes


def _date_parts(dates: Sequence[str]) -> np.ndarray:
    """float32 `[n, 5]`."""
    moments = np.array(dates, "datetime64[s]")
    days, months = moments.astype("datetime64[D]"), moments.astype("datetime64[M]")
    since = days.astype(np.int64)
    month, day = months.astype(np.int64) % 12 + 1, (days - months).astype(np.int64) + 1
    seconds = (moments - days).astype(np.int64)
    return np.stack(_numbers(lambda x, dtype: x.astype(dtype), since, month, day, (since + 3) % 7, seconds), axis=-1)


def _numbers(cast: Any, since: Any, month: Any, day: Any, weekday: Any, seconds: Any) -> list[Any]:
    """`DATE_PARTS` as float32, computed in the same way of arrays and of tensors."""
    since, month, day, weekday, seconds = (cast(part, "float32") for part in (since, month, day, weekday, seconds))
    return [since + seconds / 86400.0, month, day, weekday, seconds / 3600.0]


def _layer_name(column: str, what: str) -> str:
    return f"{column}_{what}".replace("/", "_")
