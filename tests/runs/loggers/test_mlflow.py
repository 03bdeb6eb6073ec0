"""MLflow, read back with its own client."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import logged
import pytest

from lightkeras.runs.loggers import MLflow, Run

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")

NAMES = ["train/loss", "val/loss"]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db0"
    "0000000049454e44ae426082"
)


@pytest.fixture
def uri(tmp_path, monkeypatch):
    for name, value in logged.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)  # where the artifacts of a local store are
    return logged.new_store(tmp_path)


def run_in(folder: Path, position=None, step=0, **settings) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"task": "Moons", "argv": ["moons.py"]}
    hparams = {"units": 16, "rate": 0.25, "fine tune?": True}
    return Run(folder, NAMES, position, step, **{"hparams": hparams, "config": config, **settings})


def log(logger, steps):
    for step in steps:
        logger.log_steps(1, 2 * step - 1, {"train/loss": [step + 0.25, step + 0.5]})
        logger.log_validation(1, 2 * step, {"val/loss": -float(step)})


EXPECTED = {
    "train/loss": [(1, 1.25), (2, 1.5), (3, 2.25), (4, 2.5), (5, 3.25), (6, 3.5)],
    "val/loss": [(2, -1), (4, -2), (6, -3)],
}


def test_a_run_has_its_values_hyperparameters_texts_figures_and_files(uri, tmp_path):
    logger = MLflow(uri, "moons", tags={"team": "a"})
    logger.open(run_in(tmp_path / "run"))
    log(logger, [1, 2, 3])
    logger.log_epoch(1, 6, {"train/loss": 2.0, "val/loss": -3.0})
    logger.log_best(6, {"val/loss": -3.0})
    logger.log_diagnostics(6, {"run/top-5 (a+b)": 0.5})
    logger.log_measurements(6, {"run/top-5 (a+b)": 0.75})  # the second one at this step
    logger.log_text(6, "notes", "größer")
    logger.log_images(6, {"validation/confusion": PNG})
    (tmp_path / "run" / "figures").mkdir()
    (tmp_path / "run" / "figures" / "curves.png").write_bytes(PNG)
    (tmp_path / "run" / "model.keras").write_bytes(b"model")
    logger.log_artifacts([tmp_path / "run" / "model.keras", tmp_path / "run" / "figures"])
    logger.close()

    (run,) = logged.mlflow_runs(uri)
    client = mlflow.MlflowClient(uri)
    assert client.get_experiment(run.info.experiment_id).name == "moons"
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {"units": "16", "rate": "0.25", "fine tune_": "True"}
    tags = {"team": "a", "lightkeras.run_dir": str(tmp_path / "run"), "mlflow.source.name": "moons.py"}
    assert tags.items() <= run.data.tags.items()
    assert logged.mlflow_points(uri, run.info.run_id) == {
        **EXPECTED,
        "val/loss": [(2, -1), (4, -2), (6, -3)],
        "epoch/train/loss": [(1, 2.0)],
        "epoch/val/loss": [(1, -3.0)],
        "best/val/loss": [(6, -3.0)],
        "run/top-5 _a_b_": [(6, 0.5)],
    }
    found = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert (found / "texts/notes/00000006.md").read_text() == "größer"
    assert (found / "images/validation/confusion/00000006.png").read_bytes() == PNG
    assert (found / "figures/curves.png").read_bytes() == PNG
    assert (found / "model.keras").read_bytes() == b"model"
    assert mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/config.json")["task"] == "Moons"


def test_values_that_are_not_finite_are_logged_as_mlflow_keeps_them(uri, tmp_path):
    logger = MLflow(uri)
    logger.open(run_in(tmp_path / "run"))
    logger.log_steps(1, 1, {"train/loss": [math.nan, math.inf]})
    logger.close(failed=True)
    (run,) = logged.mlflow_runs(uri)
    (first, nan), (second, largest) = logged.mlflow_points(uri, run.info.run_id)["train/loss"]
    assert run.info.status == "FAILED"
    assert (first, second, math.isnan(nan), largest) == (1, 2, True, sys.float_info.max)


@pytest.mark.parametrize("batches", [0, 1])
def test_a_run_that_was_cut_off_while_it_sent_has_each_point_once_when_it_is_resumed(
    uri, tmp_path, monkeypatch, batches
):
    """The first or the second request fails, each of three points: the store has none or some of the values."""
    from lightkeras.runs.loggers import mlflow as module

    monkeypatch.setattr(module, "_MOST_METRICS", 3)
    sent = mlflow.MlflowClient.log_batch
    calls = []

    def fails(self, run_id, metrics=(), params=()):
        if metrics and len(calls) == batches:
            raise mlflow.MlflowException("no answer")
        calls.extend([metrics] if metrics else [])
        sent(self, run_id, metrics=metrics, params=params)

    logger = MLflow(uri)
    logger.open(run_in(tmp_path / "run"))
    log(logger, [1, 2])
    position = logger.position()
    log(logger, [3])
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_batch", fails)
        with pytest.raises(ConnectionError, match=r"MlflowException: no answer\. [\d,]+ bytes are left"):
            logger.close()
    again = MLflow(uri)
    again.open(run_in(tmp_path / "run", position, 4))
    (run,) = logged.mlflow_runs(uri)
    assert run.info.status == "RUNNING"
    log(again, [3])
    again.close()
    (run,) = logged.mlflow_runs(uri)
    assert logged.mlflow_points(uri, run.info.run_id) == EXPECTED
    assert run.info.status == "FINISHED"


def test_figures_and_texts_of_a_resumed_run_are_logged_once(uri, tmp_path, monkeypatch):
    for position, steps in ((None, [2, 4]), ({}, [2, 4, 6])):
        logger = MLflow(uri)
        logger.open(run_in(tmp_path / "run", position))
        logs, original = [], mlflow.MlflowClient.log_artifact
        monkeypatch.setattr(
            mlflow.MlflowClient,
            "log_artifact",
            lambda self, run_id, file, path=None, logs=logs, original=original: (
                logs.append(f"{path}/{Path(file).name}"),
                original(self, run_id, file, path),
            ),
        )
        for step in steps:
            logger.log_text(step, "notes", str(step))
            logger.log_images(step, {"samples": PNG})
        logger.close()
        monkeypatch.undo()
    assert logs == ["texts/notes/00000006.md", "images/samples/00000006.png"]


def test_the_trials_of_a_search_are_children_of_one_run(uri, tmp_path):
    search = tmp_path / "moons_search"
    for number in range(2):
        logger = MLflow(uri)
        logger.open(run_in(search / "trials" / f"000{number}", search=search))
        log(logger, [1])
        logger.close()
    parent, *children = logged.mlflow_runs(uri)
    assert (parent.info.run_name, parent.info.status) == ("moons_search", "FINISHED")
    assert [child.info.run_name for child in children] == ["trials/0000", "trials/0001"]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.info.experiment_id for child in children} == {parent.info.experiment_id}


def test_a_store_that_cannot_be_reached_is_an_error_before_the_first_step(tmp_path, uri):
    with pytest.raises(mlflow.MlflowException, match=r"127\.0\.0\.1"):
        MLflow("http://127.0.0.1:9").open(run_in(tmp_path / "run"))


def test_logging_does_not_load_keras_or_a_backend(uri, tmp_path):
    script = """
import pathlib, sys
import lightkeras as lk
logger = lk.loggers.MLflow(sys.argv[1])
logger.open(lk.loggers.Run(pathlib.Path(sys.argv[2]), ["train/loss"]))
logger.log_steps(1, 1, {"train/loss": [1.0]})
logger.close()
print(sorted({"tensorflow", "keras", "jax", "torch"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", script, uri, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=True)
    assert done.stdout == "[]\n"
    (run,) = logged.mlflow_runs(uri)
    assert run.data.metrics == {"train/loss": 1.0}
