"""Random ranks of a run are killed at random instants; resumed, it ends as one that was never killed, to the bit.

A copy of it is resumed by one process: it logs the same steps, once each.

python -m pytest -m long tests/faults/test_kills_of_ranks.py --kills 40 -s
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import harness
import pytest
import ranked
import ranks as program

PROGRAM = Path(program.__file__)
SOON = {"LIGHTKERAS_LOST_SECONDS": "8"}
SETTINGS = ["--settings", json.dumps({"saves_often": True, "progress": False})]
CALLS = {"write": 12, "rename": 12, "pointed": 4, "validation": 2, "step": 6, "epoch": 3, "save": 6, "resume": 1}
ENDED_BY_JAX = -signal.SIGABRT  # after its coordination service was lost, with rank 0
pytestmark = pytest.mark.backends("tensorflow", reason="it starts the processes itself")


def attempt(run_dir: Path, backend: str, rank: int, rng: random.Random) -> list[int]:
    """Runs an attempt in which a rank is killed, by itself or from outside. Returns the exit statuses."""
    touched = run_dir.with_suffix(".ready")
    ready = touched.with_name(f"{touched.name}.{rank}")
    ready.unlink(missing_ok=True)
    command = [PROGRAM, "Noisy", run_dir, *SETTINGS, "--touch", touched]
    if rng.random() < 0.6:
        point = rng.choice(sorted(CALLS))
        command += ["--die", f"{rank}:{point}:{rng.randint(1, CALLS[point])}"]
        return ranked.Ranks(command, backend, env=SOON).wait()
    started = ranked.Ranks(command, backend, env=SOON)
    while not ready.exists() and started.processes[rank].poll() is None:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.5))
    started.processes[rank].kill()
    return started.wait()


def positions(end: harness.End) -> list[list[str]]:
    """Kind, epoch and step of the rows."""
    return [row.split(",")[:3] for row in end.rows]


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_killed_ranks(backend, tmp_path, pytestconfig):
    pytest.importorskip(backend)
    wanted, rng = pytestconfig.getoption("--kills") or 6, random.Random(5)
    ranked.run([PROGRAM, "Noisy", tmp_path / "whole", *SETTINGS], backend)
    expected, score, number = harness.end_of(tmp_path / "whole"), harness.Score(f"ranks on {backend}"), 0
    while score.kills < wanted:
        number += 1
        run_dir = tmp_path / str(number)
        for _ in range(4):
            rank = rng.randrange(2)
            statuses = attempt(run_dir, backend, rank, rng)
            if statuses == [0, 0]:
                break
            assert statuses[rank] == -signal.SIGKILL, statuses
            assert statuses[1 - rank] in (0, 1, ENDED_BY_JAX), statuses
            score.kills += 1
        score.resumes += 1
        alone = shutil.copytree(run_dir, tmp_path / f"{number}-alone")
        ranked.run([PROGRAM, "Noisy", run_dir, *SETTINGS], backend)
        harness.compare(score, expected, harness.end_of(run_dir))
        ranked.run([PROGRAM, "Noisy", alone, *SETTINGS], backend, count=1)
        assert positions(harness.end_of(alone)) == positions(expected)
        print(score, flush=True)
    assert (score.bit_equal, score.lost_rows, score.repeated_rows, score.other) == (score.runs, 0, 0, 0), score
