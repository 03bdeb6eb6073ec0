"""Articles of clothing, run as a person runs it; of the sample they are digits."""

from __future__ import annotations

import json

import matplotlib.image
import pytest
from machine import Experiment, Finished, Machine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PICTURES = {"samples", "predictions", "single", "confusion"}


@pytest.fixture(scope="module")
def finished(experiment: Experiment) -> Finished:
    return experiment("fashion_mnist", "--runner.max_epochs", "3")


def test_it_learns_the_digits_of_the_sample_and_prints_their_source(finished: Finished) -> None:
    assert finished.result["source"] == "sample"
    assert finished.result["test"].keys() == {"accuracy", "loss"}
    assert finished.result["test"]["accuracy"] > 0.8


def test_four_pictures_are_drawn_of_both_splits(finished: Finished) -> None:
    for split in ("validation", "test"):
        folder = finished.run_dir / "figures" / split
        assert {path.stem for path in folder.iterdir()} == PICTURES
        sizes = {path.stem: matplotlib.image.imread(path).shape[:2] for path in folder.iterdir()}
        one, many = sizes["single"], sizes["predictions"]
        assert many[0] > 3 * one[0]  # five rows
        assert many[1] > 2 * one[1]  # three in a row
        assert sizes["samples"][0] == pytest.approx(sizes["samples"][1], rel=0.3)  # five by five


def test_the_pictures_are_in_tensorboard(finished: Finished) -> None:
    events = EventAccumulator(str(finished.run_dir))
    events.Reload()
    assert set(events.Tags()["images"]) >= {f"{split}/{name}" for split in ("validation", "test") for name in PICTURES}


def test_one_image_is_predicted(machine: Machine, finished: Finished) -> None:
    done = machine.run("fashion_mnist", "predict", "--run_dir", finished.run_dir, "test:1")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row.keys() == {"input", "class", "probabilities"}
    assert row["class"] in range(10)
    assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_it_runs_on_the_other_backends(experiment: Experiment, backend: str) -> None:
    pytest.importorskip(backend)
    run = experiment("fashion_mnist", "--runner.max_epochs", "1", KERAS_BACKEND=backend)
    assert run.result["backend"] == backend
    assert run.result["test"]["accuracy"] > 0.5


@pytest.mark.long
def test_its_ranges_can_be_searched(machine: Machine) -> None:
    few = ("--tuner.trials", "2", "--runner.max_epochs", "1", "--runner.limit_batches.train", "3")
    done = machine.run("fashion_mnist", "tune", *few, "--source", "sample", "--run_dir", machine.home / "search")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trial 000") >= 2
    assert "hidden_units" in done.stdout
    assert "learning_rate" in done.stdout


@pytest.mark.real
@pytest.mark.long
def test_on_the_real_data_the_test_accuracy_is_at_least_0_88(experiment_on_real_data: Experiment) -> None:
    result = experiment_on_real_data("fashion_mnist").result
    assert result["source"] == "fashion_mnist"
    assert result["test"]["accuracy"] >= 0.88
