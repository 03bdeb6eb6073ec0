"""Batches that would break a run are skipped, up to the limit, without a trace in its state."""

import dataclasses
import math

import harness
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from lightkeras import Runner, replay
from lightkeras.data.arrays import ArrayData
from lightkeras.runs import checkpoint
from lightkeras.task import Task

POISONED = (37, 101)
EXAMPLES, BATCH = 160, 16


def examples(poisoned=POISONED):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES, 3)).astype("float32")
    flag = np.zeros((EXAMPLES, 1), "float32")
    flag[list(poisoned)] = 1.0
    return x, x.sum(axis=1, keepdims=True), flag


def by_epoch(epoch):
    """The batches of an epoch; none of the first one, which the preflight looks at, is poisoned."""
    order = np.concatenate([np.arange(BATCH), BATCH + np.random.default_rng(epoch).permutation(EXAMPLES - BATCH)])
    for first in range(0, EXAMPLES, BATCH):
        yield tuple(array[order[first : first + BATCH]] for array in examples())


SOURCES = {
    "arrays": examples,
    "generator": lambda: by_epoch,
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices(examples()).shuffle(20, seed=8).batch(BATCH),
}


# A tf.data is a stream as a generator is.
MOST = [pytest.param(name, marks=pytest.mark.long) if name == "tf.data" else name for name in SOURCES]


class Poisoned(Task):
    """A regression whose loss is infinite for some examples, though all inputs are finite."""

    def build_model(self):
        return keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(1)])

    def build_optimizer(self):
        return keras.optimizers.SGD(0.05)

    def error(self, out, y, flag):
        return ops.mean(ops.square(out - y * (1.0 + 1e30 * flag)))

    def loss(self, batch, training):
        x, y, flag = batch
        return self.error(self.model(x, training=training), y, flag)


class PoisonedGradient(Poisoned):
    """The loss stays finite, the gradient of a root of zero does not: the variables break."""

    def error(self, out, y, flag):
        return ops.mean(ops.square(out - y)) + ops.mean(ops.sqrt(1.0 - flag + 0.0 * out))


class Guarded(PoisonedGradient):
    """The same, written by somebody who leaves those batches out by hand: with SGD a gradient of 0 changes nothing."""

    def error(self, out, y, flag):
        whole = ops.cast(ops.max(flag) < 1.0, "float32")
        return ops.mean(ops.square(out - y)) * whole + ops.mean(ops.sqrt(ops.ones_like(out)))


class Noisy(Poisoned):
    """With all that could be spoilt by a step that is taken back: moments, dropout, moving means, metrics."""

    def build(self):
        super().build()
        self.calls = keras.metrics.Sum("calls")

    def build_model(self):
        inside = [layers.Dense(4, "tanh"), layers.BatchNormalization(), layers.Dropout(0.3)]
        return keras.Sequential([keras.Input((3,)), *inside, layers.Dense(1)])

    def build_optimizer(self):
        return keras.optimizers.Adam(0.02)

    def train_step(self, batch):
        self.calls.update_state(1.0)
        return super().train_step(batch)


def fit(run_dir, task, source="arrays", **settings):
    given = {
        "max_epochs": 3,
        "patience": None,
        "skip_broken": 9,
        "progress": False,
        "pictures": False,
        "export": False,
        "seed": 1,
    } | settings
    resume = given.pop("resume", False)
    given["callbacks"] = [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)]
    keras.utils.set_random_seed(9)  # as in another process: an order of tf.data depends on the global seed, too
    return Runner(run_dir=run_dir, **given).fit(task, SOURCES[source](), batch_size=BATCH, resume=resume)


def broken_steps(seed=1, epochs=3):
    """Steps, from 1, whose batch holds a poisoned example, and so many of them."""
    feed = ArrayData(examples(), batch_size=BATCH).train()
    found = []
    for epoch in range(epochs):
        batches = feed.indices(epoch, 0, EXAMPLES, seed)
        found += [10 * epoch + 1 + n for n, batch in enumerate(batches.tolist()) if set(batch) & set(POISONED)]
    return tuple(found)


