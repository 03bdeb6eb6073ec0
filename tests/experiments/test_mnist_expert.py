"""The convolutional network for digits, run as a person runs it."""

from __future__ import annotations

import csv
import json

import matplotlib.image
import pytest
from machine import EXPERIMENTS, Experiment, Finished, Machine


@pytest.fixture(scope="module")
def finished(experiment: Experiment) -> Finished:
    return experiment("mnist_expert", "--runner.max_epochs", "2", "--hp.batch_size", "50")


def test_it_learns_the_digits_of_the_sample(finished: Finished) -> None:
    assert finished.result["source"] == "sample"
    assert finished.result["fit"]["epochs"] == 2
    assert finished.result["test"].keys() == {"accuracy", "loss"}
    assert finished.result["test"]["accuracy"] > 0.7


def test_the_metric_is_read_for_both_splits_at_the_end_of_each_epoch(finished: Finished) -> None:
    with open(finished.run_dir / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "epoch"]
    assert len(rows) == 2
    for row in rows:
        # Counts of right images: 1,250 are learned from, 250 are held out.
        for name, examples in (("train/accuracy", 1250), ("val/accuracy", 250)):
            right = float(row[name]) * examples
            assert right == pytest.approx(round(right), abs=0.01)
            assert 0 < right <= examples


def test_the_confusion_and_the_surest_mistakes_are_drawn(finished: Finished) -> None:
    for split in ("validation", "test"):
        folder = finished.run_dir / "figures" / split
        assert {path.stem for path in folder.iterdir()} == {"confusion", "mistakes"}
        height, width = matplotlib.image.imread(folder / "confusion.png").shape[:2]
        assert min(height, width) > 500


def test_the_model_can_be_loaded_where_its_class_is_known(machine: Machine, finished: Finished) -> None:
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import mnist_expert, keras, numpy as np
model = keras.models.load_model(sys.argv[2])
print(type(model).__name__, model(np.zeros((3, 28, 28), "float32")).shape, model.hidden.units)
"""
    done = machine.python("-c", program, EXPERIMENTS, finished.run_dir / "model.keras")
    assert done.returncode == 0, done.stderr
    name, *shape, units = done.stdout.split()
    assert (name, units) == ("DigitNet", "128")
    assert "(3, 10)" in " ".join(shape) or "[3, 10]" in " ".join(shape)


def test_a_digit_is_predicted_with_its_probabilities(machine: Machine, finished: Finished) -> None:
    done = machine.run("mnist_expert", "predict", "--run_dir", finished.run_dir, "test:0-1")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["input"] for row in rows] == ["test:0", "test:1"]
    for row in rows:
        assert row.keys() == {"input", "digit", "probabilities"}
        assert row["digit"] in range(10)
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_it_runs_on_the_other_backends(experiment: Experiment, backend: str) -> None:
    pytest.importorskip(backend)
    run = experiment(
        "mnist_expert", "--runner.max_epochs", "2", "--hp.batch_size", "50", timeout=1200, KERAS_BACKEND=backend
    )
    assert run.result["backend"] == backend
    assert run.result["test"]["accuracy"] > 0.5


@pytest.mark.real
@pytest.mark.long
def test_on_the_real_data_the_test_accuracy_is_at_least_0_985(experiment_on_real_data: Experiment) -> None:
    result = experiment_on_real_data("mnist_expert").result
    assert result["source"] == "mnist"
    assert result["test"]["accuracy"] >= 0.985
