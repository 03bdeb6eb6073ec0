"""Columns of a table as numbers: medians, categories and scales that are learned from the train split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import keras
import numpy as np

from lightkeras.data.datasets.columns import is_date
from lightkeras.data.structure import Structure
from lightkeras.encoders.base import Encoder, JoinError, inputs_of, join_models, with_inputs
from lightkeras.encoders.table_columns import Category, Date, Learned, Number, from_plain, to_plain
from lightkeras.system import files
from lightkeras.system.digest import Digest
from lightkeras.system.messages import check_whole, did_you_mean

NUMBERS = "numbers"
_COLUMNS = "columns"


@final
class TableEncoder(Encoder):
    """Columns of a table as one array of numbers, and texts by their own encoders; for `Task.build_encoder`.

    What it learns, it learns from the train split alone; `model.keras` includes it and takes the columns as the table
    has them, in Keras alone. A column becomes numbers by what it holds:

    - numbers: a missing one is the median. They are scaled to mean 0 and standard deviation 1;
    - categories, which is any other text: a column of 0 and 1 for each category, a missing one among them if the train
      split has any. For a category that the train split does not have, all columns are 0;
    - dates, if every text is an ISO date, such as `"2024-03-01"` or `"2024-03-01T18:30:00"`: the days since 1970 with
      the part of the day, month (1 to 12), day (1 to 31), weekday (0, Monday, to 6) and hour (0 to 24, with the part of
      the hour). A missing one is the median date, the earlier of two. They are scaled like numbers.

    ```python
    def build_data(self):
        return lk.data.Table("houses.csv", "price", incomplete="keep")

    def build_encoder(self):
        return lk.TableEncoder(texts={"description": lk.TextVectorizer(10_000, 50)})

    def build_model(self):
        inputs = self.encoder.inputs()  # {"numbers": ..., "description": ...}
        words = keras.layers.Embedding(10_000, 16)(inputs["description"])
        x = keras.layers.Concatenate()([inputs["numbers"], keras.layers.GlobalAveragePooling1D()(words)])
        return keras.Model(inputs, keras.layers.Dense(1)(x))
    ```

    Args:
        texts: The encoders of columns of text, by the column: `lk.TextVectorizer`, `lk.NgramVectorizer` or
            `lk.TextEncoder`. `None` for none.
        categories: Columns of numbers or dates whose values are categories.
        max_categories: The most categories of a column. More are an error: they are rather texts.

    Raises:
        ValueError: A text column is called `"numbers"` or is among the categories, or `max_categories` is below 1.
        TypeError: An encoder of `texts` is not an `lk.Encoder`.

    Examples:
        >>> import numpy as np
        >>> encoder = TableEncoder()
        >>> towns = np.array(["Bath", "York", "Bath"], dtype=object)
        >>> encoder.fit([{"rooms": np.array([3.0, np.nan, 5.0], "float32"), "town": towns}])
        >>> encoder.feature_names
        ('rooms', 'town_Bath', 'town_York')
        >>> encoder.encode({"rooms": np.array([4.0], "float32"), "town": towns[:1]})["numbers"].tolist()
        [[0.0, 1.0, 0.0]]
    """

    fills_missing = True

    def __init__(
        self,
        texts: Mapping[str, Encoder] | None = None,
        *,
        categories: Sequence[str] = (),
        max_categories: int = 1000,
    ) -> None:
        check_whole("TableEncoder", "max_categories", max_categories, 1, numpy=True)
        if isinstance(categories, str):
            raise ValueError(f"TableEncoder(categories={categories!r}): expected a list of columns, [{categories!r}].")
        self._texts = dict(texts or {})
        self._categories, self._most = tuple(categories), int(max_categories)
        for name, encoder in self._texts.items():
            if not isinstance(encoder, Encoder):
                raise TypeError(
                    f"TableEncoder(texts={{{name!r}: ...}}) got {type(encoder).__name__}: expected an lk.Encoder, such "
                    "as lk.TextVectorizer(max_tokens=10_000, length=50)."
                )
            if name == NUMBERS or name in self._categories:
                reason = "is also among the categories" if name in self._categories else "is the name of the numbers"
                raise ValueError(f"TableEncoder(texts={{{name!r}: ...}}): {name!r} {reason}. Rename or remove it.")
        self.block = min((encoder.block for encoder in self._texts.values()), default=4096)
        self._learned: dict[str, Learned | None] = {}

    @property
    def is_fitted(self) -> bool:
        return bool(self._learned) and all(encoder.is_fitted for encoder in self._texts.values())

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the numbers, in order: `rooms`, `town_Bath`, `town_missing`, `sold_month`."""
        self._known()
        return tuple(name for column, learned in self._of_numbers() for name in learned.names(column))

    def fit(self, batches: Iterable[Structure]) -> None:
        parts = list(batches)
        if not parts:
            raise ValueError("TableEncoder received no rows: expected at least one.")
        columns = [_columns_of(inputs_of(batch)) for batch in parts]
        for name in (*self._texts, *self._categories):
            if name not in columns[0]:
                raise ValueError(f"TableEncoder: the table has no column {name!r}. {did_you_mean(name, columns[0])}")
        found: dict[str, Learned | None] = {}
        for name in columns[0]:
            if "/" in name:
                raise ValueError(
                    f"TableEncoder: column {name!r} would be the name of an input of the model, and Keras allows no "
                    "'/' in one: rename the column."
                )
            if name in self._texts:
                encoder = self._texts[name]
                if not encoder.is_fitted:
                    encoder.fit([with_inputs(batch, of[name]) for batch, of in zip(parts, columns, strict=True)])
                found[name] = None
            else:
                found[name] = self._learned_from(name, np.concatenate([of[name] for of in columns]))
        self._learned = found

    def _learned_from(self, name: str, values: np.ndarray) -> Learned:
        if name in self._categories:
            return Category.of(values, name, self._most)
        if values.dtype != object:
            return Number.of(values, name)
        written = {value for value in set(values.tolist()) if value}
        if written and all(map(is_date, written)):
            return Date.of(values, name)
        return Category.of(values, name, self._most)

    def state(self) -> dict[str, np.ndarray]:
        self._known()
        plain = {name: None if one is None else to_plain(one) for name, one in self._learned.items()}
        state = {_COLUMNS: np.frombuffer(json.dumps(plain).encode(), np.uint8)}
        for number, encoder in enumerate(self._texts.values()):
            state |= {f"text_{number}.{name}": array for name, array in encoder.state().items()}
        return state

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        plain = files.decode_json(state[_COLUMNS].astype(np.uint8).tobytes(), dict[str, Any])
        learned = {name: None if one is None else from_plain(one) for name, one in plain.items()}
        if {name for name, one in learned.items() if one is None} != set(self._texts) or not learned:
            raise ValueError(
                f"it holds the columns {', '.join(learned) or 'none'}, and TableEncoder has encoders of the texts "
                f"{', '.join(self._texts) or 'none'}: expected those of its columns of text."
            )
        for number, encoder in enumerate(self._texts.values()):
            prefix = f"text_{number}."
            own = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
            if own:
                encoder.restore(own)
        self._learned = learned

    @property
    def fingerprint(self) -> str:
        self._known()
        texts = [encoder.fingerprint for encoder in self._texts.values()]
        return Digest("TableEncoder ", self.state()[_COLUMNS], *texts).hex()

    def record(self) -> dict[str, Any]:
        kinds = {name: "text" if one is None else one.kind for name, one in self._learned.items()}
        texts = {name: encoder.record() for name, encoder in self._texts.items()}
        return {**super().record(), "columns": kinds, "texts": texts}

    def encode(self, inputs: Structure) -> dict[str, Any]:
        """Converts rows to numbers, and their texts to features.

        Args:
            inputs: The columns by name, as in the train split: numbers `[n]`, or text, an array `[n]` of `bytes` or
                `str`, which is empty where a value is missing.

        Returns:
            `"numbers"`, float32 `[n, len(feature_names)]`, unless all columns are texts; and the features of each
            column of text by its name.

        Raises:
            ValueError: A column is missing or unknown, or a text in a column of dates is not a date.
            TypeError: A column is text and was numbers, or the other way round.
        """
        self._known()
        columns = self._checked(_columns_of(inputs))
        numbers = [learned.encode(columns[name], name) for name, learned in self._of_numbers()]
        texts = {name: encoder.encode(columns[name]) for name, encoder in self._texts.items()}
        return {**({NUMBERS: np.concatenate(numbers, axis=1)} if numbers else {}), **texts}

    def inputs(self) -> dict[str, Any]:
        """New `keras.Input`s: `"numbers"`, float32 `[batch, len(feature_names)]`, and those of each column of text."""
        width = len(self.feature_names)
        numbers = {NUMBERS: keras.Input((width,), name=NUMBERS)} if width else {}
        return {**numbers, **{name: _renamed(encoder.inputs(), name) for name, encoder in self._texts.items()}}

    def join(self, model: keras.Model) -> keras.Model:
        """Joins the encoder and the model to a model of the columns: `{column: float32 or string [batch]}`.

        A missing number is NaN, and a missing text empty. A text that is not a date counts as missing in a column of
        dates. A model with columns of text runs only on TensorFlow.

        Raises:
            JoinError: The model is subclassed, or there are columns of text and TensorFlow is not installed.
        """
        self._known()
        dtypes = {name: "string" if one is None else one.dtype for name, one in self._learned.items()}
        raw = {name: keras.Input((), dtype=dtype, name=name) for name, dtype in dtypes.items()}
        try:
            numbers = [learned.join(raw[name], name) for name, learned in self._of_numbers()]
        except ImportError as error:
            raise JoinError(f"Text in a model needs TensorFlow, which is not installed: {error}") from error
        features = {NUMBERS: keras.ops.concatenate(numbers, axis=-1)} if numbers else {}
        for name, encoder in self._texts.items():
            inputs = encoder.inputs()
            # Keras 3.10 makes no model of inputs alone.
            features[name] = encoder.join(keras.Model(inputs, keras.layers.Identity()(inputs)))(raw[name])
        return join_models(raw, features, model, "TableEncoder")

    def _known(self) -> None:
        if not self._learned:
            raise RuntimeError("TableEncoder knows no columns yet: call fit(batches) with the train split first.")

    def _of_numbers(self) -> list[tuple[str, Learned]]:
        return [(name, learned) for name, learned in self._learned.items() if learned is not None]

    def _checked(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name in (*self._learned, *columns):
            if name not in columns or name not in self._learned:
                problem = "lack the column" if name in self._learned else "have the unknown column"
                raise ValueError(
                    f"TableEncoder: the inputs {problem} {name!r}: expected those of the train split, "
                    f"{', '.join(self._learned)}."
                )
        for name, learned in self._of_numbers():
            if (columns[name].dtype == object) != (learned.dtype == "string"):
                was = {"string": "text", "float32": "numbers"}[learned.dtype]
                raise TypeError(
                    f"TableEncoder: column {name!r} is {columns[name].dtype}: expected {was}, as in the train split."
                )
        return columns


def _columns_of(inputs: Structure) -> dict[str, np.ndarray]:
    """The columns of a batch: float32 and object arrays `[n]`; a TypeError if the inputs are not columns."""
    if not isinstance(inputs, Mapping):
        raise TypeError(
            f"TableEncoder takes a dict of columns, and the inputs of the batch are {type(inputs).__name__}: expected "
            "{column: array [examples]}, as lk.data.Table has them."
        )
    columns = {}
    for name, array in inputs.items():
        is_column = isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in "biufO"
        if not is_column:
            form = f"{getattr(array, 'dtype', type(array).__name__)}{list(getattr(array, 'shape', ()))}"
            raise TypeError(f"TableEncoder: column {name!r} is {form}: expected numbers or text, [examples].")
        columns[str(name)] = array if array.dtype == object else array.astype(np.float32, copy=False)
    return columns


def _renamed(inputs: Structure, column: str) -> Structure:
    """New inputs that are named after a column, because those of several encoders would have the same names."""

    def renamed(tensor: Any) -> Any:
        name = column if tensor is inputs else f"{column}_{tensor.name}"
        return keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name)

    return keras.tree.map_structure(renamed, inputs)
