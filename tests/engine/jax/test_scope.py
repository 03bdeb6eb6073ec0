"""Values of variables inside a step on JAX: random draws, branches, and Keras as it was."""

import jax
import keras
import numpy as np
import pytest
from by_hand import (
    LINE,
    LINE_LOSSES,
    LINE_WEIGHTS,
    HalfPrecision,
    InBranch,
    Line,
    learn,
    prepared,
)
from keras import ops

from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.jax.scope import Values


def test_noise_differs_from_step_to_step_with_a_generator_and_without():
    class Draws(Line):
        def train_step(self, batch):
            self.log("unseeded", keras.random.uniform(()))
            return super().train_step(batch)

    task = Draws()
    logs = learn(task, ArrayFeed((np.ones((20, 1)), np.ones((20, 1))), 1))
    assert len(set(logs["unseeded"].tolist())) == 20
    assert "keras.random.0000" in task.variables()
    with pytest.raises(ValueError, match="seeded random ops"):  # Keras is restored
        jax.jit(lambda: keras.random.uniform(()))()


def test_a_branch_may_minimize_and_draw_and_only_the_one_that_is_taken_does():
    task = InBranch()
    x, y = (np.repeat(array[:1], 3, axis=0) for array in LINE)
    logs = learn(task, ArrayFeed((x, y), 1))
    # w = 1: loss 1, gradient -2, w = 1.25; nothing; loss 0.5625, gradient -1.5, w = 1.4375.
    assert logs["loss"].tolist() == [1.0, -1.0, 0.5625]
    assert task.model.get_weights()[0].item() == 1.4375
    assert int(task.optimizer.iterations) == 2
    assert ops.convert_to_numpy(task.noise.state).tolist() == [1, 2]


@pytest.mark.parametrize("task_class", [HalfPrecision, InBranch])
def test_a_step_with_a_condition_is_looked_into(task_class):
    task = task_class()
    engine, _trace, _program = prepared(task, ArrayFeed(LINE, 2))
    logs, seen = engine.run_eagerly(task.run_train_step, tuple(array[:2] for array in LINE))
    assert logs["loss"] == LINE_LOSSES[0]
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[0]
    assert {found.kind for found in seen} == {"layer", "loss", "gradient"}


def test_a_step_that_raises_leaves_keras_as_it_was():
    engine, call = make_engine(), keras.Operation.__call__

    def step(batch):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        engine.run_eagerly(step, LINE)
    with pytest.raises(RuntimeError, match="no"):
        engine.trace(step, ArrayFeed(LINE, 1).spec)
    assert keras.Operation.__call__ is call
    assert Values.current() is None
    with pytest.raises(ValueError, match="seeded random ops"):
        jax.jit(lambda: keras.random.uniform(()))()
