"""Every source of batches gives every engine the same steps, from any position. Run on each backend: `on_backends`."""

import keras
import numpy as np
import pytest
from by_hand import (
    LINE,
    Batches,
    Line,
    Square,
    assert_same,
    batches,
    learn,
    left_in,
    predictions,
    prepared,
    weights,
)
from keras import layers, ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.task import Task


def as_dataset(arrays, size, whole=False):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays).batch(size, drop_remainder=whole)


SOURCES = {
    "arrays": ArrayFeed,
    "generator": lambda arrays, size: as_feed(lambda: batches(arrays, size)),
    "tf.data": lambda arrays, size: as_feed(as_dataset(arrays, size)),
    "tf.data of whole batches": lambda arrays, size: as_feed(as_dataset(arrays, size, whole=True)),
    "PyDataset": lambda arrays, size: as_feed(Batches(arrays, size)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_is_opened_at_a_position(kind):
    feed = SOURCES[kind]((np.arange(10, dtype="float32")[:, None], np.zeros((10, 1), "float32")), 2)
    engine, _trace, program = prepared(Line(), feed)
    assert program.run(engine.open(feed, epoch=0, step=3), 5).values["largest"].tolist() == [7.0, 9.0]


def test_shuffled_arrays_are_opened_at_any_position():
    engine, feed = make_engine(), ArrayFeed((np.arange(10, dtype="float32"),), 4, shuffle=True)
    whole = left_in(engine.open(feed, 2, seed=7))
    assert left_in(engine.open(feed, 2, 1, seed=7)) == whole[1:]
    assert engine.open(feed, 2, 1, seed=7).state() is None


def test_an_error_in_a_stream_comes_out_with_its_message():
    def broken():
        yield LINE
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match=r"^the disk is on fire$"):
        learn(Line(), as_feed(broken))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool"])
@pytest.mark.parametrize("kind", ["arrays", "generator"])
def test_numbers_of_any_dtype_reach_the_step(kind, dtype):
    class Cast(Line):
        def loss(self, batch, training):
            self.dtype = keras.backend.standardize_dtype(batch[0].dtype)
            return super().loss([ops.cast(part, "float32") for part in batch], training)

    x = np.array([[1], [0], [1]], dtype)
    task = Cast()
    logs = learn(task, SOURCES[kind]((x, x), 2))
    assert logs["largest"].tolist() == [1.0, 1.0]
    assert logs["loss"].tolist() == [0.0, 0.0]
    narrow = {"int64": "int32"} if keras.backend.backend() == "jax" else {}
    assert task.dtype == {"float64": "float32", **narrow}.get(dtype, dtype)  # as in Keras


# The long ones are read as the others are.
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.long) if kind in ("tf.data of whole batches", "PyDataset") else kind
        for kind in SOURCES
    ],
)
def test_a_batch_at_hand_gives_what_it_gives_inside_its_feed_to_the_bit(kind):
    """Convolutions and matrix products: some are computed in another order with an unknown batch size, or if the memory
    is not aligned.
    """

    class Images(Task):
        def build_model(self):
            return keras.Sequential(
                [keras.Input((12, 12, 1)), layers.Conv2D(8, 3, activation="relu"), layers.BatchNormalization(),
                 layers.Flatten(), layers.Dense(64, "relu"), layers.Dropout(0.3), layers.Dense(1)]
            )  # fmt: skip

        def loss(self, batch, training):
            x, y = batch
            return ops.mean(ops.square(self.model(x, training=training) - y))

    rng = np.random.default_rng(0)
    arrays = (rng.normal(size=(66, 12, 12, 1)).astype("float32"), rng.normal(size=(66, 1)).astype("float32"))
    feed, task = SOURCES[kind](arrays, 33), Images()
    engine, _trace, program = prepared(task, feed)
    variables = list(task.variables().values())
    before = weights(task)
    logs, after = program.run(engine.open(feed), 1), weights(task)
    again = engine.open(feed)
    batch, shapes = again.next_batch(), again.shapes()
    np.testing.assert_array_equal(batch[0], arrays[0][:33])
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    found = program.run(engine.open_batch(batch, shapes), 1)
    assert found.values["loss"].tobytes() == logs.values["loss"].tobytes()
    assert_same(weights(task), after)
    assert program.run(engine.open_batch(batch), 5).steps == 1
    if keras.backend.backend() == "tensorflow":  # whose compiled steps know the shapes of the stream alone
        size = 33 if kind == "tf.data of whole batches" else None
        assert shapes == (None if kind == "arrays" else [[size, 12, 12, 1], [size, 1]])


@pytest.mark.parametrize("examples", [1, 2, 3, 10, 12])
@pytest.mark.parametrize("kind", ["arrays", "generator", "tf.data"])
def test_predictions_keep_order_and_structure_for_any_number_of_inputs(kind, examples):
    x = np.arange(examples, dtype="float32")[:, None]
    sources = {
        "arrays": x,
        "generator": lambda: (x[start : start + 3] for start in range(0, examples, 3)),
        "tf.data": as_dataset(x, 3) if kind == "tf.data" else None,
    }
    parts = predictions(Square(), sources[kind], count=2)
    joined = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
    np.testing.assert_array_equal(joined["square"], x * x)
    np.testing.assert_array_equal(joined["pair"][0], x + 1)
    assert joined["pair"][1].tolist() == list(range(examples))
    assert joined["pair"][1].dtype == np.int32


def test_a_dataset_with_rows_of_another_length_in_each_batch_is_read():
    import tensorflow as tf

    class Mean(Line):
        def loss(self, batch, training):
            return super().loss((ops.mean(batch, axis=1, keepdims=True), ops.zeros((1, 1))), training)

    dataset = tf.data.Dataset.range(1, 5).map(lambda n: tf.cast(tf.range(n), tf.float32)).padded_batch(1)
    assert learn(Mean(), as_feed(dataset), 3)["largest"].tolist() == [0.0, 0.5, 1.0, 1.5]
