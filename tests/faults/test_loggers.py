"""A run that is killed and resumed has each of its values once in MLflow and in W&B."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import forked
import logged
import pytest

pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
pytest.importorskip("wandb", reason="the extra wandb is not installed")

WORKER = Path(__file__).with_name("logging_worker.py")
# Calls of a point in one attempt, each after the one before has resumed from its checkpoint.
KILLS = {"between": ["saving:2", "saved:1", "end:1"], "while they log": ["row:2", "mlflow:1", "wandb:1"]}


def attempt(run_dir: Path, uri: str, kill: str = "") -> int:
    environment = {**os.environ, **logged.ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = forked.Process([WORKER, run_dir, uri, *([kill] if kill else [])], env=environment, stdout=2, stderr=2)
    return process.wait()


@pytest.mark.any_backend
@pytest.mark.parametrize("when", ["between", pytest.param("while they log", marks=pytest.mark.long)])
def test_a_killed_and_resumed_run_has_each_value_once(tmp_path: Path, when: str) -> None:
    run_dir, uri = tmp_path / "run", logged.new_store(tmp_path)
    for kill in KILLS[when]:
        assert attempt(run_dir, uri, kill) == -signal.SIGKILL, kill
    assert attempt(run_dir, uri) == 0

    expected = logged.csv_points(run_dir)
    assert len(expected["train/loss"]) == 40
    assert [step for step, _ in expected["val/loss"]] == list(range(4, 41, 4))
    (run,) = logged.mlflow_runs(uri)
    found = logged.mlflow_points(uri, run.info.run_id)
    assert {name: found[name] for name in expected} == expected
    assert all(len(points) == len({step for step, _ in points}) for points in found.values())
    assert run.info.status == "FINISHED"

    ids = {record["run"]["run_id"] for record in logged.wandb_records(run_dir) if record["type"] == "run"}
    assert len(ids) == 1
    found = logged.wandb_points(run_dir)
    steps = {name: points for name, points in expected.items() if not name.startswith("epoch/")}
    assert {name: found[name] for name in steps} == steps
    epochs = {name: [value for _, value in points] for name, points in expected.items() if name not in steps}
    assert {name: [value for _, value in found[name]] for name in epochs} == epochs
