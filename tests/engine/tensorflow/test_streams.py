"""Streams on TensorFlow: every source gives the same steps, from any position."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    LINE,
    LINE_LOSSES,
    LINE_WEIGHTS,
    Batches,
    Iterable,
    Line,
    Noisy,
    assert_same,
    batches,
    learn,
    left_in,
    noisy_data,
    prepared,
    weights,
)
from keras import layers, ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.tensorflow import TensorFlowEngine
from lightkeras.task import Task


def test_a_stream_is_opened_at_a_position():
    feed = ArrayFeed((np.arange(10, dtype="float32")[:, None], np.zeros((10, 1))), 2)
    dataset = as_feed(tf.data.Dataset.from_tensor_slices(feed.arrays).batch(2))
    for source in (feed, dataset):
        engine, _trace, program = prepared(Line(), source)
        assert program.run(engine.open(source, epoch=0, step=3), 5).values["largest"].tolist() == [7.0, 9.0]


def test_text_reaches_the_step_as_strings():
    class Lengths(Line):
        def loss(self, batch, training):
            length = tf.cast(tf.strings.length(batch["text"]), tf.float32)[:, None]
            return super().loss((length, batch["label"]), training)

    arrays = {"text": np.array(["a", "ab", "abc"]), "label": np.int32([[2], [4], [6]])}
    for feed in (ArrayFeed(arrays, 2), as_feed(tf.data.Dataset.from_tensor_slices(arrays).batch(2))):
        task = Lengths()
        assert learn(task, feed)["loss"].tolist() == LINE_LOSSES
        assert task.model.get_weights()[0].item() == LINE_WEIGHTS[-1]


STREAMS = {
    "tf.data": lambda arrays: tf.data.Dataset.from_tensor_slices(arrays).batch(10),
    "tf.data of unknown length": lambda arrays: (
        tf.data.Dataset.from_tensor_slices(arrays).filter(lambda x, y: True).batch(10)
    ),
    "generator": lambda arrays: lambda: batches(arrays, 10),
    "iterable": lambda arrays: Iterable(arrays),
    "PyDataset": lambda arrays: Batches(arrays, 10),
}


@pytest.fixture(scope="module")
def from_tf_data():
    task = Noisy()
    return learn(task, as_feed(STREAMS["tf.data"](noisy_data(203))), 1, epochs=2), weights(task)


def test_a_stream_gives_the_weights_of_arrays_in_the_same_order(from_arrays, from_tf_data):
    # Not bit for bit: a stream's batch may have any size, and TensorFlow rounds a mean over a size that
    # is known to it in another way.
    np.testing.assert_allclose(from_tf_data[0]["loss"], from_arrays[0]["loss"], rtol=1e-5)
    for found, expected in zip(from_tf_data[1], from_arrays[1], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", STREAMS)
def test_every_kind_of_stream_gives_the_same_weights_whatever_the_steps_per_call(from_tf_data, kind):
    task = Noisy()
    logs = learn(task, as_feed(STREAMS[kind](noisy_data(203))), 8, epochs=2)
    assert logs["examples"].tolist() == ([10] * 20 + [3]) * 2
    np.testing.assert_array_equal(logs["loss"], from_tf_data[0]["loss"])
    assert_same(weights(task), from_tf_data[1])


def test_a_stream_with_rows_of_another_length_in_each_batch_is_read():
    class Mean(Line):
        def loss(self, batch, training):
            return super().loss((ops.mean(batch, axis=1, keepdims=True), ops.zeros((1, 1))), training)

    dataset = tf.data.Dataset.range(1, 5).map(lambda n: tf.cast(tf.range(n), tf.float32)).padded_batch(1)
    logs = learn(Mean(), as_feed(dataset), 3)
    assert logs["largest"].tolist() == [0.0, 0.5, 1.0, 1.5]


def test_an_error_in_a_stream_comes_out_with_its_message():
    def broken():
        yield LINE
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match=r"^the disk is on fire$"):
        learn(Line(), as_feed(broken))


def streams_of(arrays, size):
    batches = tf.data.Dataset.from_tensor_slices(arrays)

    def generator():
        for start in range(0, len(arrays[0]), size):
            yield tuple(array[start : start + size] for array in arrays)

    return {
        "arrays": ArrayFeed(arrays, size),
        "dataset": as_feed(batches.batch(size)),
        "whole batches": as_feed(batches.batch(size, drop_remainder=True)),
        "generator": as_feed(generator),
    }


@pytest.mark.parametrize("kind", ["arrays", "dataset", "whole batches", "generator"])
def test_a_batch_at_hand_gives_what_it_gives_inside_its_feed_to_the_bit(kind):
    """Convolutions and matrix products: with an unknown batch size some are computed in another order."""

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
    feed, task = streams_of(arrays, 33)[kind], Images()
    engine, _trace, program = prepared(task, feed)
    variables = list(task.variables().values())
    before = weights(task)
    stream = engine.open(feed)
    logs, after = program.run(stream, 1), weights(task)
    again = engine.open(feed)
    batch, shapes = again.next_batch(), again.shapes()
    np.testing.assert_array_equal(batch[0], arrays[0][:33])
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    found = program.run(engine.open_batch(batch, shapes), 1)
    assert found.values["loss"].tobytes() == logs.values["loss"].tobytes()
    assert_same(weights(task), after)
    assert shapes == {
        "arrays": None,
        "whole batches": [[33, 12, 12, 1], [33, 1]],
    }.get(kind, [[None, 12, 12, 1], [None, 1]])


def test_a_batch_at_hand_is_given_once_in_its_own_form():
    batch = {"b": [np.float64([[1.0]])], "a": np.array([b"x"], object)}
    engine = make_engine()
    seen = []

    def step(given):
        seen.append({"b": [given["b"][0].dtype.name], "a": given["a"].dtype.name})
        return {"loss": ops.sum(given["b"][0])}

    program = engine.program(step, ["loss"])
    stream = engine.open_batch(batch)
    assert program.run(stream, 5).values["loss"].tolist() == [1.0]
    assert program.run(stream, 5).steps == 0
    assert {"b": ["float64"], "a": "string"} in seen


def test_arrays_are_taken_up_at_any_position():
    engine, feed = TensorFlowEngine(), ArrayFeed((np.arange(10, dtype="float32"),), 4, shuffle=True)
    whole = left_in(engine.open(feed, 2, seed=7))
    assert left_in(engine.open(feed, 2, 1, seed=7)) == whole[1:]
    assert engine.open(feed, 2, 1, seed=7).state() is None
