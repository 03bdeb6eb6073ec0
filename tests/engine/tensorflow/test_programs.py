"""Programs on TensorFlow: many steps in one call, traced and compiled once."""

import numpy as np
import tensorflow as tf
from by_hand import (
    LINE,
    Line,
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


def test_text_comes_out_of_a_prediction():
    class Shout(Line):
        def predict_step(self, batch):
            return tf.strings.upper(batch)

    (part,) = predictions(Shout(), np.array(["a", "b"]))
    assert part.tolist() == [b"A", b"B"]
