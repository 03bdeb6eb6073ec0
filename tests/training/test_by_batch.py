"""Train steps with batch hooks around each: what the hooks see and set, and when the rest of the work is done."""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from lightkeras import Runner
from lightkeras.data.feed import ArrayFeed
from lightkeras.runs.loggers import Logger
from lightkeras.task import Task
from lightkeras.training import setup
from lightkeras.training.fit import Fit

pytestmark = pytest.mark.any_backend


class Falling(Task):
    """The loss is the weight, 0 at first, so that each step lowers it by the learning rate, 1 at first."""

    def build(self):
        self.model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
        self.optimizer = keras.optimizers.SGD(1.0)

    def train_step(self, batch):
        return self.minimize(lambda: ops.sum(self.model.layers[0].kernel))


class Calls(Logger):
    """Notes the first step and the number of steps of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.images: list[int] = []

    def open(self, run):
        return

    def log_steps(self, epoch, first_step, values):
        self.calls.append((first_step, len(values["train/loss"])))

    def log_text(self, step, name, text):
        self.images.append(step)

    def log_epoch(self, epoch, step, values):
        return

    def close(self, failed=False):
        return


class Ends(keras.callbacks.Callback):
    """Calls a function at the end of each train batch."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self._function = function

    def on_train_batch_end(self, batch, logs=None):
        self._function(self, batch, logs)


def fit(run_dir: Path, function: Any, examples: int = 12, task: Task | None = None, **settings: Any) -> Any:
    settings = {"max_epochs": 1, "patience": None, "progress": False, "pictures": False, "export": False} | settings
    feed = ArrayFeed((np.zeros((examples, 1), "float32"),), 1)
    return Runner(run_dir=run_dir, callbacks=[Ends(function)], **settings).fit(task or Falling(), feed)


def losses(run_dir: Path) -> list[float]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["kind"] == "step"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved, for runs and their calls."""
    now = [0.0]
    monkeypatch.setattr(setup, "Fit", functools.partial(Fit, clock=lambda: now[0]))
    return now


def test_what_a_hook_sets_counts_from_the_next_step_on(tmp_path):
    def halve(callback, batch, logs):
        callback.model.optimizer.learning_rate = 0.5 ** (batch + 1)
        if batch == 3:
            callback.model.set_weights([np.float32([[8.0]])])

    fit(tmp_path / "run", halve, examples=6)
    assert losses(tmp_path / "run") == [0.0, -1.0, -1.5, -1.75, 8.0, 8.0 - 0.0625]


def test_the_logs_of_each_hook_are_the_means_up_to_its_step(tmp_path):
    seen = []
    fit(tmp_path / "run", lambda callback, batch, logs: seen.append((batch, logs["loss"])), examples=4)
    assert seen == [(0, 0.0), (1, -0.5), (2, -1.0), (3, -1.5)]  # of 0, -1, -2, -3


def test_steps_are_logged_together_until_the_time_of_a_call_has_passed(tmp_path, clock):
    logger = Calls()
    fit(tmp_path / "run", lambda *_: None, loggers=[logger])
    assert logger.calls == [(1, 8), (9, 4)]  # eight before a step's time is known
    logger = Calls()

    def move(callback, batch, logs):
        clock[0] += 0.12

    fit(tmp_path / "again", move, loggers=[logger])
    assert logger.calls == [(1, 3), (4, 3), (7, 3), (10, 3)]


def test_a_hook_that_fails_leaves_the_rows_of_all_steps_before_it(tmp_path, clock):
    def fail(callback, batch, logs):
        if batch == 4:
            raise KeyError("in a hook")

    with pytest.raises(KeyError, match="in a hook"):
        fit(tmp_path / "run", fail)
    assert losses(tmp_path / "run") == [0.0, -1.0, -2.0, -3.0, -4.0]


def test_a_hook_that_asks_to_stop_ends_the_steps_at_once(tmp_path, clock):
    def stop(callback, batch, logs):
        callback.model.stop_training = batch == 4

    result = fit(tmp_path / "run", stop, max_epochs=3)
    assert (result.epochs, result.steps) == (1, 5)
    assert losses(tmp_path / "run") == [0.0, -1.0, -2.0, -3.0, -4.0]


def test_what_a_hook_logs_has_the_number_of_its_step(tmp_path, clock):
    task, logger = Falling(), Calls()

    def log(callback, batch, logs):
        if batch in (2, 9):
            task.log_text("notes", "a text")

    fit(tmp_path / "run", log, task=task, loggers=[logger])
    assert logger.images == [3, 10]


def test_no_hook_is_called_after_a_loss_that_is_not_finite(tmp_path, clock):
    seen = []

    def overflow(callback, batch, logs):
        seen.append(batch)
        if batch == 2:
            callback.model.set_weights([np.float32([[np.inf]])])

    result = fit(tmp_path / "run", overflow)
    assert (result.diverged, result.steps, seen) == (True, 4, [0, 1, 2, 3])
