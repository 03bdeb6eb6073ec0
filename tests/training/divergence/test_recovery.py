"""After an alarm a run ends, or skips the batch that broke it; steps are located by a made-up search."""

import itertools
import math
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lightkeras.testing import TwoMoons
from lightkeras.training.decisions import Patience
from lightkeras.training.divergence import recovery
from lightkeras.training.divergence.locate import BrokenStep, LocatedStep
from lightkeras.training.divergence.watchdog import Alarm
from lightkeras.training.run_state import RunState
from lightkeras.training.stepper import bound_engine

ALARM = Alarm("train/loss", math.nan, 9)
BROKEN = BrokenStep(8, 3, 2, "train/loss", math.nan, "the batch is to blame")


class Recorder:
    """Records its calls."""

    def __init__(self, state):
        self.state, self.told = state, []
        self.bar = SimpleNamespace(print_line=lambda line: self.told.append(("line", line)))

    def mark(self):
        self.told.append("mark")

    def log_again(self, step, logs):
        self.told.append(("log", step, logs))


@pytest.fixture
def run(monkeypatch):
    """A recovery over two moons in their third epoch, and what it may find."""
    task = TwoMoons()
    task.set_up(0)
    stream = bound_engine(task).open(task.data.train())
    stepper = SimpleNamespace(task=task, stream=stream, random={}, seed=5, state=dict, closed=0)
    stepper.close = lambda: setattr(stepper, "closed", stepper.closed + 1)
    state = RunState(Patience("min"), step=9, epochs=2, batches_done=3)
    found = SimpleNamespace(task=task, stepper=stepper, state=state, recorder=Recorder(state), stream=stream, wrote=[])
    found.located = LocatedStep(BROKEN, True, stream="the batches after it", logs={"loss": math.nan})

    def locate(task, train_stepper, snapshot, alarm, *, unwatched):
        assert (snapshot, alarm) == (found.recovery._watchdog.snapshot, ALARM)
        return found.located

    def write_bundle(folder, task, located, *, seed, source):
        found.wrote.append((folder, located, seed, source))
        return folder / "step-00000008"

    def make(skip_broken=0, clock=time.monotonic):
        found.recovery = recovery.Recovery(stepper, found.recorder, Path("broken"), "arrays", skip_broken, clock)
        return found.recovery

    monkeypatch.setattr(recovery, "locate", locate)
    monkeypatch.setattr(recovery, "write_bundle", write_bundle)
    found.make = make
    return found


def test_the_first_look_takes_a_snapshot_which_is_marked_and_a_second_at_once_does_not(run):
    times = itertools.count()  # a second passes at each reading: looks take far more than their share
    made = run.make(clock=lambda: float(next(times)))
    assert made.watch() is None
    assert made._watchdog.snapshot.position.step == 9
    assert run.recorder.told == ["mark"]
    assert made.watch() is None
    assert run.recorder.told == ["mark"]
    made.forget()
    assert made._watchdog.snapshot is None


def test_where_batches_may_be_skipped_every_epoch_begins_with_a_snapshot(run):
    made = run.make(skip_broken=1, clock=lambda: 0.0)
    for step in (9, 10):
        run.state.step = step
        assert made.watch(epoch_begins=True) is None
        assert made._watchdog.snapshot.position.step == step
    assert run.recorder.told == ["mark", "mark"]


def test_a_state_that_is_not_finite_is_no_snapshot(run):
    made = run.make(skip_broken=1)
    made.watch(epoch_begins=True)
    before = made._watchdog.snapshot
    bias = run.task.model.layers[-1].bias
    bias.assign([np.nan])
    for alarm in (made.check(), made.watch(epoch_begins=True)):
        assert (alarm.what, alarm.step) == (bias.path, 9)
    assert made._watchdog.snapshot is before


def test_a_run_without_batches_to_skip_has_diverged_and_keeps_the_broken_step(run):
    made = run.make()
    made.watch()
    assert made.recover(ALARM) is None
    assert run.state.diverged
    assert run.state.stop_reason == f"{BROKEN} (kept in broken/step-00000008)"
    assert run.wrote == [(Path("broken"), run.located, 5, "arrays")]
    assert run.state.skipped == []
    assert run.stepper.closed == 1  # nothing reads on behind a run that has ended


def test_a_batch_is_skipped_and_the_run_continues_after_it(run):
    made = run.make(skip_broken=2)
    made.watch(epoch_begins=True)
    run.recorder.told.clear()
    run.located = LocatedStep(BROKEN, True, stream=run.stream, logs={"loss": math.nan})
    assert made.recover(ALARM) is run.stream
    assert (run.state.step, run.state.batches_done, run.state.skipped) == (8, 2, [8])
    assert (run.state.diverged, run.state.stop_reason) == (False, None)
    line = f"{BROKEN} (kept in broken/step-00000008). Its batch is skipped, 1 of 2."
    assert run.recorder.told == [("line", line), ("log", 8, run.located.logs), "mark"]
    assert run.stepper.closed == 0
    position = made._watchdog.snapshot.position
    assert (position.step, position.epoch, position.batch) == (8, 2, 2)


@pytest.mark.parametrize(
    "changed",
    [
        {"repeated": False},
        {"stream": None},
        {"broken": BrokenStep(8, 2, 2, "train/loss", math.nan, "in the epoch before")},
    ],
)
def test_a_batch_that_cannot_be_left_out_ends_the_run(run, changed):
    made = run.make(skip_broken=2)
    made.watch(epoch_begins=True)
    run.located = LocatedStep(**{"broken": BROKEN, "repeated": True, "stream": run.stream, **changed})
    assert made.recover(ALARM) is None
    assert (run.state.diverged, run.state.skipped) == (True, [])


def test_no_more_batches_are_skipped_than_may_be(run):
    run.state.skipped = [3, 5]
    made = run.make(skip_broken=2)
    made.watch(epoch_begins=True)
    assert made.recover(ALARM) is None
    assert (run.state.diverged, run.state.skipped) == (True, [3, 5])


def test_a_broken_step_that_cannot_be_written_is_reported_with_the_reason(run, monkeypatch):
    def full(*_, **__):
        raise OSError("no space")

    monkeypatch.setattr(recovery, "write_bundle", full)
    made = run.make()
    made.watch()
    made.recover(ALARM)
    assert run.state.stop_reason == f"{BROKEN} (no space)"


def test_calls_out_of_order_are_bugs(run):
    made = run.make()
    with pytest.raises(RuntimeError, match="No snapshot was taken before the first step"):
        made.recover(ALARM)
    run.stepper.stream = None
    with pytest.raises(RuntimeError, match="The train split is not open"):
        made.watch()
