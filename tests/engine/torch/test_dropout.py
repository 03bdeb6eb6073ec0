"""Dropout on torch draws from its layer's generator."""

import keras
import numpy as np
import torch
from keras import layers, ops
from keras.src.backend.torch import random as keras_random

from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.torch.dropout import _mixed, seeded_dropout
from lightkeras.task import Task


class Dropped(Task):
    """The share of ones that a dropout of 1/4 leaves, and twice another of 1/2."""

    def build(self):
        self.layer, self.twice = layers.Dropout(0.25), layers.Dropout(0.5)

    def evaluate_step(self, batch):
        ones = ops.ones((100, 100))
        kept = self.layer(ones, training=True)
        pair = [self.twice(ones, training=True) for _ in range(2)]
        self.log("kept", ops.mean(ops.cast(kept > 0, "float32")))
        self.log("where", ops.sum(kept * ops.arange(100.0)))
        self.log("value", ops.max(kept))
        self.log("same", ops.mean(ops.cast(ops.equal(*pair), "float32")))


def test_dropout_comes_from_its_layers_generator_and_leaves_the_global_one():
    task, feed = Dropped(), ArrayFeed(np.zeros((5, 1)), 1)
    task.set_up(0)
    engine = task.bind(make_engine)
    trace = engine.trace(task.run_evaluate_step, feed.spec)
    states = torch.get_rng_state()
    generators = [layer.seed_generator.state for layer in (task.layer, task.twice)]
    assert {id(state) for state in generators} <= {id(variable) for variable in trace.variables}
    before = [state.numpy() for state in generators]
    logs = engine.program(task.run_evaluate_step, trace.names).run(engine.open(feed), 5).values
    assert torch.equal(torch.get_rng_state(), states)
    assert [(state.numpy() - old).tolist() for state, old in zip(generators, before, strict=True)] == [[0, 5], [0, 10]]
    np.testing.assert_allclose(logs["kept"], 0.75, atol=0.02)  # more than four standard deviations of 0.0043
    np.testing.assert_allclose(logs["same"], 0.5, atol=0.025)
    assert len(set(logs["where"].tolist())) == 5
    np.testing.assert_allclose(logs["value"], 4 / 3, rtol=1e-6)


def test_dropout_continues_from_the_state_that_was_put_back():
    task, feed = Dropped(), ArrayFeed(np.zeros((6, 1)), 1)
    task.set_up(0)
    engine = task.bind(make_engine)
    program = engine.program(task.run_evaluate_step, engine.trace(task.run_evaluate_step, feed.spec).names)
    state = task.layer.seed_generator.state
    before = state.numpy()
    whole = program.run(engine.open(feed), 6).values["kept"].tolist()
    state.assign(before + np.int32([0, 2]))
    again = program.run(engine.open(feed), 4).values["kept"].tolist()
    assert again == whole[2:]


def test_a_generator_that_draws_other_numbers_too_counts_both():
    class Both(Task):
        def build(self):
            self.layer = layers.Dropout(0.5)

        def evaluate_step(self, batch):
            self.log("noise", keras.random.normal((), seed=self.layer.seed_generator))
            self.log("kept", ops.mean(self.layer(ops.ones((64,)), training=True)))

    found = []
    for count in (1, 4):
        task, feed = Both(), ArrayFeed(np.zeros((4, 1)), 1)
        task.set_up(0)
        engine = task.bind(make_engine)
        program, stream = engine.program(task.run_evaluate_step, ["noise", "kept"]), engine.open(feed)
        parts = [program.run(stream, count).values for _ in range(4 // count)]
        found.append([np.concatenate([part[name] for part in parts]).tolist() for name in ("noise", "kept")])
        assert task.layer.seed_generator.state.numpy()[1] == 8
    assert found[0] == found[1]
    assert len(set(found[0][0])) == 4


def test_the_seed_of_a_draw_is_the_finalizer_of_splitmix64():
    """The first two numbers of the generator with the seed 1234567, as its authors publish them."""
    first = (1234567 >> 32, 1234567 & 0xFFFFFFFF)
    assert _mixed(*first) == 6457827717110365317
    state = (1234567 + 0x9E3779B97F4A7C15) & (2**64 - 1)
    assert _mixed(state >> 32, state & 0xFFFFFFFF) == 3203168211198807973
    assert _mixed(-1, -1) == _mixed(0xFFFFFFFF, 0xFFFFFFFF)  # the state is kept as int32
    assert len({_mixed(seed, count) for seed in range(9) for count in range(9)}) == 81


def test_dropout_with_a_seed_a_shape_of_its_noise_or_a_rate_at_the_border_is_that_of_keras():
    ones = torch.ones((8, 8))
    before = keras_random.dropout
    with seeded_dropout():
        assert keras_random.dropout is not before
        for rate, expected in [(0.0, 1.0), (1.0, 0.0)]:
            assert float(keras.random.dropout(ones, rate, seed=keras.random.SeedGenerator()).mean()) == expected
        one, other = (keras.random.dropout(ones, 0.5, seed=7) for _ in range(2))
        assert torch.equal(one, other)
        rows = keras.random.dropout(ones, 0.5, noise_shape=(8, 1), seed=keras.random.SeedGenerator())
        assert torch.equal(rows, rows[:, :1].expand(8, 8))
        generator = keras.random.SeedGenerator()
        keras.random.dropout(ones, 0.5, seed=generator)
        assert generator.state.numpy()[1] == 1
    assert keras_random.dropout is before
