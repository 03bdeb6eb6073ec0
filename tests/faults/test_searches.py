"""A search that is killed at any instant and resumed ends with the trials of one that was never killed.

`pytest -m "long or not long" tests/faults/test_searches.py --search-kills 20 -s` kills each oracle's search that often
for each seed.
"""

from __future__ import annotations

import csv
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import harness
import pytest

# Points where a search kills itself. The call is drawn among the first N of the point.
POINTS = {"noted": 12, "decided": 12, "rename": 30, "write": 20, "step": 8, "epoch": 6, "save": 6, "resume": 2}


def end_of(folder: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The rows of `trials.csv` without times, and the files of each trial's run."""
    with open(folder / "trials.csv", newline="") as file:
        rows = [{name: value for name, value in row.items() if name != "wall_s"} for row in csv.DictReader(file)]
    return rows, {row["trial"]: harness.end_of(folder / "trials" / row["trial"]) for row in rows}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 6))])
# The journal restores an oracle: the one that continues trials; the others are long.
@pytest.mark.parametrize(
    "kind", ["hyperband", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("random", "bayesian", "grid"))]
)
def test_a_killed_and_resumed_search_ends_with_the_trials_of_one_that_was_never_killed(
    kind: str, seed: int, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    assert harness.attempt(f"search-{kind}", tmp_path / "whole") == 0
    rng = random.Random(f"{kind} {seed}")
    kills = attempts = 0
    while not kills or attempts < pytestconfig.getoption("search_kills"):
        attempts += 1
        point = rng.choice(sorted(POINTS))
        status = harness.attempt(f"search-{kind}", tmp_path / "killed", kill=f"{point}:{rng.randint(1, POINTS[point])}")
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
        if not kills:  # fewer calls than were drawn: how many there are depends on the machine
            shutil.rmtree(tmp_path / "killed")
    assert harness.attempt(f"search-{kind}", tmp_path / "killed") == 0
    (rows, runs), (expected_rows, expected_runs) = end_of(tmp_path / "killed"), end_of(tmp_path / "whole")
    assert rows == expected_rows
    for name, found in runs.items():
        expected = expected_runs[name]
        assert {key: array.tobytes() for key, array in found.arrays.items()} == {
            key: array.tobytes() for key, array in expected.arrays.items()
        }
        assert (found.rows, found.fit) == (expected.rows, expected.fit)
        # The objective is logged when a run ends, in each attempt that gets that far: once or twice.
        assert {tag: set(points) for tag, points in found.points.items()} == {
            tag: set(points) for tag, points in expected.points.items()
        }
