"""W&B offline, read back with its own reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import logged
import numpy as np
import pytest

from lightkeras.runs.loggers import Run, WandB
from lightkeras.runs.loggers.histogram import histogram_of

wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")

NAMES = ["train/loss", "val/loss"]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db0"
    "0000000049454e44ae426082"
)


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    for name, value in logged.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def run_in(folder: Path, position=None, step=0, **settings) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, NAMES, position, step, **{"hparams": {"units": 16}, "config": {"task": "Moons"}, **settings})


def log(logger, steps):
    for step in steps:
        logger.log_steps(1, 2 * step - 1, {"train/loss": [step + 0.25, step + 0.5]})
        logger.log_validation(1, 2 * step, {"val/loss": -float(step)})


EXPECTED = {
    "train/loss": [(1, 1.25), (2, 1.5), (3, 2.25), (4, 2.5), (5, 3.25), (6, 3.5)],
    "val/loss": [(2, -1), (4, -2), (6, -3)],
}


def test_a_run_has_its_values_hyperparameters_texts_figures_and_files(tmp_path):
    logger = WandB("moons", mode="offline", tags=["a"])
    logger.open(run_in(tmp_path / "run"))
    log(logger, [1, 2, 3])
    logger.log_epoch(1, 6, {"train/loss": 2.0, "val/loss": -3.0})
    logger.log_best(6, {"val/loss": -3.0})
    logger.log_text(6, "notes", "a < b")
    logger.log_images(4, {"validation/confusion": PNG})  # of the best weights, at an earlier step
    logger.log_histograms(6, {"weights/kernel": histogram_of(np.float32([0, 1]))})
    (tmp_path / "run" / "figures").mkdir()
    (tmp_path / "run" / "figures" / "curves.png").write_bytes(PNG)
    (tmp_path / "run" / "model.keras").write_bytes(b"model")
    logger.log_artifacts([tmp_path / "run" / "model.keras", tmp_path / "run" / "figures"])
    logger.close()

    found = logged.wandb_points(tmp_path / "run")
    assert EXPECTED.items() <= found.items()
    assert (found["epoch/train/loss"], found["epoch"], found["best/val/loss"]) == ([(6, 2)], [(6, 1)], [(6, -3)])
    assert found["weights/kernel._type"] == [(6, "histogram")]
    assert found["notes._type"] == [(6, "html-file")]
    assert found["validation/confusion._type"] == [(6, "image-file")]
    records = logged.wandb_records(tmp_path / "run")
    (about,) = (record["run"] for record in records if record["type"] == "run")
    assert (about["project"], about["display_name"], about["job_type"]) == ("moons", "run", "fit")
    assert about["config"]["update"]["units"] == 16
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*/files")
    assert (folder / "model.keras").read_bytes() == b"model"
    assert (folder / "figures" / "curves.png").read_bytes() == PNG
    (image,) = folder.glob("media/images/validation/*.png")
    assert image.read_bytes() == PNG or image.stat().st_size > 50
    (text,) = folder.glob("media/html/*.html")
    assert "a &lt; b" in text.read_text()


def test_a_resumed_run_has_the_same_id_and_each_point_once(tmp_path):
    logger = WandB("moons", mode="offline")
    logger.open(run_in(tmp_path / "run"))
    log(logger, [1])
    position = logger.position()
    log(logger, [2])
    logger.close(failed=True)
    again = WandB("moons", mode="offline")
    again.open(run_in(tmp_path / "run", position, 2))
    log(again, [2, 3])
    again.close()
    assert {name: found for name, found in logged.wandb_points(tmp_path / "run").items() if name in NAMES} == EXPECTED
    runs = [record["run"]["run_id"] for record in logged.wandb_records(tmp_path / "run") if record["type"] == "run"]
    assert len(runs) == 2
    assert len(set(runs)) == 1
    exits = [record["exit"]["exit_code"] for record in logged.wandb_records(tmp_path / "run") if "exit" in record]
    assert exits == [1, 0]


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_values_that_wandb_lost_when_it_was_killed_are_logged_by_the_resumed_run(tmp_path, kept):
    """W&B writes blocks of 32 KiB: the file of a killed process ends anywhere, also within a value."""
    losses = [float(number) for number in range(1, 1001)]
    logger = WandB("moons", mode="offline")
    logger.open(run_in(tmp_path / "run"))
    logger.log_steps(1, 1, {"train/loss": losses})
    position = logger.position()
    logger.close()
    (path,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    os.truncate(path, int(kept * path.stat().st_size))
    before = len(logged.wandb_points(tmp_path / "run")["train/loss"])
    assert 0 < before < 1000
    again = WandB("moons", mode="offline")
    again.open(run_in(tmp_path / "run", position, 1000))
    again.close()
    assert logged.wandb_points(tmp_path / "run")["train/loss"] == [(int(loss), loss) for loss in losses]


def test_the_trials_of_a_search_are_a_group(tmp_path):
    search = tmp_path / "moons_search"
    for number in range(2):
        logger = WandB("moons", mode="offline")
        logger.open(run_in(search / "trials" / f"000{number}", search=search))
        log(logger, [1])
        logger.close()
        (about,) = (
            record["run"]
            for record in logged.wandb_records(search / "trials" / f"000{number}")
            if record["type"] == "run"
        )
        found = (about["run_group"], about["job_type"], about["display_name"])
        assert found == ("moons_search", "trial", f"trials/000{number}")


def test_the_run_is_not_that_of_calls_of_wandb_log(tmp_path):
    logger = WandB("moons", mode="offline")
    logger.open(run_in(tmp_path / "run"))
    assert wandb.run is None
    logger.close()


def test_a_mode_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"WandB\(mode='disabled'\): expected 'online', 'offline' or None"):
        WandB(mode="disabled")


def test_logging_does_not_load_keras_or_a_backend(tmp_path):
    script = """
import pathlib, sys
import lightkeras as lk
logger = lk.loggers.WandB(mode="offline")
logger.open(lk.loggers.Run(pathlib.Path(sys.argv[1]), ["train/loss"]))
logger.log_steps(1, 1, {"train/loss": [1.0]})
logger.close()
print(sorted({"tensorflow", "keras", "jax", "torch"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=True)
    assert done.stdout == "[]\n"
    assert logged.wandb_points(tmp_path)["train/loss"] == [(1, 1.0)]
