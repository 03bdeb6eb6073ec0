"""A finder leaves nothing behind: neither after its steps nor after one that failed."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import lightkeras as lk
from lightkeras.system import random_states
from lightkeras.testing import TwoMoons


class Noisy(TwoMoons):
    """Everything that a step may change: weights, slots, normalization, dropout, metrics, seeds of Keras and NumPy."""

    def build_model(self):
        hidden = [layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Dropout(0.3)]
        return keras.Sequential([layers.Input((2,)), *hidden, layers.Dense(1)])

    def build(self):
        super().build()
        self.mean = keras.metrics.Mean("mean")
        self.seed = keras.random.SeedGenerator(7)

    def train_step(self, batch):
        points, label = batch
        noise = keras.random.normal(ops.shape(points)) + keras.random.normal(ops.shape(points), seed=self.seed)
        self.mean.update_state(ops.mean(noise))
        np.random.rand(), random.random()  # while the step is traced
        return super().train_step((points + 0.01 * noise, label))


def states() -> list[Any]:
    name, keys, *rest = np.random.get_state()
    return [random.getstate(), name, keys.tolist(), *rest]


def draw() -> list[float]:
    return ops.convert_to_numpy(keras.random.uniform((2,))).tolist()


def values(task: lk.Task) -> dict[str, np.ndarray]:
    return {key: ops.convert_to_numpy(ops.copy(variable)) for key, variable in task.variables().items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key])


BARE = {"progress": False, "pictures": False, "export": False, "preflight": False}
FINDERS = [
    pytest.param(lambda runner, task: runner.find_learning_rate(task, steps=25), id="find_learning_rate"),
    pytest.param(lambda runner, task: runner.find_batch_size(task, high=32, steps=2), id="find_batch_size"),
]


@pytest.mark.parametrize("find", FINDERS)
def test_a_task_that_was_trained_keeps_all_its_state_to_the_bit(tmp_path, find):
    task, runner = Noisy(), lk.Runner(max_epochs=1, **BARE, run_dir=tmp_path / "run")
    runner.fit(task)
    random_states.seed(3)
    _, second = draw(), draw()  # of Keras's own generator
    random_states.seed(3)
    draw()
    before = values(task)
    at_random = states()
    find(lk.Runner(progress=False), task)
    assert_same(values(task), before)
    assert states() == at_random
    assert draw() == second


@pytest.mark.parametrize(
    "find", [FINDERS[0], pytest.param(*FINDERS[1].values, id=FINDERS[1].id, marks=pytest.mark.long)]
)
def test_a_fit_ends_with_the_same_weights_whether_or_not_a_finder_ran_before(tmp_path, find):
    ends = []
    for name in ("with", "without"):
        task, runner = Noisy(), lk.Runner(max_epochs=2, **BARE, run_dir=tmp_path / name)
        if name == "with":
            find(runner, task)
        runner.fit(task)
        ends.append(values(task))
    assert_same(*ends)


@pytest.mark.backends("tensorflow", reason="the step fails by an operation of TensorFlow")
@pytest.mark.parametrize("find", FINDERS)
def test_a_step_that_fails_is_undone_too(find):
    class Fails(TwoMoons):
        def train_step(self, batch):
            points, _ = batch
            loss = super().train_step(batch)
            with tf.control_dependencies([loss, *(variable.value for variable in self.trainable_variables())]):
                return ops.numpy.add(loss, tf.debugging.check_numerics(ops.sum(points) * np.inf, "broken"))

    task = Fails()
    task.set_up(0)
    before = values(task)
    with pytest.raises(tf.errors.InvalidArgumentError, match="broken"):
        find(lk.Runner(progress=False), task)
    found = values(task)
    assert_same({key: found[key] for key in before}, before)
