"""The beginner's network for digits, run as a person runs it."""

from __future__ import annotations

import json
import math
import re

import matplotlib.image
import numpy as np
import pytest
from machine import Experiment, Finished, Machine
from PIL import Image

from lightkeras.data import Lookup, Mnist


@pytest.fixture(scope="module")
def finished(experiment: Experiment) -> Finished:
    return experiment("mnist_beginner", "--runner.max_epochs", "3")


@pytest.fixture(scope="module")
def test_images() -> np.ndarray:
    digits = Mnist()
    digits.prepare(Lookup("sample"))
    return digits.test().arrays[0]


def predicted(machine: Machine, finished: Finished, *inputs: str) -> list[dict]:
    done = machine.run("mnist_beginner", "predict", "--run_dir", finished.run_dir, *inputs)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_learns_the_digits_of_the_sample(finished: Finished) -> None:
    assert finished.result["source"] == "sample"
    assert finished.result["fit"]["epochs"] == 3
    assert finished.result["test"].keys() == {"accuracy", "loss"}
    assert finished.result["test"]["accuracy"] > 0.85


def test_the_untrained_loss_is_printed_and_close_to_that_of_guessing(finished: Finished) -> None:
    found = re.search(r"untrained: the loss is ([\d.]+), guessing .* -ln\(1/10\) = ([\d.]+)", finished.printed)
    assert found is not None
    assert float(found[2]) == pytest.approx(math.log(10), abs=0.005)
    assert float(found[1]) == pytest.approx(math.log(10), abs=0.4)
    assert finished.printed.count("untrained") == 1


def test_predictions_are_drawn_of_both_splits(finished: Finished) -> None:
    for split in ("validation", "test"):
        picture = matplotlib.image.imread(finished.run_dir / "figures" / split / "predictions.png")
        height, width = picture.shape[:2]
        assert min(height, width) > 1000  # fifteen images, three in a row


def test_one_line_is_printed_for_each_image_of_an_input(machine: Machine, finished: Finished, test_images) -> None:
    pixels = np.rint(test_images * 255).astype(np.uint8)
    Image.fromarray(pixels[5]).save(machine.home / "five.png")
    np.save(machine.home / "batch.npy", pixels[2:4])
    rows = predicted(machine, finished, "test:2-5", str(machine.home / "batch.npy"), str(machine.home / "five.png"))
    batch = f"{machine.home}/batch.npy"
    assert [row["input"] for row in rows] == [
        *("test:2", "test:3", "test:4", "test:5", f"{batch}:0", f"{batch}:1", f"{machine.home}/five.png")
    ]
    for row in rows:
        assert row.keys() == {"input", "digit", "logits", "probabilities"}
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert row["digit"] == int(np.argmax(row["probabilities"])) == int(np.argmax(row["logits"]))
        exponentials = np.exp(row["logits"])
        assert row["probabilities"] == pytest.approx(exponentials / exponentials.sum(), abs=1e-5)
    logits = [row["logits"] for row in rows]
    assert logits[4] == pytest.approx(logits[0], abs=1e-5)
    assert logits[5] == pytest.approx(logits[1], abs=1e-5)
    assert logits[6] == pytest.approx(logits[3], abs=1e-5)


def test_an_input_that_is_not_an_image_is_an_error_of_one_line(machine: Machine, finished: Finished) -> None:
    Image.new("L", (32, 28)).save(machine.home / "wide.png")
    done = machine.run("mnist_beginner", "predict", "--run_dir", finished.run_dir, "test:0", "wide.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert "wide.png is 32 x 28 pixels (width x height): expected 28 x 28" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_it_runs_on_the_other_backends(experiment: Experiment, backend: str) -> None:
    pytest.importorskip(backend)
    run = experiment("mnist_beginner", "--runner.max_epochs", "1", KERAS_BACKEND=backend)
    assert run.result["backend"] == backend
    assert run.result["test"]["accuracy"] > 0.5
    assert "untrained: the loss is 2." in run.printed


@pytest.mark.real
@pytest.mark.long
def test_on_the_real_data_the_test_accuracy_is_at_least_0_975(experiment_on_real_data: Experiment) -> None:
    result = experiment_on_real_data("mnist_beginner").result
    assert result["source"] == "mnist"
    assert result["test"]["accuracy"] >= 0.975
