"""Tables as data: columns, and a number or a class to predict for each row.

Categories that the model takes as they are become columns here, because models on JAX and PyTorch cannot look up
strings. What is learned from the columns, such as a median, is learned by an encoder from the train split.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from lightkeras.data.datasets.columns import Columns, parse_row
from lightkeras.data.datasets.table_features import (
    Feature,
    OneHot,
    column_of,
    found_in,
    inputs_of,
    lacks_value,
    names_of,
    numbers_of,
    without_value,
)
from lightkeras.data.datasets.table_files import TableFile, from_arrays, from_frame, is_frame, read_file
from lightkeras.data.datasets.table_labels import check_classes, class_numbers
from lightkeras.data.feed import ArrayFeed, check_batching
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule
from lightkeras.data.split import check_validation, split
from lightkeras.data.structure import Structure, map_structure
from lightkeras.system.messages import announce, did_you_mean

_MOST_NAMED = 6
_INCOMPLETE = ("drop", "error", "keep")


@final
class Table(DataModule):
    """A table with a number or a class to predict for each row.

    A column of a batch is float32 `[batch]`, or text, an object array `[batch]` of `bytes`. Numbers and booleans are
    float32, and so are the columns of 0 and 1 of an `OneHot`. Dates, categories and texts are text, for an encoder such
    as `lk.TableEncoder`. What a column that is given by its name holds, is read from its values; if it holds both
    numbers and texts, that is an error, which names the row.

    Rows are shuffled by `seed`: the last ones are the test split, and the last ones of the others the validation
    split. These are the rows that pandas's `sample(frac, random_state=seed)` and then Keras's `validation_split`
    hold out, the splits of most tutorials. Of classes, the last ones of each class are held out, the same share of
    each.

    Batches are `({column: [batch]}, target)`: the target is float32 `[batch]`, or the number of the class, int32
    `[batch]`. `source` is the file's name, or `"arrays"`, once prepared. The table is read into memory.

    Args:
        table: Path of a file: CSV or other text, JSON Lines (`.jsonl`, `.ndjson`) or Parquet (`.parquet`, `.pq`); a
            `TableFile` for the columns and the separator of a text file; a DataFrame of pandas; or `{column: array}`.
        target: The column to predict.
        features: The input columns, in order: names of columns, `OneHot`, `Date` and `Text`.
            `None` means all columns except the target.
        classes: Whether the target is a class: numbers, texts or booleans. `True` takes the classes of the table,
            sorted, a sequence gives them in the order of their numbers, and `False` means a number to predict.
        incomplete: What to do with a row without a value in a used column. `"drop"` drops it and prints the number of
            such rows, `"error"` refuses it. `"keep"` keeps it unless it is the target that has no value, which is an
            error: a number becomes NaN, a text is empty, and an encoder fills them.
        test: Rows of the test split: a fraction of all rows, a count, or 0 for none.
        validation: Rows of the validation split: a fraction of the rows without the test split, a count, or 0.
        batch_size: Rows per batch.
        seed: Seed of the splits and of the order of the training batches, which changes each epoch.

    Attributes:
        class_names: Names of the classes, in the order of their numbers, once prepared; empty for a number to predict.

    Raises:
        ValueError: A setting out of its range, a feature that occurs twice or is the target, or an `OneHot` of rows
            that are kept without a value.

    Examples:
        >>> from lightkeras.data.lookup import Lookup
        >>> cars = {"weight": [3504, 3693, None, 2372], "origin": [1, 1, 3, 3], "mpg": [18.0, 15.0, 27.0, 24.0]}
        >>> origin = OneHot("origin", {1: "USA", 3: "Japan"})
        >>> table = Table(cars, "mpg", features=["weight", origin], test=1, validation=1)
        >>> table.prepare(Lookup())
        >>> table.features, table.train().examples, table.incomplete_rows
        (('weight', 'origin_USA', 'origin_Japan'), 1, 1)
        >>> table = Table(cars, "origin", features=["weight"], classes=True, incomplete="keep", test=0, validation=0)
        >>> table.prepare(Lookup())
        >>> table.class_names, table.train().arrays[0]["weight"].tolist(), table.train().arrays[1].tolist()
        (('1', '3'), [3504.0, 3693.0, nan, 2372.0], [0, 0, 1, 1])
    """

    def __init__(
        self,
        table: str | Path | TableFile | Mapping[str, Any] | Any,
        target: str,
        *,
        features: Sequence[str | Feature] | None = None,
        classes: bool | Sequence[Any] = False,
        incomplete: Literal["drop", "error", "keep"] = "drop",
        test: float = 0.2,
        validation: float = 0.2,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        check_batching(batch_size, seed)
        if incomplete not in _INCOMPLETE:
            raise ValueError(f"incomplete={incomplete!r} is not known. {did_you_mean(incomplete, _INCOMPLETE)}")
        check_classes(classes)
        for name, part in (("test", test), ("validation", validation)):
            if part != 0 or isinstance(part, bool):
                with _about(name):
                    check_validation(part)
        if features is not None:
            _check_features(features, target, incomplete)
        self._table = table
        self._wanted = features
        self._classes = classes
        self._incomplete = incomplete
        self._test, self._validation = test, validation
        self.target = target
        self.batch_size = batch_size
        self.seed = seed
        self._features: list[Feature] = []
        self._feeds: dict[str, ArrayFeed] = {}
        self.class_names: tuple[str, ...] = ()
        self.incomplete_rows = 0

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of a batch, in order; set once prepared."""
        self._prepared("columns")
        return tuple(name for feature in self._features for name in names_of(feature))

    def prepare(self, lookup: Lookup) -> None:
        """Reads the table and makes the splits.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file or a value in it cannot be read, a column is missing, or too few rows remain, also of
                a class.
            ImportError: The file is Parquet, and pyarrow is not installed.
        """
        if self.source is not None:
            return
        columns = _read(self._table)
        columns[self.target]  # raises if there is no such column
        wanted = [name for name in columns.values if name != self.target] if self._wanted is None else self._wanted
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            features = list(threads.map(lambda feature: found_in(feature, columns), wanted))
        used = [*(feature.column for feature in features), self.target]
        kept = columns.take(used, self._complete(columns, features))
        inputs, target = inputs_of(features, kept), self._targets(kept)
        self._feeds = {
            name: ArrayFeed(_taken((inputs, target), chosen), self.batch_size, shuffle=name == "train", seed=self.seed)
            for name, chosen in self._chosen(target).items()
        }
        self._features = features
        is_file = isinstance(self._table, (str, Path, TableFile))
        self.source = Path(columns.name).name if is_file else "arrays"

    def _targets(self, table: Columns) -> np.ndarray:
        if self._classes is not False:
            held_out = self._test != 0 or self._validation != 0
            self.class_names, labels = class_numbers(self.target, table, self._classes, held_out)
            return labels
        try:
            return numbers_of(self.target, table)
        except ValueError as error:
            raise ValueError(f"{error} For a class to predict set classes=True.") from None

    def _chosen(self, target: np.ndarray) -> dict[str, np.ndarray]:
        """The rows of each split, in the order of the table."""
        # NumPy's old generator, which pandas uses: its numbers are guaranteed never to change.
        chosen = {"train": np.random.RandomState(self.seed).permutation(len(target))}
        names = np.array(self.class_names)
        for name, part in (("test", self._test), ("validation", self._validation)):
            if part != 0:
                labels = names[target[chosen["train"]]] if self.class_names else None
                with _about(name):
                    chosen["train"], chosen[name] = split(chosen["train"], part, stratify=labels, shuffle=False)
        return {name: _sorted(rows, len(target)) for name, rows in chosen.items()}

    def train(self) -> ArrayFeed:
        return self._prepared("train data")["train"]

    def validation(self) -> ArrayFeed | None:
        return self._prepared("validation data").get("validation")

    def test(self) -> ArrayFeed | None:
        return self._prepared("test data").get("test")

    def predict(self, inputs: Sequence[str | Mapping[str, Any]]) -> ArrayFeed:
        """Batches of rows without targets: tuples `({column: [batch]},)`, in the given order.

        Args:
            inputs: Rows with the columns as the table has them: `"weight=2372,origin=Japan"`, a JSON object,
                or a dict. A category of an `OneHot` is given by its value in the table, or by its name. If rows are
                kept without a value, one may be empty or `None` here, too.

        Raises:
            ValueError: There are no rows, or one cannot be read, lacks a column or has an unknown one.
            TypeError: `inputs` is one row instead of a list.
        """
        if isinstance(inputs, (str, Mapping)):
            raise TypeError(f"Received the single row {inputs!r}: expected a list of rows, [{inputs!r}].")
        if len(inputs) == 0:
            raise ValueError("Received no rows to predict: expected at least one.")
        self._prepared("columns")
        rows = [self._checked(parse_row(given, number), number) for number, given in enumerate(inputs, 1)]
        values = {feature.column: [row[feature.column] for row in rows] for feature in self._features}
        table = Columns(values, [f"row {number}" for number in range(1, len(rows) + 1)], "the input")
        return ArrayFeed((inputs_of(self._features, table),), self.batch_size)

    def _prepared(self, what: str) -> dict[str, ArrayFeed]:
        if not self._feeds:
            raise RuntimeError(f"Table has no {what} yet: call `prepare(lookup)` first.")
        return self._feeds

    def _complete(self, columns: Columns, features: Sequence[Feature]) -> np.ndarray:
        """Indices of the rows that have a value where they need one."""
        needed = [] if self._incomplete == "keep" else features
        holes = {feature.column: without_value(feature, columns) for feature in needed}
        holes[self.target] = columns.cells(self.target).missing()
        holes = {name: missing for name, missing in holes.items() if missing.any()}
        count = len(columns.rows)
        complete = ~np.logical_or.reduce(list(holes.values())) if holes else np.ones(count, bool)
        lost = np.flatnonzero(~complete).tolist()
        if not lost:
            return np.arange(count)
        where = ", ".join(columns.rows[row] for row in lost[:_MOST_NAMED]) + ", ..." * (len(lost) > _MOST_NAMED)
        what = (
            f"{len(lost)} of {count} rows of {columns.name} have no value for {' or '.join(map(repr, holes))} ({where})"
        )
        if self._incomplete != "drop":
            raise ValueError(f"{what}: expected a value. Fill it in, or drop such rows with incomplete='drop'.")
        if len(lost) == count:
            raise ValueError(f"{what}: no row is left to train on.")
        self.incomplete_rows = len(lost)
        announce(f"{what}: they are dropped", once=True)
        return np.flatnonzero(complete)

    def _checked(self, row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
        columns = [feature.column for feature in self._features]
        for name in row:
            if name == self.target:
                raise ValueError(f"Row {number} gives {name!r}, which is the target: leave it out.")
            if name not in columns:
                raise ValueError(f"Row {number} gives {name!r}, which is not a column. {did_you_mean(name, columns)}")
        kept = self._incomplete == "keep"
        lacking = [
            feature.column
            for feature in self._features
            if feature.column not in row or (not kept and lacks_value(feature, row[feature.column]))
        ]
        if lacking:
            raise ValueError(
                f"Row {number} has no value for {', '.join(lacking)}: expected one for each of {', '.join(columns)}, "
                f"as in {columns[0]}=1{',...' * (len(columns) > 1)}."
            )
        return row


def _read(table: Any) -> Columns:
    if isinstance(table, (str, Path)):
        return read_file(table)
    if isinstance(table, TableFile):
        return table.read()
    return from_frame(table) if is_frame(table) else from_arrays(table)


def _sorted(rows: np.ndarray, count: int) -> np.ndarray:
    """Sorts different rows of a table of so many, without comparisons."""
    chosen = np.zeros(count, bool)
    chosen[rows] = True
    return np.flatnonzero(chosen)


def _taken(arrays: Structure, rows: np.ndarray) -> Structure:
    """Some rows, sorted; all of them are the arrays themselves."""
    return map_structure(lambda array: array if len(rows) == len(array) else array[rows], arrays)


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """Renames `validation` in errors of `split.py` to the split of this name."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(str(error).replace("validation=", f"{name}=", 1)) from None


def _check_features(features: Sequence[str | Feature], target: str, incomplete: str) -> None:
    if isinstance(features, (str, Feature)):
        raise ValueError(f"features={features!r}: expected a list of columns, [{features!r}].")
    names = [column_of(feature) for feature in features]
    if not names:
        raise ValueError("features=[]: expected at least one column; None takes all except the target.")
    if target in names:
        raise ValueError(f"The target {target!r} is among the features: leave it out of them.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"features names the column {twice!r} twice: expected each once.")
    one_hot = next((feature for feature in features if isinstance(feature, OneHot)), None)
    if one_hot is not None and incomplete == "keep":
        raise ValueError(
            f"OneHot({one_hot.column!r}) has no column for a missing category, and incomplete='keep' keeps the row: "
            f"give the column by its name, {one_hot.column!r}, and make its categories columns with lk.TableEncoder."
        )
