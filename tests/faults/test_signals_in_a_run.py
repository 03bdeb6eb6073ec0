"""Real processes are signalled while they train: they save, end, and can be resumed to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import harness
import numpy as np
import pytest
import signalled

from lightkeras.runs import checkpoint
from lightkeras.testing import TwoMoons

PROGRAM = Path(signalled.__file__)


class Run:
    """A process that trains and has reported that it reached the point."""

    def __init__(self, run_dir: Path, point: str) -> None:
        self.run_dir = run_dir
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = forked.Process([PROGRAM, run_dir, point], env=environment, stdin=subprocess.PIPE)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        line = self.process.stdout.readline()
        assert line == "ready\n", line + self.process.stderr.read()

    def release(self) -> None:
        """Lets it continue from where it waits. Signals that were sent before are delivered by then."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str, str]:
        """Its exit status, and what it printed."""
        out, err = self.process.communicate()
        return self.process.returncode, out, err


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    runs = []

    def start(point: str) -> Run:
        runs.append(Run(tmp_path / "run", point))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.communicate()


def assert_ends_as_one_that_never_stopped(run_dir: Path, point: str, **settings: Any) -> None:
    whole = run_dir.with_name("whole")
    signalled.runner(whole, point if point == "anywhere" else "nowhere", **settings).fit(TwoMoons())
    signalled.runner(run_dir, point if point == "anywhere" else "nowhere", **settings).fit(TwoMoons(), resume=True)
    expected, found = harness.end_of(whole), harness.end_of(run_dir)
    assert found.rows == expected.rows
    assert (found.points, found.fit) == (expected.points, expected.fit)
    assert found.arrays.keys() == expected.arrays.keys()
    for key, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[key], array, key)


@pytest.mark.parametrize(
    ("number", "point"),
    [
        (signal.SIGTERM, "step"),
        (signal.SIGINT, "validation"),
        pytest.param(signal.SIGTERM, "validation", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, "step", marks=pytest.mark.long),
    ],
)
def test_a_signalled_run_saves_ends_and_resumes_to_the_same_bits(number, point, started) -> None:
    run = started(point)
    run.process.send_signal(number)
    run.release()
    run.wait_until_ready()  # it noted the signal, and continues
    run.release()
    status, out, err = run.end()
    assert (status, out) == (128 + number, ""), err
    assert "Traceback" not in err
    result = json.loads((run.run_dir / "result.json").read_text())["fit"]
    last = checkpoint.load(checkpoint.find(run.run_dir / "checkpoints", "last")).state
    # The validation of the second epoch is abandoned; all steps of that epoch are done.
    steps, done = (13, 3) if point == "step" else (20, 10)
    assert (result["interrupted"], result["stop_reason"]) == (number.name, f"{number.name} received")
    assert (result["steps"], result["epochs"], result["diverged"]) == (steps, 1, False)
    assert (last["step"], last["epochs"], last["done"], last["validations"]) == (steps, 1, done, 1)
    assert not (run.run_dir / "model.keras").exists()
    assert_ends_as_one_that_never_stopped(run.run_dir, point)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_run_signalled_anywhere_resumes_to_the_same_bits(number, started, capsys) -> None:
    run = started("anywhere")
    run.process.send_signal(number)
    began = time.monotonic()
    status, out, err = run.end()
    with capsys.disabled():
        print(f"\n{number.name}: {time.monotonic() - began:.2f} s to the exit")
    assert (status, out) == (128 + number, ""), err
    result = json.loads((run.run_dir / "result.json").read_text())["fit"]
    assert result["interrupted"] == number.name
    assert_ends_as_one_that_never_stopped(run.run_dir, "anywhere", max_epochs=result["epochs"] + 2)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_second_signal_ends_a_run_at_once_and_it_resumes_from_what_was_saved(number, started) -> None:
    run = started("step")
    run.process.send_signal(number)
    run.release()
    run.wait_until_ready()
    run.process.send_signal(number)  # while it waits
    status, out, err = run.end()
    assert (status, out) == (-number, ""), err
    assert not (run.run_dir / "result.json").exists()
    # If the checkpoint of the first epoch was still being written, the run begins again.
    assert_ends_as_one_that_never_stopped(run.run_dir, "step")
