"""What MLflow and W&B have of a run, read with their own readers, and what `metrics.csv` has."""

from __future__ import annotations

import csv
import functools
import json
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

Points = dict[str, list[tuple[int, float]]]

# Neither sends anything to its makers; an address that does not answer is not tried for minutes.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_MODE": "offline",
}


@functools.cache
def _empty_database() -> Path:
    """MLflow makes the tables of a new database by all its migrations, which takes seconds."""
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    path = Path(tempfile.mkdtemp()) / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def new_store(folder: Path) -> str:
    """Makes an empty MLflow store in a folder. Returns its address."""
    shutil.copy(_empty_database(), folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


def mlflow_runs(uri: str) -> list[Any]:
    """All runs of a store, in the order of their start."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    return sorted(client.search_runs(experiments), key=lambda run: run.info.start_time)


def mlflow_points(uri: str, run_id: str) -> Points:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return {
        key: sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, key))
        for key in client.get_run(run_id).data.metrics
    }


def wandb_records(run_dir: Path) -> list[dict[str, Any]]:
    """The records of all sessions of a run, as `wandb leet inspect` prints them."""
    from wandb.util import get_core_path

    found = []
    for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb")):
        command = [get_core_path(), "leet", "inspect", "-json", "-no-observability", "-run-file", str(path)]
        printed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT})
        found += [json.loads(line) for line in printed.stdout.splitlines()]
    return found


def wandb_points(run_dir: Path) -> Points:
    points: Points = {}
    for record in wandb_records(run_dir):
        if record["type"] == "history":
            for name, value in record["history"]["item"].items():
                if not name.startswith("_"):
                    points.setdefault(name, []).append((record["history"]["step"]["num"], value))
    return points


def csv_points(run_dir: Path) -> Points:
    """The points that MLflow and W&B should have, by `metrics.csv`, with epochs on the axis of epochs."""
    points: Points = {}
    with open(run_dir / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            kind, epoch, step = row.pop("kind"), int(row.pop("epoch")), int(row.pop("step"))
            for name, text in row.items():
                if text and kind == "step":  # 9 digits of a float32
                    points.setdefault(name, []).append((step, float(np.float32(text))))
                if text and kind == "epoch":
                    points.setdefault(f"epoch/{name}", []).append((epoch, float(text)))
                if text and name.startswith("val/") and (step, float(text)) not in points.get(name, []):
                    points.setdefault(name, []).append((step, float(text)))  # once, if it was inside an epoch too
    return points
