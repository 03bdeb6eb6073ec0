"""Words as integers, run as a person runs it."""

from __future__ import annotations

import json
import re

import matplotlib.image
import numpy as np
import pytest
import safetensors.numpy
from machine import Experiment, Finished, Machine


@pytest.fixture(scope="module")
def finished(experiment: Experiment) -> Finished:
    rate = ("--hp.learning_rate", "0.02")
    return experiment("imdb_integers", "--runner.max_epochs", "6", "--hp.batch_size", "128", *rate)


def test_it_learns_the_reviews_of_the_sample(finished: Finished) -> None:
    assert finished.result["source"] == "sample"
    assert finished.result["fit"]["steps"] <= 6 * 47
    assert finished.result["test"].keys() == {"accuracy", "loss"}
    assert finished.result["test"]["accuracy"] > 0.8


def test_the_first_review_is_shown_as_integers_and_as_words_again(finished: Finished) -> None:
    words = re.search(r"the first review (.*)\n\s*as integers ([\d ]+)\n\s*as words again (.*)\n", finished.printed)
    assert words is not None
    plain = re.sub(r"[^\w\s]", "", words[1].lower()).split()
    assert words[3].split()[: len(plain)] == plain[:30]
    assert len(words[2].split()) == 30


def test_the_vocabulary_is_that_of_the_train_split_and_kept_with_the_run(finished: Finished) -> None:
    words = safetensors.numpy.load_file(finished.run_dir / "encoder.safetensors")["words"].tobytes().split(b"\n")
    record = json.loads((finished.run_dir / "config.json").read_text())["encoder"]
    assert record["vocabulary_size"] == len(words) + 2
    assert record["max_tokens"] == 10_000
    assert {b"film", b"the"} <= set(words[:40])


def test_reviews_are_drawn_of_both_splits(finished: Finished) -> None:
    for split in ("validation", "test"):
        picture = matplotlib.image.imread(finished.run_dir / "figures" / split / "reviews_as_the_model_sees_them.png")
        assert min(picture.shape[:2]) > 100
    assert (finished.run_dir / "figures" / "curves.png").is_file()


def test_it_predicts_from_raw_text_as_its_model_does(machine: Machine, finished: Finished) -> None:
    texts = ["The film is not good at all.", "a wonderful, moving masterpiece", ""]
    done = machine.run("imdb_integers", "predict", "--run_dir", finished.run_dir, *texts)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)["positive"] for line in done.stdout.splitlines()]
    script = (
        "import sys, keras, tensorflow as tf\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "print(*tf.sigmoid(model(tf.constant(sys.argv[2:])))[:, 0].numpy().tolist())\n"
    )
    # keep="last" puts a layer of lightkeras between two of Keras.
    loaded = machine.python("-c", f"import lightkeras\n{script}", finished.run_dir / "model.keras", *texts)
    assert loaded.returncode == 0, loaded.stderr
    assert [float(value) for value in loaded.stdout.split()] == pytest.approx(found, abs=1e-6)
    assert found[1] > 0.5


def test_text_that_is_not_utf8_is_refused_in_one_line(machine: Machine, finished: Finished) -> None:
    done = machine.run("imdb_integers", "predict", "--run_dir", finished.run_dir, "caf\udce9")
    assert done.returncode == 2
    assert "Input 0, 'caf\\udce9', is not UTF-8" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_it_runs_on_the_other_backends(experiment: Experiment, backend: str) -> None:
    pytest.importorskip(backend)
    run = experiment(
        "imdb_integers", "--runner.max_epochs", "1", "--runner.limit_batches.train", "4", KERAS_BACKEND=backend
    )
    assert run.result["backend"] == backend
    assert np.isfinite(run.result["test"]["loss"])
    assert "as words again" in run.printed


@pytest.mark.real
@pytest.mark.long
def test_on_the_real_data_the_test_accuracy_is_at_least_0_872(experiment_on_real_data: Experiment) -> None:
    result = experiment_on_real_data("imdb_integers").result
    assert result["source"] == "imdb_reviews"
    assert result["test"]["accuracy"] >= 0.872
