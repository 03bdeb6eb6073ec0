"""Kills training processes at random instants, resumes them, and compares with a run that was never killed."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import forked
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightkeras.runs import checkpoint

WORKER = Path(__file__).with_name("worker.py")

# Points where a process kills itself. The call is drawn among the first N of the point.
POINTS = {
    "write": 12,
    "rename": 12,
    "fsync": 12,
    "pointed": 4,
    "prune": 4,
    "pruned": 3,
    "step": 6,
    "validation": 2,
    "epoch": 2,
    "row": 5,
    "points": 5,
    "save": 4,
    "resume": 1,
}


@dataclasses.dataclass(frozen=True)
class End:
    """The files of a finished run that must not depend on how often it was killed.

    Args:
        arrays: Variables of the `last` and the `best` checkpoint.
        rows: Lines of `metrics.csv`.
        points: Steps and values by tag, as TensorBoard reads them.
        fit: The `fit` part of `result.json`, without the time it took.
    """

    arrays: dict[str, np.ndarray]
    rows: list[str]
    points: dict[str, list[tuple[int, float]]]
    fit: dict[str, object]


def end_of(run_dir: Path) -> End:
    folder = run_dir / "checkpoints"
    arrays = {
        f"{name}/{key}": array
        for name in ("last", "best")
        for key, array in checkpoint.load(checkpoint.find(folder, name)).arrays.items()
    }
    reader = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    reader.Reload()
    points = {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    fit = json.loads((run_dir / "result.json").read_text())["fit"]
    fit.pop("wall_s")
    return End(arrays, (run_dir / "metrics.csv").read_text().splitlines(), points, fit)


@dataclasses.dataclass
class Score:
    """Counts over killed runs: one line of the table."""

    task: str
    runs: int = 0
    kills: int = 0
    resumes: int = 0
    bit_equal: int = 0
    lost_rows: int = 0
    repeated_rows: int = 0
    other: int = 0

    def __str__(self) -> str:
        return (
            f"{self.task:10} {self.runs:5} {self.kills:6} {self.resumes:8} {self.bit_equal:15} "
            f"{self.lost_rows:10} {self.repeated_rows:14} {self.other:6}"
        )


HEADER = f"{'task':10} {'runs':>5} {'kills':>6} {'resumes':>8} {'bit-equal ends':>15} {'lost rows':>10} " + (
    f"{'repeated rows':>14} {'other':>6}"
)


def attempt(task: str, run_dir: Path, kill: str | None = None, after: float | None = None) -> int:
    """Runs one attempt. Returns its exit status, -9 if it was killed.

    Args:
        task: Name of the task.
        run_dir: The run directory.
        kill: Point and call at which the process kills itself; `None` for none.
        after: Seconds of training after which it is killed from outside; `None` for never.
    """
    ready = run_dir.with_suffix(".ready")
    ready.unlink(missing_ok=True)
    command = [WORKER, task, run_dir, "--ready", ready, *(["--kill", kill] if kill else [])]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = forked.Process(command, env=environment, stdout=subprocess.DEVNULL, stderr=2)
    if after is not None:
        while not ready.exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(after)
        process.kill()
    return process.wait()


def killed_run(task: str, run_dir: Path, kills: int, rng: random.Random, score: Score) -> None:
    """Kills a run that many times, or until it has ended, then resumes it to its end."""
    for _ in range(kills):
        if rng.random() < 0.4:
            status = attempt(task, run_dir, after=rng.uniform(0, 0.6))
        else:
            point = rng.choice(sorted(POINTS))
            status = attempt(task, run_dir, kill=f"{point}:{rng.randint(1, POINTS[point])}")
        assert status in (0, -signal.SIGKILL), f"{task}: an attempt ended with status {status}"
        if status == 0:
            break
        score.kills += 1
    score.resumes += 1
    assert attempt(task, run_dir) == 0


def compare(score: Score, expected: End, found: End) -> None:
    score.runs += 1
    arrays = expected.arrays.keys() == found.arrays.keys() and all(
        np.array_equal(array, found.arrays[key], equal_nan=True) for key, array in expected.arrays.items()
    )
    score.bit_equal += arrays
    score.lost_rows += len(set(expected.rows) - set(found.rows))
    score.repeated_rows += len(found.rows) - len(set(found.rows))
    score.other += (found.rows != expected.rows) + (found.points != expected.points) + (found.fit != expected.fit)


def assert_same(expected: End, found: End) -> None:
    """Asserts that two runs left the same files, to the bit."""
    assert {key: array.tobytes() for key, array in found.arrays.items()} == {
        key: array.tobytes() for key, array in expected.arrays.items()
    }
    assert (found.rows, found.points, found.fit) == (expected.rows, expected.points, expected.fit)


def assert_nothing_left_over(run_dir: Path) -> None:
    """Asserts that no temporary file is left."""
    assert [path for path in run_dir.rglob("*") if path.name.startswith(".") or ".part" in path.name] == []
