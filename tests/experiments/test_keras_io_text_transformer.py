"""The small transformer, run as a person runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from machine import Experiment, Finished, Machine

SIZES = ("--hp.length", "100", "--hp.vocabulary", "5000", "--hp.width", "16")
SHORT = (*SIZES, "--hp.batch_size", "32", "--hp.dropout", "0.1")


@pytest.fixture(scope="module")
def finished(experiment: Experiment) -> Finished:
    return experiment("keras_io_text_transformer", "--runner.max_epochs", "2", *SHORT)


def test_it_learns_the_reviews_of_the_sample(finished: Finished) -> None:
    assert finished.result["source"] == "sample"
    assert finished.result["test"].keys() == {"accuracy", "loss"}
    assert finished.result["test"]["accuracy"] > 0.85  # counting words gives 0.88


def test_it_predicts_from_raw_text(machine: Machine, finished: Finished) -> None:
    texts = ["The film is dull, and the plot clumsy.", "a wonderful, moving masterpiece"]
    done = machine.run("keras_io_text_transformer", "predict", "--run_dir", finished.run_dir, *texts)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)["positive"] for line in done.stdout.splitlines()]
    assert found[0] < 0.5 < found[1]


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_it_runs_on_the_other_backends(experiment: Experiment, backend: str) -> None:
    pytest.importorskip(backend)
    few = ("--runner.limit_batches.train", "4", "--runner.limit_batches.test", "2")
    run = experiment("keras_io_text_transformer", "--runner.max_epochs", "1", *few, *SHORT, KERAS_BACKEND=backend)
    assert run.result["backend"] == backend
    assert np.isfinite(run.result["test"]["loss"])


@pytest.mark.real
@pytest.mark.long
def test_on_the_real_data_the_test_accuracy_is_at_least_0_86(experiment_on_real_data: Experiment) -> None:
    result = experiment_on_real_data("keras_io_text_transformer").result
    assert result["source"] == "imdb_reviews"
    assert result["test"]["accuracy"] >= 0.86
