"""The layer that adds weighted rows, against the sums written out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from lightkeras.data.bags import Bags
from lightkeras.encoders.hub.bag_embedding import BagEmbedding, bag_inputs

pytestmark = pytest.mark.backends("tensorflow", reason="the other backends are tried by tests of their engines")

TABLE = np.array([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]], "float32")
BAGS = Bags(np.array([0, 2, 1], "int32"), np.array([1.0, 0.5, -1.0], "float32"), np.array([0, 2, 2, 3]))
SUMS = [[51.0, 102.0], [0.0, 0.0], [-10.0, -20.0]]


@pytest.fixture
def layer():
    made = BagEmbedding(3, 2)
    made.set_table(TABLE)
    return made


@pytest.mark.parametrize("entries", [None, 8])
def test_each_example_is_the_sum_of_its_rows(layer, entries):
    assert layer(BAGS.batch(entries)).numpy().tolist() == SUMS


def test_an_example_without_entries_at_the_end_is_zero(layer):
    assert layer(BAGS.take(np.array([2, 1])).batch()).numpy().tolist() == [[-10.0, -20.0], [0.0, 0.0]]


def test_the_gradient_is_as_sparse_as_the_batch_when_compiled_for_any_batch(layer):
    specs = {name: tf.TensorSpec([None], value.dtype) for name, value in BAGS.batch().items()}

    @tf.function(input_signature=[specs], autograph=False)
    def gradient(batch):
        table = layer.table.value
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(table)
            total = tf.reduce_sum(layer(batch))
        return tape.gradient(total, table)

    found = gradient(BAGS.batch())
    assert isinstance(found, tf.IndexedSlices)
    assert tf.convert_to_tensor(found).numpy().tolist() == [[1.0, 1.0], [-1.0, -1.0], [0.5, 0.5]]


def test_a_model_with_it_is_saved_and_loaded(layer, tmp_path):
    inputs = bag_inputs()
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    assert model.output.shape == (None, 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(BAGS.batch()), model(BAGS.batch()))


def test_in_half_precision_the_sums_are_still_taken_in_single(layer):
    half = BagEmbedding(3, 2, dtype="mixed_float16")
    half.set_table(TABLE)
    assert half.table.dtype == "float32"
    assert (half(BAGS.batch()).numpy() == np.array(SUMS, "float16")).all()
    assert half(BAGS.batch()).dtype == tf.float16