def steps_of(run_dir):
    lines = (run_dir / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    return {int(row["step"]): row for row in rows if row["kind"] == "step"}, rows


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """The last checkpoint of a run that leaves the batches out by hand."""
    run_dir = tmp_path_factory.mktemp("guarded") / "run"
    fit(run_dir, Guarded(), skip_broken=0)
    return checkpoint.load(checkpoint.find(run_dir / "checkpoints", "last"))


@pytest.mark.parametrize("task", [Poisoned, PoisonedGradient])
@pytest.mark.parametrize("steps_per_call", [pytest.param(1, marks=pytest.mark.long), 7, None])
def test_skipped_batches_change_nothing(task, steps_per_call, guarded, tmp_path):
    result = fit(tmp_path / "run", task(), steps_per_call=steps_per_call)
    assert (result.skipped, result.diverged, result.steps) == (broken_steps(), False, 30)
    assert len(broken_steps()) in (5, 6)
    found = checkpoint.load(checkpoint.find(tmp_path / "run" / "checkpoints", "last"))
    for key in ("model.0000", "model.0001", "model.0002", "model.0003"):
        # The loss of the one that leaves them out by hand is a sum of more terms: equal but for the last digits.
        np.testing.assert_allclose(found.arrays[key], guarded.arrays[key], rtol=1e-5, atol=1e-6)
    steps, rows = steps_of(tmp_path / "run")
    assert [int(row["step"]) for row in rows if row["kind"] == "step"] == list(range(1, 31))  # each once
    if task is Poisoned:
        assert [step for step, row in steps.items() if row["train/loss"] == "inf"] == list(broken_steps())
    for epoch, row in enumerate(row for row in rows if row["kind"] == "epoch"):
        whole = [
            float(steps[step]["train/loss"])
            for step in range(10 * epoch + 1, 10 * epoch + 11)
            if step not in result.skipped
        ]
        assert float(row["train/loss"]) == pytest.approx(np.mean(whole), rel=1e-7)


@pytest.mark.parametrize("source", MOST)
def test_how_many_steps_a_call_runs_changes_nothing(source, tmp_path):
    ends = {}
    for steps_per_call in (1, None):
        result = fit(tmp_path / str(steps_per_call), Noisy(), source, steps_per_call=steps_per_call)
        assert 3 <= len(result.skipped) <= 6
        ends[steps_per_call] = result.skipped, harness.end_of(tmp_path / str(steps_per_call))
    (skipped, one), (also, many) = ends.values()
    assert skipped == also
    assert (one.rows, repr(one.points), one.fit) == (many.rows, repr(many.points), many.fit)
    for key, array in one.arrays.items():
        np.testing.assert_array_equal(array, many.arrays[key], key)


@pytest.mark.parametrize("cuts", ["one", pytest.param("three", marks=pytest.mark.long)])
@pytest.mark.parametrize("source", MOST)
def test_a_run_that_skipped_resumes_to_the_same_bits(source, cuts, tmp_path):
    whole = fit(tmp_path / "whole", Noisy(), source)
    # Right after the first that is skipped, in front of the last of them, and at its step.
    places = sorted({whole.skipped[0], whole.skipped[0] + 1, whole.skipped[-1] - 1})
    for cut in places if cuts == "three" else [places[list(SOURCES).index(source) % len(places)]]:
        result = fit(tmp_path / "run", Noisy(), source, max_steps=cut, resume=True)
        assert result.steps == cut
        assert result.skipped == tuple(step for step in whole.skipped if step <= cut)
    result = fit(tmp_path / "run", Noisy(), source, resume=True)
    assert dataclasses.replace(result, wall_s=0, run_dir=whole.run_dir) == dataclasses.replace(whole, wall_s=0)
    one, many = harness.end_of(tmp_path / "whole"), harness.end_of(tmp_path / "run")
    assert (one.rows, repr(one.points), one.fit) == (many.rows, repr(many.points), many.fit)
    for key, array in one.arrays.items():
        np.testing.assert_array_equal(array, many.arrays[key], key)


@pytest.mark.any_backend
def test_each_skipped_step_can_be_run_again(tmp_path):
    result = fit(tmp_path / "run", Noisy())
    folders = sorted((tmp_path / "run" / "broken").iterdir())
    assert [folder.name for folder in folders] == [f"step-{step:08d}" for step in result.skipped]
    for folder in (folders[0], folders[-1]):
        found = replay(str(folder), Noisy())
        assert found.equal, found.differences
        assert math.isinf(found.found["loss"])


@pytest.mark.any_backend
def test_more_broken_batches_than_may_be_skipped_end_the_run(tmp_path):
    steps = broken_steps()
    result = fit(tmp_path / "run", Poisoned(), skip_broken=2)
    assert (result.diverged, result.skipped, result.steps) == (True, steps[:2], steps[2])
    assert result.stop_reason.startswith(f"train/loss became inf at step {steps[2]} (epoch {steps[2] // 10 + 1}, batch")
    _, rows = steps_of(tmp_path / "run")
    assert [int(row["step"]) for row in rows if row["kind"] == "step"] == list(range(1, steps[2] + 1))
    folder = tmp_path / "run" / "checkpoints"
    last = checkpoint.load(checkpoint.find(folder, "last"))
    assert last.state["step"] < steps[2]
    assert all(np.isfinite(array).all() for array in last.arrays.values())


@pytest.mark.any_backend
def test_a_run_that_diverged_can_be_resumed_if_more_may_be_skipped(tmp_path):
    fit(tmp_path / "whole", Noisy())
    assert fit(tmp_path / "run", Noisy(), skip_broken=2).diverged
    result = fit(tmp_path / "run", Noisy(), resume=True)
    assert not result.diverged
    one, many = harness.end_of(tmp_path / "whole"), harness.end_of(tmp_path / "run")
    assert (one.rows, repr(one.points), one.fit) == (many.rows, repr(many.points), many.fit)
