"""The command replay."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from commands import run

from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.runs import checkpoint
from lightkeras.system import random_states
from lightkeras.testing import TwoMoons, two_moons
from lightkeras.training.divergence import locate
from lightkeras.training.divergence.broken_step import write_bundle
from lightkeras.training.divergence.watchdog import Position, Watchdog
from lightkeras.training.stepper import Stepper
from lightkeras.training.tracing import trace_train

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def broken(tmp_path) -> Path:
    """A run directory of two moons whose second batch holds a NaN."""
    points, label = two_moons(96)
    points[40] = np.nan
    task = TwoMoons(TwoMoons.HParams(hidden_units=4))
    feed = ArrayFeed((points, label), 32)
    task.set_up(3)
    engine = task.bind(make_engine)
    trace = trace_train(task, engine, feed)
    train_stepper = Stepper(task, engine, feed, engine.program(task.run_train_step, trace.names), seed=3)
    guard = Watchdog(task, engine)
    stream = train_stepper.begin(0)
    guard.watch(Position(0, 0, 0), stream, train_stepper.state(), random_states.read())
    train_stepper.program.run(stream, 3)
    alarm = guard.check(3)
    found = locate.locate(task, train_stepper, guard.snapshot, alarm)
    write_bundle(tmp_path / "run" / "broken", task, found, seed=3, source="arrays")
    return tmp_path / "run"


def test_replay_reruns_the_broken_step_and_reports_whether_it_is_the_same(broken, capsys):
    assert run("replay", "--run_dir", str(broken)) == 0
    printed = capsys.readouterr().out
    # TensorFlow's relu makes zero of a NaN: there the weights are what is not finite first.
    assert re.search(r"in the run  (sequential|train/loss)", printed)
    assert "at step 2 (epoch 1, batch 2): the batch itself is not finite: array 0 holds nan in row 8" in printed
    assert printed.endswith("    result  equal, bit for bit\n")
    path = broken / "broken" / "step-00000002"
    saved = checkpoint.load(path)
    state = {key: value for key, value in saved.state.items() if key not in ("step", "variables")}
    state["logs"]["loss"] = 0.25
    captured = checkpoint.Captured(saved.arrays, saved.state["variables"])
    checkpoint.save(broken / "broken" / "step-00000002-1", 2, captured, state, saved.extra)
    assert run("replay", "--run_dir", str(broken / "broken" / "step-00000002-1")) == 1
    assert re.search(
        r"   differs  loss is ([\d.]+|nan), and was 0.25 in the run\n    result  not equal", capsys.readouterr().out
    )


def test_replay_of_a_run_that_did_not_break_ends_with_status_2(folder, capsys):
    assert run("replay", "--run_dir", str(folder)) == 2
    assert capsys.readouterr().err.startswith(f"error: {folder} holds no broken step: expected a run directory")
