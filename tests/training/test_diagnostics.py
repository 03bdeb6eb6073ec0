"""Learning rates, speed, memory, gradient norms and histograms of a run, on every backend."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

import lightkeras as lk
from lightkeras.engine.optimizer_state import learning_rate
from lightkeras.testing import TwoMoons
from lightkeras.training import diagnostics

pytestmark = pytest.mark.any_backend

X = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0], [-2.0, 1.0]], np.float32)
Y = np.array([[1.0], [0.0], [2.0], [-1.0]], np.float32)


@pytest.fixture(autouse=True)
def at_epochs_alone(monkeypatch):
    """However slow the machine is."""
    monkeypatch.setattr(diagnostics, "PERIOD", float("inf"))


class Line(lk.Task):
    """A linear model whose gradients are worked out by hand; its table is looked up, for sparse gradients."""

    def build(self):
        self.model = keras.Sequential([layers.Input((2,)), layers.Dense(1, kernel_initializer="ones")])
        self.optimizer = keras.optimizers.SGD(0.125, clipnorm=0.01)

    def loss(self, batch, training):
        x, y = batch
        return ops.mean((self.model(x, training=training) - y) ** 2)


class Table(lk.Task):
    """The sum of looked-up rows; a row that occurs twice has the sum of both gradients."""

    def build(self):
        self.model = keras.Sequential([layers.Input((2,), dtype="int32"), layers.Embedding(4, 3)])
        self.optimizer = keras.optimizers.SGD(0.5)

    def loss(self, batch, training):
        return ops.sum(self.model(batch, training=training))


class Two(TwoMoons):
    """Two optimizers, one of which has a schedule."""

    def build(self):
        super().build()
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.5, 0.25])
        self.second = keras.optimizers.SGD(schedule)

    def train_step(self, batch):
        self.minimize(lambda: 2.0 * self.loss(batch, training=True), optimizer=self.second)
        return self.minimize(lambda: self.loss(batch, training=True))


def runner(folder: Path, **settings) -> lk.Runner:
    plain = {"progress": False, "pictures": False, "export": False, "patience": None}
    return lk.Runner(run_dir=folder, **plain | settings)


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def histogram(folder: Path, tag: str) -> np.ndarray:
    """The first histogram of a tag: rows of left edge, right edge, count."""
    return tensor_util.make_ndarray(read(folder).Tensors(tag)[0].tensor_proto)


def test_the_norm_of_the_gradients_is_what_numpy_computes_before_the_optimizer_clips_it(tmp_path):
    runner(tmp_path / "run", max_epochs=1, log_gradients="norm").fit(Line(), (X, Y), batch_size=4)
    error = X @ np.ones((2, 1)) - Y
    expected = np.linalg.norm([*(X.T @ (2 * error / 4)).ravel(), np.sum(2 * error / 4)])
    assert points(tmp_path / "run", "train/gradient_norm") == [(1, pytest.approx(expected, rel=1e-5))]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert float(next(csv.DictReader(file))["train/gradient_norm"]) == pytest.approx(expected, rel=1e-5)


def test_a_row_of_a_table_that_is_looked_up_twice_counts_with_its_sum(tmp_path):
    rows = np.array([[1, 1], [1, 3]], np.int32)
    result = runner(tmp_path / "run", max_epochs=1, log_gradients="norm").fit(Table(), rows, batch_size=2)
    # Each look-up has the gradient 1 in 3 columns: row 1 three times, row 3 once.
    assert result.history["train/gradient_norm"] == (pytest.approx((3 * 9 + 3 * 1) ** 0.5),)


def test_each_of_several_optimizers_has_its_norm_and_its_learning_rate(tmp_path):
    runner(tmp_path / "run", max_epochs=1, log_gradients="norm").fit(Two())
    first, second = (points(tmp_path / "run", f"train/gradient_norm/{name}") for name in ("optimizer", "second"))
    assert len(first) == len(second) == 10
    assert first[0][1] > 0
    assert second[0][1] > first[0][1]  # of twice the loss, before the first update
    assert points(tmp_path / "run", "run/learning_rate/optimizer") == [(10, pytest.approx(0.01))]
    assert points(tmp_path / "run", "run/learning_rate/second") == [(10, pytest.approx(0.25))]


def test_a_loss_scale_is_divided_out(tmp_path):
    class Scaled(Line):
        def build(self):
            super().build()
            self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer, initial_scale=1024.0)

    found = [
        runner(tmp_path / task.__name__, max_epochs=1, log_gradients="norm").fit(task(), (X, Y), batch_size=4).history
        for task in (Line, Scaled)
    ]
    assert found[0]["train/gradient_norm"] == pytest.approx(found[1]["train/gradient_norm"], rel=1e-5)


def test_norms_change_no_number_of_a_run(tmp_path):
    plain = runner(tmp_path / "plain", max_epochs=2).fit(TwoMoons())
    logged = runner(tmp_path / "logged", max_epochs=2, log_gradients="histogram").fit(TwoMoons())
    if keras.backend.backend() == "jax":  # which may fuse the step in another way
        assert plain.history["val/loss"] == pytest.approx(logged.history["val/loss"], rel=1e-5)
    else:
        assert {name: logged.history[name] for name in plain.history} == plain.history


def test_histograms_of_weights_and_gradients_are_written_at_each_epoch(tmp_path):
    task = Line()
    runner(tmp_path / "run", max_epochs=2, log_gradients="histogram").fit(task, (X, Y), batch_size=4)
    path = task.model.layers[0].kernel.path
    found = read(tmp_path / "run")
    assert [event.step for event in found.Tensors(f"gradients/{path}")] == [1, 2]
    weights = histogram(tmp_path / "run", f"weights/{path}")
    assert weights.shape == (30, 3)
    assert weights[:, 2].sum() == 2
    gradients = histogram(tmp_path / "run", f"gradients/{path}")
    # Of the weights after the first step: 0.125 times the gradient, clipped to a norm of 0.01.
    kernel, bias = np.ones((2, 1)), np.zeros(1)
    error = X @ kernel + bias - Y
    slope = X.T @ (error / 2)
    clipped = slope * 0.01 / np.linalg.norm(slope)
    offset = np.sum(error / 2)
    error = X @ (kernel - 0.125 * clipped) + bias - 0.125 * np.sign(offset) * min(abs(offset), 0.01) - Y
    expected = sorted((X.T @ (error / 2)).ravel())
    assert [gradients[0, 0], gradients[-1, 1]] == pytest.approx(expected, rel=1e-4)


def test_speed_and_memory_are_points_at_each_epoch(tmp_path):
    runner(tmp_path / "run", max_epochs=2).fit(TwoMoons())
    machine = tmp_path / "run" / "machine"
    assert [step for step, _ in points(machine, "run/examples_per_second")] == [10, 20]
    assert all(value > 0 for _, value in points(machine, "run/examples_per_second"))
    assert all(0.01 < value < 1000 for _, value in points(machine, "run/memory_gb"))
    assert points(tmp_path / "run", "run/learning_rate") == [(10, pytest.approx(0.01)), (20, pytest.approx(0.01))]


def test_a_long_epoch_has_points_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnostics, "PERIOD", 0.0)
    runner(tmp_path / "run", max_epochs=1, steps_per_call=5).fit(TwoMoons())
    assert [step for step, _ in points(tmp_path / "run" / "machine", "run/memory_gb")] == [5, 10, 10]


def test_a_resumed_run_has_no_measurement_twice(tmp_path):
    runner(tmp_path / "run", max_epochs=2).fit(TwoMoons())
    runner(tmp_path / "run", max_epochs=3).fit(TwoMoons(), resume=True)
    assert [step for step, _ in points(tmp_path / "run" / "machine", "run/memory_gb")] == [10, 20, 30]


def test_a_stream_has_histograms_of_its_first_batch_and_is_read_no_further(tmp_path):
    opened = []

    def batches():
        opened.append(1)
        for start in (0, 2):
            yield X[start : start + 2], Y[start : start + 2]

    task = Line()
    runner(tmp_path / "run", max_epochs=1, log_gradients="histogram").fit(task, batches)
    with_histograms = len(opened)
    opened.clear()
    runner(tmp_path / "plain", max_epochs=1).fit(Line(), batches)
    assert with_histograms == len(opened)
    assert histogram(tmp_path / "run", f"gradients/{task.model.layers[0].kernel.path}")[:, 2].sum() == 2


def test_the_name_of_the_norm_may_not_be_logged_by_the_step(tmp_path):
    class Taken(TwoMoons):
        def loss(self, batch, training):
            loss = super().loss(batch, training)
            self.log("gradient_norm", loss)
            return loss

    with pytest.raises(ValueError, match=r"log\('gradient_norm'\): the name is taken by log_gradients"):
        runner(tmp_path / "run", log_gradients="norm").fit(Taken())
    assert not (tmp_path / "run").exists()
    runner(tmp_path / "run", max_epochs=1).fit(Taken())


def test_another_setting_is_refused():
    with pytest.raises(ValueError, match=r"log_gradients='norms'\): expected 'norm', 'histogram' or None"):
        lk.Runner(log_gradients="norms")


def test_a_run_resumes_with_its_norms_and_refuses_new_ones(tmp_path):
    settings = {"max_epochs": 1, "log_gradients": "norm"}
    runner(tmp_path / "run", **settings).fit(TwoMoons())
    result = runner(tmp_path / "run", **settings | {"max_epochs": 2}).fit(TwoMoons(), resume=True)
    assert len(result.history["train/gradient_norm"]) == 2
    runner(tmp_path / "without", max_epochs=1).fit(TwoMoons())
    with pytest.raises(ValueError, match=r"lacks train/gradient_norm\. Resume with .* the log_gradients"):
        runner(tmp_path / "without", **settings | {"max_epochs": 2}).fit(TwoMoons(), resume=True)


def test_a_minimize_in_a_branch_is_refused(tmp_path):
    class Branch(Line):
        def train_step(self, batch):
            loss = self.loss(batch, training=True)
            self.log("loss", loss)
            ops.cond(loss > 0, lambda: self.minimize(lambda: self.loss(batch, training=True)), lambda: 0.0 * loss)

    if keras.backend.backend() == "torch":
        pytest.skip("a branch runs as Python there")
    with pytest.raises(ValueError, match="minimize is called inside a branch"):
        runner(tmp_path / "run", log_gradients="norm").fit(Branch(), (X, Y), batch_size=4)


def test_the_rate_of_a_schedule_is_that_of_the_next_step():
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.5, 0.25]))
    optimizer.build([keras.Variable(np.zeros(1, np.float32))])
    assert learning_rate(optimizer) == 0.5
    optimizer.iterations.assign(3)
    assert learning_rate(optimizer) == 0.25


def test_no_tensorflow_is_imported_for_them_on_other_backends(tmp_path):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("of the other backends")
    program = """
import sys
import lightkeras as lk
from lightkeras.testing import TwoMoons
lk.Runner(run_dir=sys.argv[1], max_epochs=1, progress=False, pictures=False, log_gradients="histogram").fit(TwoMoons())
print("tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
