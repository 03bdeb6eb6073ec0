"""The guide to text classification, run as a user runs it."""

from __future__ import annotations

import json
import re

import pytest
from machine import Experiment, Finished, Machine


@pytest.fixture(scope="module")
def finished(experiment: Experiment) -> Finished:
    return experiment("text_guide", "--runner.max_epochs", "3")


def record(run: Finished) -> dict:
    return json.loads((run.run_dir / "config.json").read_text())["encoder"]


def test_the_ratio_is_computed_printed_and_decides(finished: Finished) -> None:
    found = re.search(r"([\d,]+) texts with a median of (\d+) words: (\d+) is below 1500, so ngrams", finished.printed)
    assert found is not None
    texts = int(found[1].replace(",", ""))
    assert texts == 7500
    assert int(found[3]) == pytest.approx(texts / int(found[2]), abs=0.51)
    assert record(finished)["encoder"] == "NgramVectorizer"


def test_it_learns_the_reviews_of_the_sample(finished: Finished) -> None:
    assert finished.result["source"] == "sample"
    assert finished.result["test"]["accuracy"] > 0.9


def test_it_predicts_from_raw_text_as_its_model_does(machine: Machine, finished: Finished) -> None:
    texts = ["The film is not good at all.", "a wonderful, moving masterpiece", ""]
    done = machine.run("text_guide", "predict", "--run_dir", finished.run_dir, *texts)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)["positive"] for line in done.stdout.splitlines()]
    script = (
        "import sys, keras, tensorflow as tf, lightkeras\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "print(*tf.sigmoid(model(tf.constant(sys.argv[2:])))[:, 0].numpy().tolist())\n"
    )
    loaded = machine.python("-c", script, finished.run_dir / "model.keras", *texts)
    assert loaded.returncode == 0, loaded.stderr
    assert [float(value) for value in loaded.stdout.split()] == pytest.approx(found, abs=1e-6)
    assert found[0] < 0.5 < found[1]


@pytest.mark.parametrize(
    ("flags", "encoder"),
    [
        (("--hp.model", "sequence"), "TextVectorizer"),
        (
            ("--hp.model", "ngrams", "--hp.ngrams", "2", "--hp.features", "500", "--hp.weights", "tf_idf")
            + ("--hp.units", "64"),
            "NgramVectorizer",
        ),
    ],
    ids=["sequence", "ngrams"],
)
def test_both_models_can_be_asked_for(experiment: Experiment, flags: tuple[str, ...], encoder: str) -> None:
    run = experiment(
        "text_guide", *flags, "--runner.max_epochs", "1", "--runner.limit_batches.train", "2",
        "--runner.limit_batches.validation", "1", "--runner.limit_batches.test", "1",
    )  # fmt: skip
    assert record(run)["encoder"] == encoder
    assert f"{flags[1]}, set by --hp.model." in run.printed
    assert run.result["test"].keys() == {"accuracy", "loss"}


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.long)])
def test_it_runs_on_the_other_backends(experiment: Experiment, backend: str) -> None:
    pytest.importorskip(backend)
    run = experiment("text_guide", "--runner.max_epochs", "1", KERAS_BACKEND=backend)
    assert run.result["backend"] == backend
    assert run.result["test"]["accuracy"] > 0.8


@pytest.mark.real
@pytest.mark.long
def test_on_the_real_data_the_test_accuracy_is_at_least_0_90(experiment_on_real_data: Experiment) -> None:
    result = experiment_on_real_data("text_guide").result
    assert result["source"] == "imdb_reviews"
    assert result["test"]["accuracy"] >= 0.90
