"""Programs on JAX: many steps in one call, traced twice and compiled once for each form."""

import threading

import jax
import keras
import numpy as np
import pytest
from by_hand import (
    LINE,
    Line,
    Noisy,
    learn,
    noisy_data,
    one_weight,
    prepared,
)
from keras import layers, ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.jax import programs


def test_more_steps_than_the_table_of_logs_has_rows_are_one_call():
    count = programs.MIN_ROWS + 3
    feed = ArrayFeed((np.arange(count, dtype="float32")[:, None] / 1e4, np.zeros((count, 1))), 1)
    engine, _trace, program = prepared(Line(), feed)
    logs = program.run(engine.open(feed), count)
    np.testing.assert_array_equal(logs.values["largest"], feed.arrays[0][:, 0])


def test_calls_of_other_lengths_compile_nothing_new():
    feed = ArrayFeed(noisy_data(1000), 10)
    engine, _trace, program = prepared(Noisy(), feed)
    stream = engine.open(feed)
    program.run(stream, 1)
    with Compilations() as found:
        for count in (1, 2, 3, 7, 20, 64):
            assert program.run(stream, count).steps
    assert found == []


class Compilations:
    """With a list of the functions that are compiled meanwhile, whether or not they were in the cache."""

    def __enter__(self):
        self.found, self.thread = [], threading.get_ident()
        jax.monitoring.register_event_duration_secs_listener(self.note)
        return self.found

    def note(self, event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration" and threading.get_ident() == self.thread:
            self.found.append(event)

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self.note)


def test_a_trace_builds_the_optimizer_and_knows_every_variable():
    task = Noisy()
    task.set_up(0)
    trace = task.bind(make_engine).trace(task.run_train_step, ArrayFeed(noisy_data(20), 10).spec)
    assert task.optimizer.built
    assert {id(variable) for variable in task.variables().values()} == {id(variable) for variable in trace.variables}


def test_the_step_is_run_twice_by_python_and_its_trace_is_compiled():
    class Counting(Line):
        calls = 0

        def train_step(self, batch):
            self.calls += 1
            return super().train_step(batch)

    task, feed = Counting(), ArrayFeed(LINE, 2)
    engine, _trace, program = prepared(task, feed)
    assert task.calls == 2  # once to build what builds itself
    stream = engine.open(feed)
    program.run(stream, 1)
    engine.gradient_sizes(task.run_train_step, engine.open(feed))
    assert task.calls == 2
    program.run(stream, 1)  # the smaller last batch
    assert task.calls == 4
    engine.program(task.run_train_step, ["largest", "loss"]).run(
        engine.open(feed), 1
    )  # what is made anew is traced anew
    assert task.calls == 6


def test_a_learning_rate_that_is_set_between_calls_takes_effect():
    task, feed = Line(), ArrayFeed(LINE, 1)
    engine, _trace, program = prepared(task, feed)
    stream = engine.open(feed)
    program.run(stream, 1)
    task.optimizer.learning_rate = 0.0
    before = task.model.get_weights()[0].item()
    program.run(stream, 2)
    assert task.model.get_weights()[0].item() == before != 1.0


def test_what_was_frozen_stays_in_a_program_that_is_made_anew():
    task, feed = Line(), ArrayFeed(LINE, 1)
    task.build_model = lambda: keras.Sequential([keras.Input((1,)), one_weight(1.0), one_weight(1.0)])
    engine, trace, program = prepared(task, feed)
    program.run(engine.open(feed), 1)
    first, second = [weight.item() for weight in task.model.get_weights()]
    task.model.layers[0].trainable = False
    engine.program(task.run_train_step, trace.names).run(engine.open(feed), 1)
    assert task.model.get_weights()[0].item() == first
    assert task.model.get_weights()[1].item() != second


def test_batches_of_many_shapes_are_warned_of_with_the_way_out():
    class Mean(Line):
        def loss(self, batch, training):
            return super().loss((ops.mean(batch, axis=0, keepdims=True), ops.zeros((1, 1))), training)

    feed = as_feed(lambda: (np.ones((length, 1), "float32") for length in range(1, programs.MANY_FORMS + 1)))
    warning = (
        r"had 8 shapes so far, the last one float32\[8, 1\], .* JAX compiles .* which took \d+\.\d s so far\. Pad all"
    )
    with pytest.warns(UserWarning, match=warning):
        assert learn(Mean(), feed)["largest"].tolist() == [1.0] * 8


def test_layers_that_are_made_in_the_step_are_refused():
    class Careless(Line):
        def loss(self, batch, training):
            return ops.mean(layers.Dense(1)(batch[0])) + super().loss(batch, training)

    with pytest.raises(ValueError, match="creates new variables in each run"):
        learn(Careless(), ArrayFeed(LINE, 2))
