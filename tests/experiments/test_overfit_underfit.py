"""Seven runs of one experiment, compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import matplotlib.image
import pytest
from machine import Experiment, Finished, Machine, load

RUNS = ["tiny", "small", "medium", "large", "large_l2", "large_dropout", "large_both"]
FEW = ("--runner.max_epochs", "2", "--runner.limit_batches.train", "3", "--runner.limit_batches.validation", "1")


@pytest.fixture(scope="module")
def finished(experiment: Experiment) -> Finished:
    return experiment("overfit_underfit", *FEW)


def test_there_is_a_run_for_each_model(finished: Finished) -> None:
    assert finished.result["runs"] == RUNS
    assert finished.result["source"] == "sample"
    hparams = {name: read(finished.run_dir / name / "config.json")["hparams"] for name in RUNS}
    assert [hparams[name]["size"] for name in RUNS] == ["tiny", "small", "medium", "large", "large", "large", "large"]
    assert (hparams["large_both"]["l2"], hparams["large_both"]["dropout"]) == (1e-3, 0.5)
    assert (hparams["large"]["l2"], hparams["large"]["dropout"]) == (0.0, 0.0)


def test_all_curves_are_in_one_figure_and_below_one_directory(finished: Finished) -> None:
    height, width = matplotlib.image.imread(finished.run_dir / "figures" / "overlay.png").shape[:2]
    assert width > height > 300
    assert all(list((finished.run_dir / name).glob("events.out.tfevents.*")) for name in RUNS)


def test_the_table_shows_which_run_overfits(finished: Finished) -> None:
    for name in RUNS:
        [line] = [line for line in finished.printed.splitlines() if f"│ {name} " in line and "overfit" in line]
        verdict = "does not overfit" not in line
        assert finished.result["comparison"][name]["overfits"] is verdict
        assert f"{finished.result['comparison'][name]['val_loss']:.4f}" in line
    assert finished.result["large"] == finished.result["comparison"]["large"]["last_val_loss"]
    assert finished.result["large_regularized"] == finished.result["comparison"]["large_both"]["last_val_loss"]


@pytest.mark.parametrize(
    ("train", "validation", "expected"),
    [
        ([0.6, 0.4, 0.2], [0.7, 0.5, 0.6], (2, 0.2, True)),
        ([0.6, 0.4, 0.2], [0.7, 0.5, 0.52], (2, 0.04, False)),  # it rose, by too little
        ([0.6, 0.4, 0.5], [0.7, 0.5, 0.6], (2, 0.2, False)),  # the train loss rose as well
        ([0.6, 0.4, 0.2], [0.7, 0.6, 0.5], (3, 0.0, False)),
    ],
)
def test_the_rule(train: list[float], validation: list[float], expected: tuple[int, float, bool]) -> None:
    found = load("overfit_underfit").judged({"train/loss": train, "val/loss": validation})
    assert (found["best_epoch"], found["overfits"]) == (expected[0], expected[2])
    assert found["rise"] == pytest.approx(expected[1])


def test_a_run_below_it_can_be_tested(machine: Machine, finished: Finished) -> None:
    done = machine.run("overfit_underfit", "test", "--run_dir", finished.run_dir / "large_l2")
    assert done.returncode == 0, done.stderr
    assert read(finished.run_dir / "large_l2" / "result.json")["test"].keys() == {"accuracy", "loss"}


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_single_run_works_on_the_other_backends(machine: Machine, backend: str) -> None:
    pytest.importorskip(backend)
    run_dir = machine.home / backend
    flags = ("--source", "sample", "--hp.size", "medium", "--hp.l2", "0.001", "--hp.dropout", "0.5")
    done = machine.run("overfit_underfit", "fit", *FEW, *flags, "--run_dir", run_dir, KERAS_BACKEND=backend)
    assert done.returncode == 0, done.stderr
    assert read(run_dir / "result.json")["backend"] == backend


# Each run is a test, so that they are in different slices of `.ci/long`. After 20 epochs the validation loss of the
# large network is 0.87, and with L2 and dropout 0.42.
@pytest.mark.real
@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_on_the_real_data_the_large_network_overfits_and_regularization_lowers_its_loss(
    experiment_on_real_data: Experiment, name: str
) -> None:
    module = load("overfit_underfit")
    flags = [f"--hp.{key}={value}" for key, value in module.RUNS[name].items()]
    run = experiment_on_real_data("overfit_underfit", "fit", *flags)
    assert run.result["source"] == "imdb_reviews"
    assert run.result["fit"]["epochs"] == 20
    with (run.run_dir / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "epoch"]
    found = module.judged({column: [float(row[column]) for row in rows] for column in ("train/loss", "val/loss")})
    assert found["val_loss"] < 0.5
    if name == "large":
        assert found["overfits"]
        assert found["last_val_loss"] > 0.6
    if name == "large_both":
        assert found["last_val_loss"] < 0.6


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
