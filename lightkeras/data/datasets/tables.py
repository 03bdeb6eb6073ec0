"""Tables as data: columns of numbers and of categories, and a number to predict for each row.

Categories become columns here and not in the model, because models on JAX and PyTorch cannot look up strings.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from lightkeras.data.datasets.columns import (
    Columns,
    TableFile,
    as_number,
    category_key,
    category_order,
    from_arrays,
    is_missing,
    parse_row,
)
from lightkeras.data.feed import ArrayFeed, check_batching
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule
from lightkeras.data.split import check_validation, split
from lightkeras.data.structure import Structure, map_structure
from lightkeras.system.messages import announce, did_you_mean

_MOST_NAMED = 6
_ADVICE = " Leave the column out of features, or give categories as OneHot({column!r})."


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
        """Returns this with the categories of a column, if none were given."""
        if self.values is not None:
            return self
        keys = {self.key(value) for value in column if not is_missing(value, self.text)}
        return OneHot(self.column, sorted(keys, key=category_order), self.text)


@final
class Table(DataModule):
    """A table with a number to predict for each row.

    Rows are shuffled by `seed`: the last ones are the test split, and the last ones of the others the validation
    split. These are the rows that pandas's `sample(frac, random_state=seed)` and then Keras's `validation_split`
    hold out, the splits of most tutorials. A row without a value in a used column is dropped, and the number of such
    rows is printed; or it is an error.

    Batches are `({column: float32 [batch]}, target float32 [batch])`. `source` is the file's name, or
    `"arrays"`, once prepared.

    Args:
        table: Path of a text file, a `TableFile` for its columns and separator, or `{column: array}`.
        target: The column to predict.
        features: The input columns, in order: names of columns of numbers, and `OneHot`.
            `None` means all columns except the target.
        incomplete: `"drop"` drops rows without a value, `"error"` refuses them.
        test: Rows of the test split: a fraction of all rows, a count, or 0 for none.
        validation: Rows of the validation split: a fraction of the rows without the test split, a count, or 0.
        batch_size: Rows per batch.
        seed: Seed of the splits and of the order of the training batches, which changes each epoch.

    Raises:
        ValueError: A setting out of its range, or a feature that occurs twice or is the target.

    Examples:
        >>> from lightkeras.data.lookup import Lookup
        >>> cars = {"weight": [3504, 3693, None, 2372], "origin": [1, 1, 3, 3], "mpg": [18.0, 15.0, 27.0, 24.0]}
        >>> origin = OneHot("origin", {1: "USA", 3: "Japan"})
        >>> table = Table(cars, "mpg", features=["weight", origin], test=1, validation=1)
        >>> table.prepare(Lookup())
        >>> table.features, table.train().examples, table.incomplete_rows
        (('weight', 'origin_USA', 'origin_Japan'), 1, 1)
    """

    def __init__(
        self,
        table: str | Path | TableFile | Mapping[str, Any],
        target: str,
        *,
        features: Sequence[str | OneHot] | None = None,
        incomplete: Literal["drop", "error"] = "drop",
        test: float = 0.2,
        validation: float = 0.2,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        check_batching(batch_size, seed)
        if incomplete not in ("drop", "error"):
            raise ValueError(f"incomplete={incomplete!r} is not known. {did_you_mean(incomplete, ('drop', 'error'))}")
        for name, part in (("test", test), ("validation", validation)):
            if part != 0 or isinstance(part, bool):
                with _about(name):
                    check_validation(part)
        if features is not None:
            _check_features(features, target)
        self._table = TableFile(table) if isinstance(table, (str, Path)) else table
        self._wanted = features
        self._incomplete = incomplete
        self._test, self._validation = test, validation
        self.target = target
        self.batch_size = batch_size
        self.seed = seed
        self._features: list[str | OneHot] = []
        self._feeds: dict[str, ArrayFeed] = {}
        self.incomplete_rows = 0

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of a batch, in order; set once prepared."""
        self._prepared("columns")
        return tuple(name for feature in self._features for name in _names(feature))

    def prepare(self, lookup: Lookup) -> None:
        """Reads the table and makes the splits.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file or a value in it cannot be read, a column is missing, or too few rows remain.
        """
        if self.source is not None:
            return
        file = isinstance(self._table, TableFile)
        columns = self._table.read() if isinstance(self._table, TableFile) else from_arrays(self._table)
        columns[self.target]  # raises if there is no such column
        wanted = [name for name in columns.values if name != self.target] if self._wanted is None else self._wanted
        features = [f.found_in(columns[f.column]) if isinstance(f, OneHot) else f for f in wanted]
        used = [_column(feature) for feature in features] + [self.target]
        text = _text_columns(features)
        complete = self._complete(columns, used, text)
        rows = {name: columns[name] for name in used}
        names = [columns.rows[row] for row in complete]
        kept = Columns({name: [column[row] for row in complete] for name, column in rows.items()}, names, columns.name)
        arrays = (_inputs(features, kept, _ADVICE), _numbers(self.target, kept))
        self._feeds = {
            name: ArrayFeed(_taken(arrays, chosen), self.batch_size, shuffle=name == "train", seed=self.seed)
            for name, chosen in self._chosen(len(complete)).items()
        }
        self._features = features
        self.source = Path(columns.name).name if file else "arrays"

    def _chosen(self, total: int) -> dict[str, np.ndarray]:
        """The rows of each split, in the order of the table."""
        # NumPy's old generator, which pandas uses: its numbers are guaranteed never to change.
        chosen = {"train": np.random.RandomState(self.seed).permutation(total)}
        for name, part in (("test", self._test), ("validation", self._validation)):
            if part != 0:
                with _about(name):
                    chosen["train"], chosen[name] = split(chosen["train"], part, shuffle=False)
        return {name: np.sort(rows) for name, rows in chosen.items()}

    def train(self) -> ArrayFeed:
        return self._prepared("train data")["train"]

    def validation(self) -> ArrayFeed | None:
        return self._prepared("validation data").get("validation")

    def test(self) -> ArrayFeed | None:
        return self._prepared("test data").get("test")

    def predict(self, inputs: Sequence[str | Mapping[str, Any]]) -> ArrayFeed:
        """Batches of rows without targets: tuples `({column: float32 [batch]},)`, in the given order.

        Args:
            inputs: Rows with the columns as the table has them: `"weight=2372,origin=Japan"`, a JSON object,
                or a dict. A category is given by its value in the table, or by its name.

        Raises:
            ValueError: There are no rows, or one cannot be read, lacks a column or has an unknown one.
            TypeError: `inputs` is one row instead of a list.
        """
        if isinstance(inputs, (str, Mapping)):
            raise TypeError(f"Received the single row {inputs!r}: expected a list of rows, [{inputs!r}].")
        if len(inputs) == 0:
            raise ValueError("Received no rows to predict: expected at least one.")
        self._prepared("columns")
        columns = [_column(feature) for feature in self._features]
        rows = [self._checked(parse_row(given, number), columns, number) for number, given in enumerate(inputs, 1)]
        values = {name: [row[name] for row in rows] for name in columns}
        table = Columns(values, [f"row {number}" for number in range(1, len(rows) + 1)], "the input")
        return ArrayFeed((_inputs(self._features, table),), self.batch_size)

    def _prepared(self, what: str) -> dict[str, ArrayFeed]:
        if not self._feeds:
            raise RuntimeError(f"Table has no {what} yet: call `prepare(lookup)` first.")
        return self._feeds

    def _complete(self, columns: Columns, used: Sequence[str], text: Sequence[str]) -> list[int]:
        """Indices of the rows that have a value in every used column."""
        holes = {n: [i for i, value in enumerate(columns[n]) if is_missing(value, n in text)] for n in used}
        holes = {name: rows for name, rows in holes.items() if rows}
        lost = sorted({row for rows in holes.values() for row in rows})
        if not lost:
            return list(range(len(columns.rows)))
        where = ", ".join(columns.rows[row] for row in lost[:_MOST_NAMED]) + ", ..." * (len(lost) > _MOST_NAMED)
        what = (
            f"{len(lost)} of {len(columns.rows)} rows of {columns.name} have no value for "
            f"{' or '.join(map(repr, holes))} ({where})"
        )
        if self._incomplete == "error":
            raise ValueError(f"{what}: expected a value. Fill it in, or drop such rows with incomplete='drop'.")
        if len(lost) == len(columns.rows):
            raise ValueError(f"{what}: no row is left to train on.")
        self.incomplete_rows = len(lost)
        announce(f"{what}: they are dropped", once=True)
        return sorted(set(range(len(columns.rows))) - set(lost))

    def _checked(self, row: Mapping[str, Any], columns: Sequence[str], number: int) -> Mapping[str, Any]:
        for name in row:
            if name == self.target:
                raise ValueError(f"Row {number} gives {name!r}, which is the target: leave it out.")
            if name not in columns:
                raise ValueError(f"Row {number} gives {name!r}, which is not a column. {did_you_mean(name, columns)}")
        text = _text_columns(self._features)
        lacking = [name for name in columns if name not in row or is_missing(row[name], name in text)]
        if lacking:
            raise ValueError(
                f"Row {number} has no value for {', '.join(lacking)}: expected one for each of {', '.join(columns)}, "
                f"as in {columns[0]}=1{',...' * (len(columns) > 1)}."
            )
        return row


