"""A run that is killed at any instant and resumed ends as one that was never killed.

`pytest -m "long or not long" tests/faults/test_kills.py --kills 200 -s` kills each task that often for each seed, and
prints the table.
"""

from __future__ import annotations

import random
from pathlib import Path

import harness
import pytest


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 9))])
@pytest.mark.parametrize(
    "task",
    [
        "imdb",
        "stream",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("mnist", "devices", "generator", "table")),
    ],
)
def test_a_killed_and_resumed_run_ends_as_one_that_was_never_killed(
    task: str, seed: int, tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = (pytestconfig.getoption("kills") or (4 if seed else 2)) // (
        1 if task in ("mnist", "devices", "imdb", "table") else 2
    )
    assert harness.attempt(task, tmp_path / "whole") == 0
    expected = harness.end_of(tmp_path / "whole")
    score, rng, number = harness.Score(task), random.Random(f"{task} {seed}"), 0
    while score.kills < kills:
        run_dir = tmp_path / f"killed-{number}"
        harness.killed_run(task, run_dir, min(kills - score.kills, 10), rng, score)
        harness.compare(score, expected, harness.end_of(run_dir))
        number += 1
    with capsys.disabled():
        print(f"\nseed {seed}\n{harness.HEADER}\n{score}")
    assert (score.bit_equal, score.lost_rows, score.repeated_rows, score.other) == (score.runs, 0, 0, 0)
