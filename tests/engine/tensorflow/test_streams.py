"""Streams on TensorFlow: every source gives the same steps, from any position."""

import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    LINE_LOSSES,
    LINE_WEIGHTS,
    Batches,
    Iterable,
    Line,
    Noisy,
    assert_same,
    batches,
    learn,
    noisy_data,
    weights,
)
from keras import ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine


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
