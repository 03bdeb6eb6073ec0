"""Runs that are killed at any instant, and resumed, end as one that was never killed.

`pytest tests/faults/test_kills.py --kills 200 -s` kills each task so many times and prints the table.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest


@pytest.fixture(scope="module")
def server() -> Iterator[harness.Server]:
    with harness.Server() as server:
        yield server


@pytest.mark.parametrize("task", ["mnist", "imdb", "stream", "generator"])
def test_a_killed_and_resumed_run_ends_as_one_that_was_never_killed(
    task: str, server: harness.Server, tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = pytestconfig.getoption("kills") if task in ("mnist", "imdb") else pytestconfig.getoption("kills") // 4
    seed = pytestconfig.getoption("kill_seed")
    assert server.attempt(task, tmp_path / "whole") == 0
    expected = harness.end_of(tmp_path / "whole")
    score, rng, number = harness.Score(task), random.Random(f"{task} {seed}"), 0
    while score.kills < kills:
        run_dir = tmp_path / f"killed-{number}"
        harness.killed_run(server, task, run_dir, min(kills - score.kills, 10), rng, score)
        harness.compare(score, expected, harness.end_of(run_dir))
        number += 1
    with capsys.disabled():
        print(f"\nseed {seed}\n{harness.HEADER}\n{score}")
    assert (score.bit_equal, score.lost_rows, score.repeated_rows, score.other) == (score.runs, 0, 0, 0)
