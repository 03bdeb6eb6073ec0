"""Fuel economy of cars, as a table: UCI's Auto MPG, or another table as the built-in sample."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from lightkeras.data.datasets.table_features import OneHot
from lightkeras.data.datasets.table_files import TableFile
from lightkeras.data.datasets.tables import Table
from lightkeras.data.feed import ArrayFeed, check_batching
from lightkeras.data.lookup import Lookup, reachable
from lightkeras.data.module import DataModule
from lightkeras.system.download import limited, limits
from lightkeras.system.messages import announce

URL = "http://archive.ics.uci.edu/ml/machine-learning-databases/auto-mpg/auto-mpg.data"
_FILE = "auto-mpg.data"
_COLUMNS = ("mpg", "cylinders", "displacement", "horsepower", "weight", "acceleration", "model_year", "origin", "name")
_FEATURES = (*_COLUMNS[1:7], OneHot("origin", {1: "USA", 2: "Europe", 3: "Japan"}))
_SAMPLE_COLUMNS = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
_SAMPLE_FEATURES = ("age", OneHot("sex", [1, 2]), *_SAMPLE_COLUMNS[2:])


@final
class AutoMpg(DataModule):
    """Fuel economy of cars of 1970 to 1982: UCI's Auto MPG (Quinlan, 1993), a table of 398 rows.

    It is looked for as `auto-mpg.data` in the data folder and in Keras's cache, then downloaded into
    that. Rows without a value (`?`, for the horsepower of six cars) are dropped, and their number is printed. A fifth
    of the rows is the test split, and a fifth of the others the validation split. The column `origin`, 1, 2 or 3,
    becomes the columns `origin_USA`, `origin_Europe` and `origin_Japan`.

    The built-in sample is another table, and a message names it: scikit-learn's diabetes table of 442 patients
    (Efron et al., "Least Angle Regression", 2004), whose target is the progression of the disease after a year.

    Batches are `({column: float32 [batch]}, target float32 [batch])`. `source` is `"auto_mpg"` or `"sample"`
    once prepared, and the attributes below are set then.

    Args:
        columns: Columns of the table for a batch; `None` for all.
        batch_size: Rows per batch.
        seed: Seed of the splits and of the order of the training batches, which changes each epoch. At 0 a 64-64
            network has about the mean error of seeds 0 to 7 (1.87 mpg on 78 test rows; 1.60 to 2.26).

    Attributes:
        target: Column to predict: `"mpg"`, or `"progression"` of the sample.
        unit: Unit of the target: `"mpg"`, or `"points"`.
        single: The column that predicts most by itself: `"horsepower"`, or `"bmi"`.

    Raises:
        ValueError: `batch_size` is below 1 or `seed` below 0.

    Examples:
        >>> from lightkeras.data.lookup import Lookup
        >>> data = AutoMpg()
        >>> data.prepare(Lookup(source="sample"))
        >>> data.source, data.target, data.train().examples
        ('sample', 'progression', 283)
    """

    def __init__(self, columns: Sequence[str] | None = None, *, batch_size: int = 32, seed: int = 0) -> None:
        check_batching(batch_size, seed)
        if isinstance(columns, str):
            raise ValueError(f"columns={columns!r}: expected a list of columns, [{columns!r}].")
        self.columns = columns
        self.batch_size = batch_size
        self.seed = seed
        self.target, self.unit, self.single = "", "", ""
        self._table: Table | None = None

    def prepare(self, lookup: Lookup) -> None:
        if self.source is not None:
            return
        tried: list[str] = []
        found = (_find(lookup.folder, tried) or _download(tried)) if lookup.may_use_real else None
        if found is None and not lookup.may_use_sample:
            raise FileNotFoundError(
                "Auto MPG was not found, and source='real' does not allow the built-in sample. "
                f"Tried: {'; '.join(tried)}. Put UCI's file {_FILE} into a folder and name that with "
                "LIGHTKERAS_DATA_DIR or --data_dir, or run once with access to the network."
            )
        if found is None:
            if tried:
                announce(
                    f"Auto MPG was not found (no data folder has it, and {tried[-1]}): using the built-in sample, "
                    "which is another table: scikit-learn's, of the progression of diabetes",
                    once=True,
                )
            table, names = self._made(_sample(), "progression", _SAMPLE_FEATURES), ("sample", "points", "bmi")
        else:
            table, names = self._made(TableFile(found, _COLUMNS), "mpg", _FEATURES), ("auto_mpg", "mpg", "horsepower")
        table.prepare(lookup)
        self._table, self.target = table, table.target
        self.source, self.unit, self.single = names

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of a batch, in order; set once prepared."""
        return self._prepared("columns").features

    def train(self) -> ArrayFeed:
        return self._prepared("train data").train()

    def validation(self) -> ArrayFeed | None:
        return self._prepared("validation data").validation()

    def test(self) -> ArrayFeed | None:
        return self._prepared("test data").test()

    def predict(self, inputs: Sequence[str | Mapping[str, Any]]) -> ArrayFeed:
        """Batches of rows without targets, as in `Table.predict`: of `"cylinders=4,displacement=140,..."`."""
        return self._prepared("columns").predict(inputs)

    def _prepared(self, what: str) -> Table:
        if self._table is None:
            raise RuntimeError(f"AutoMpg has no {what} yet: call `prepare(lookup)` first.")
        return self._table

    def _made(self, table: TableFile | Mapping[str, Any], target: str, features: Sequence[str | OneHot]) -> Table:
        wanted: Sequence[str | OneHot] = features
        if self.columns is not None:
            one_hot = {feature.column: feature for feature in features if isinstance(feature, OneHot)}
            wanted = [one_hot.get(name, name) for name in self.columns]
        return Table(table, target, features=wanted, batch_size=self.batch_size, seed=self.seed)


def _find(folder: Path | None, tried: list[str]) -> Path | None:
    """Finds the file in the data folder, else in Keras's cache; failed attempts are appended to `tried`."""
    if folder is None:
        tried.append("no data folder is named by LIGHTKERAS_DATA_DIR or --data_dir")
    home = os.environ.get("KERAS_HOME")
    cache = (Path(home) if home else Path.home() / ".keras") / "datasets"
    for base in (folder, cache):
        if base is not None:
            if (base / _FILE).is_file():
                return base / _FILE
            tried.append(f"no file {base / _FILE}")
    return None


def _download(tried: list[str]) -> Path | None:
    if not reachable(URL):
        tried.append(f"{URL} does not answer")
        return None
    import keras

    announce(f"downloading {_FILE} with Keras")
    announce(f"limits of the download: {limits()}")
    try:
        with limited(_FILE):
            return Path(keras.utils.get_file(_FILE, URL))
    except Exception as error:  # Keras raises a bare Exception for any error of urllib
        tried.append(f"Keras could not download {URL}: {error}")
        return None


def _sample() -> dict[str, Any]:
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    return {**dict(zip(_SAMPLE_COLUMNS, found.data.T, strict=True)), "progression": found.target}
