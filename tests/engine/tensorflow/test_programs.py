"""Programs on TensorFlow: many steps in one call, traced and compiled once."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    LINE,
    Line,
    Square,
    learn,
    predictions,
    prepared,
)
from keras import ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine


def test_an_evaluation_is_traced_once_and_has_one_form_for_batches_of_any_size():
    runs = []

    class Counted(Line):
        def evaluate_step(self, batch):
            runs.append(1)
            return super().evaluate_step(batch)

    task, feed = Counted(), ArrayFeed(LINE, 2)
    task.set_up(0)
    engine = task.bind(make_engine)
    trace = engine.trace(task.run_evaluate_step, feed.spec)
    program = engine.program(task.run_evaluate_step, trace.names)
    stream = engine.open(feed)
    logs = [program.run(stream, 1) for _ in range(2)]
    # With w = 1 the errors are -1 and -2, then -3.
    assert [part.values["loss"].tolist() for part in logs] == [[2.5], [9.0]]
    assert [part.examples.tolist() for part in logs] == [[2], [1]]
    assert (len(runs), len(program.forms)) == (1, 1)
    task.model.set_weights([np.float32([[2.0]])])  # the trace holds the variables, and not their values
    assert program.run(engine.open(feed), 1).values["loss"].tolist() == [0.0]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool"])
def test_numbers_of_any_dtype_reach_the_step(dtype):
    class Cast(Line):
        def loss(self, batch, training):
            self.dtype = batch[0].dtype.name
            return super().loss([ops.cast(part, "float32") for part in batch], training)

    x = np.array([[1], [0], [1]], dtype)
    task = Cast()
    logs = learn(task, ArrayFeed((x, x), 2))
    assert logs["largest"].tolist() == [1.0, 1.0]
    assert logs["loss"].tolist() == [0.0, 0.0]
    assert task.dtype == ("float32" if dtype == "float64" else dtype)  # as in Keras


def test_batches_of_many_shapes_are_compiled_for_once():
    class Mean(Line):
        def loss(self, batch, training):
            return super().loss((ops.mean(batch, axis=1, keepdims=True), ops.zeros((1, 1))), training)

    dataset = tf.data.Dataset.range(1, 21).map(lambda n: tf.cast(tf.range(n), tf.float32)).padded_batch(1)
    traces = []

    class Counted(Mean):
        def loss(self, batch, training):
            traces.append(batch.shape)
            return super().loss(batch, training)

    task = Counted()
    engine, _trace, program = prepared(task, feed := as_feed(dataset))
    traces.clear()
    stream = engine.open(feed)
    assert [program.run(stream, 7).steps for _ in range(3)] == [7, 7, 6]
    assert program.forms == ["float32(None, None)"]
    assert {tuple(shape) for shape in traces} == {(None, None)}
    assert len(traces) == 1


@pytest.mark.parametrize("examples", [1, 2, 3, 10, 12])
def test_predictions_keep_order_and_structure_for_any_number_of_inputs(examples):
    x = np.arange(examples, dtype="float32")[:, None]
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(3)
    for data in (x, dataset):
        parts = predictions(Square(), data, count=2)
        joined = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        np.testing.assert_array_equal(joined["square"], x * x)
        np.testing.assert_array_equal(joined["pair"][0], x + 1)
        assert joined["pair"][1].tolist() == list(range(examples))
        assert joined["pair"][1].dtype == np.int32


def test_text_comes_out_of_a_prediction():
    class Shout(Line):
        def predict_step(self, batch):
            return tf.strings.upper(batch)

    (part,) = predictions(Shout(), np.array(["a", "b"]))
    assert part.tolist() == [b"A", b"B"]