def _taken(arrays: Structure, rows: np.ndarray) -> Structure:
    return map_structure(lambda array: array[rows], arrays)


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """Renames `validation` in errors of `split.py` to the split of this name."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(str(error).replace("validation=", f"{name}=", 1)) from None


def _check_features(features: Sequence[str | OneHot], target: str) -> None:
    if isinstance(features, (str, OneHot)):
        raise ValueError(f"features={features!r}: expected a list of columns, [{features!r}].")
    names = [_column(feature) for feature in features]
    if not names:
        raise ValueError("features=[]: expected at least one column; None takes all except the target.")
    if target in names:
        raise ValueError(f"The target {target!r} is among the features: leave it out of them.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"features names the column {twice!r} twice: expected each once.")


def _column(feature: str | OneHot) -> str:
    return feature.column if isinstance(feature, OneHot) else feature


def _text_columns(features: Sequence[str | OneHot]) -> list[str]:
    return [feature.column for feature in features if isinstance(feature, OneHot) and feature.text]


def _names(feature: str | OneHot) -> list[str]:
    if isinstance(feature, OneHot):
        return [f"{feature.column}_{name}" for name in feature.names().values()]
    return [feature]


def _inputs(features: Sequence[str | OneHot], table: Columns, advice: str = "") -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for feature in features:
        if isinstance(feature, OneHot):
            columns = _one_hot(feature, table)
        else:
            columns = {feature: _numbers(feature, table, advice)}
        twice = next((name for name in columns if name in arrays), None)
        if twice is not None:
            raise ValueError(f"Two features make a column {twice!r}: rename a column, or a category of OneHot.")
        arrays.update(columns)
    return arrays


def _numbers(name: str, table: Columns, advice: str = "") -> np.ndarray:
    where = (f"Column {name!r} in {row} of {table.name}" for row in table.rows)
    try:
        return np.array([as_number(v, w) for v, w in zip(table[name], where, strict=True)], dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{error}{advice.format(column=name)}") from None


def _one_hot(feature: OneHot, table: Columns) -> dict[str, np.ndarray]:
    names = feature.names()
    known = {**{name: name for name in names.values()}, **names}
    found = []
    for row, value in zip(table.rows, table[feature.column], strict=True):
        if feature.key(value) not in known:
            raise ValueError(
                f"Column {feature.column!r} in {row} of {table.name} holds {value!r}, which is not a category of it. "
                f"{did_you_mean(feature.key(value), known)}"
            )
        found.append(known[feature.key(value)])
    return {
        f"{feature.column}_{name}": np.array([each == name for each in found], np.float32) for name in names.values()
    }
