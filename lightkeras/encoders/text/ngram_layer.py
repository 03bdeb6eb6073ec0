"""N-grams of texts in a TensorFlow graph, so that `model.keras` takes text."""

from __future__ import annotations

from typing import Any, final

import keras
import numpy as np

from lightkeras.encoders.hub.bag_embedding import INPUTS
from lightkeras.encoders.hub.layer import runs_modules
from lightkeras.encoders.text.ngram_keys import BITS, Ngrams
from lightkeras.encoders.text.words import MARKS, TAGS


@final
@keras.saving.register_keras_serializable(package="lightkeras")
class NgramBags(keras.layers.Layer):  # type: ignore[misc]
    """Texts as bags of n-grams, as `lk.NgramVectorizer` makes them, in a model that runs on TensorFlow.

    On JAX and PyTorch a model with it can be built, saved and loaded, but not run.

    Args:
        longest: Words of the longest n-grams.
        counted: Whether weights are multiplied by the count of the n-gram in the text.
        normalized: Whether weights of a text are divided by their Euclidean length.
        name: The layer's name. `None` means Keras numbers it.
        dtype: Not used: weights are float32. Part of Keras's contract.

    Raises:
        RuntimeError: It is called with texts on another backend than TensorFlow.
    """

    def __init__(
        self, longest: int, counted: bool, normalized: bool, name: str | None = None, dtype: Any = None
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=False, autocast=False)
        self.longest, self.counted, self.normalized = longest, counted, normalized
        self._grams: Ngrams | None = None
        self._table: Any = None
        self.built = True

    @classmethod
    def of(cls, grams: Ngrams, name: str) -> NgramBags:
        """Makes a layer of known n-grams."""
        layer = cls(grams.longest, grams.counted, grams.normalized, name)
        layer._grams = grams
        return layer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Checked before Keras converts text to a tensor, which fails on these backends.
        given = keras.tree.flatten((args, kwargs))
        if not runs_modules() and not any(isinstance(value, keras.KerasTensor) for value in given):
            raise RuntimeError(
                f"NgramBags {self.name!r} runs string operations of TensorFlow, but Keras runs on "
                f"{keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow before Keras is imported, or predict with "
                "the run directory, where lk.NgramVectorizer works on every backend."
            )
        return super().__call__(*args, **kwargs)

    def call(self, inputs: Any) -> dict[str, Any]:
        """The arrays of `Bags.batch` of texts, string `[batch]`."""
        import tensorflow as tf

        grams = self.grams
        with tf.device("CPU:0"):
            text = tf.strings.regex_replace(tf.strings.lower(inputs), TAGS, " ")
            words = tf.strings.split(tf.strings.regex_replace(text, f"({MARKS})", r" \1 "))
            ids, rows = self._numbers().lookup(words.flat_values), words.value_rowids()
            count = tf.shape(inputs, tf.int64)[0]
            owners, found = self._found(ids, rows, grams)
            entries, repeats = _distinct(owners * len(grams) + found)
            owners, found = entries // len(grams), entries % len(grams)
            weights = tf.gather(tf.constant(grams.weights), found)
            if self.counted:
                weights *= tf.cast(repeats, tf.float32)
            if self.normalized:
                squares = tf.math.unsorted_segment_sum(tf.cast(weights, tf.float64) ** 2, owners, count)
                lengths = tf.gather(tf.sqrt(squares), owners)
                weights = tf.cast(tf.cast(weights, tf.float64) / tf.where(lengths > 0, lengths, 1.0), tf.float32)
            counts = tf.math.unsorted_segment_sum(tf.ones_like(owners), owners, count)
        bags = {"counts": counts, "ids": found, "weights": weights, "rows": owners}
        return {name: tf.cast(bags[name], dtype) for name, dtype in INPUTS.items()}

    def _found(self, ids: Any, rows: Any, grams: Ngrams) -> tuple[Any, Any]:
        """Texts and positions of the known n-grams, as `Ngrams.bags` finds them."""
        import tensorflow as tf

        known, owners, positions = tf.constant(grams.keys), [], []
        for order in range(1, self.longest + 1):
            count = tf.maximum(tf.size(ids) - order + 1, 0)
            keys, whole = tf.zeros([count], tf.int64), tf.ones([count], tf.bool)
            for place in range(order):
                part = ids[place : place + count]
                keys = tf.bitwise.bitwise_or(tf.bitwise.left_shift(keys, tf.constant(BITS, tf.int64)), part)
                whole &= part > 0
            whole &= rows[:count] == rows[order - 1 : order - 1 + count]
            keys, begins = tf.boolean_mask(keys, whole), tf.boolean_mask(rows[:count], whole)
            places = tf.minimum(tf.searchsorted(known, keys), len(grams) - 1)
            hits = tf.gather(known, places) == keys
            owners.append(tf.boolean_mask(begins, hits))
            positions.append(tf.cast(tf.boolean_mask(places, hits), tf.int64))
        return tf.concat(owners, 0), tf.concat(positions, 0)

    def _numbers(self) -> Any:
        """The look-up table of word numbers; an unknown word is 0."""
        if self._table is None:
            import tensorflow as tf

            words = list(self.grams.words)
            with tf.init_scope():  # a graph may be being traced; the table outlives it
                pairs = tf.lookup.KeyValueTensorInitializer(
                    tf.constant(words, tf.string), tf.range(1, len(words) + 1, dtype=tf.int64)
                )
                self._table = tf.lookup.StaticHashTable(pairs, 0)
        return self._table

    @property
    def grams(self) -> Ngrams:
        """The known n-grams; a RuntimeError before they are loaded."""
        if self._grams is None:
            raise RuntimeError(f"NgramBags {self.name!r} has no n-grams: they are loaded with the model's weights.")
        return self._grams

    def compute_output_spec(self, inputs: Any) -> dict[str, Any]:
        sizes = {name: (inputs.shape[0] if name == "counts" else None,) for name in INPUTS}
        return {name: keras.KerasTensor(sizes[name], dtype) for name, dtype in INPUTS.items()}

    def save_own_variables(self, store: Any) -> None:
        for name, array in self.grams.arrays().items():
            store[name] = array

    def load_own_variables(self, store: Any) -> None:
        arrays = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118, it is not a mapping
        self._grams = Ngrams.from_arrays(arrays, self.longest, self.counted, self.normalized)
        self._table = None

    def get_config(self) -> dict[str, Any]:
        own = {"longest": self.longest, "counted": self.counted, "normalized": self.normalized}
        config = super().get_config()
        return {**{name: config[name] for name in ("name", "dtype")}, **own}


def _distinct(entries: Any) -> tuple[Any, Any]:
    """Distinct numbers, ascending, and their counts."""
    import tensorflow as tf

    found, _, counts = tf.unique_with_counts(tf.sort(entries))
    return found, counts
