"""The denoising autoencoder: run as a person runs it, on the built-in sample, and what its task is made of."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from machine import Experiment, Finished, load

import lightkeras as lk

autoencoder = load("keras_io_autoencoder")
EPOCHS = ("--runner.max_epochs", "8", "--hp.learning_rate", "0.01", "--hp.batch_size", "64")


@pytest.fixture(scope="module")
def finished(experiment: Experiment) -> Finished:
    return experiment("keras_io_autoencoder", *EPOCHS)


def task_of(**hparams: Any) -> Any:
    made = autoencoder.KerasIoAutoencoder
    task = made(made.HParams(**{"filters": 8, **hparams}), lk.Lookup(source="sample"))
    task.set_up(seed=0)
    return task


def array(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


# ------------------------------------------------------------------ what a run leaves behind


def test_the_cleaned_images_are_nearer_to_the_clean_ones_than_the_noisy_ones(finished: Finished) -> None:
    result = finished.result
    assert (result["source"], result["fit"]["monitor"]) == ("sample", "val/error")
    assert result["test"].keys() == {"loss", "error", "noisy_error"}
    assert 0 < result["test"]["error"] < result["test"]["noisy_error"] / 2


def test_the_same_noise_is_on_the_images_in_each_validation(finished: Finished) -> None:
    rows = (finished.run_dir / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    epochs = [dict(zip(names, row.split(","), strict=True)) for row in rows[1:] if row.startswith("epoch")]
    assert len(epochs) == 8
    assert len({epoch["val/noisy_error"] for epoch in epochs}) == 1
    assert len({epoch["train/noisy_error"] for epoch in epochs}) == 8


def test_before_and_after_are_drawn_of_both_splits(finished: Finished) -> None:
    for split in ("validation", "test"):
        assert (finished.run_dir / "figures" / split / "before_after.png").read_bytes().startswith(b"\x89PNG")


def test_the_model_that_is_left_behind_cleans_images(finished: Finished) -> None:
    model = keras.models.load_model(finished.run_dir / "model.keras")
    assert array(model(np.zeros((3, 28, 28), "float32"))).shape == (3, 28, 28)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_it_runs_on(experiment: Experiment, backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    result = experiment(
        "keras_io_autoencoder", "--runner.max_steps", "3", "--hp.filters", "8", KERAS_BACKEND=backend
    ).result
    assert (result["backend"], result["fit"]["steps"]) == (backend, 3)


# ------------------------------------------------------------------ what it is made of


def test_the_picture_has_ten_images_in_each_of_three_rows() -> None:
    task = task_of()
    clean = np.zeros((10, 28, 28), "float32")
    figure = task.draw(lambda count: ((clean[:count], np.zeros(count, "int32")), clean[:count]))["before_after"]
    assert len(figure.axes) == 30
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["noisy", "cleaned", "original"]
    noisy, original = figure.axes[0].images[0].get_array(), figure.axes[20].images[0].get_array()
    assert noisy.std() > 0.1
    assert not original.any()


def test_the_noise_has_the_deviation_that_was_asked_for_and_pixels_stay_between_0_and_1() -> None:
    task = task_of(noise=0.1)
    noisy = array(task.with_noise(np.full((50, 28, 28), 0.5, "float32"), seed=1))
    assert noisy.std() == pytest.approx(0.1, rel=0.02)
    noisy = array(task.with_noise(np.ones((2, 28, 28), "float32"), seed=1))
    assert noisy.max() == 1.0


@pytest.mark.long
def test_a_run_that_stops_inside_an_epoch_resumes_with_the_noise_that_comes_next(tmp_path: Path) -> None:
    def fit(name: str, steps: int, resume: bool = False) -> list[np.ndarray]:
        task = task_of()
        lk.Runner(max_steps=steps, run_dir=tmp_path / name, pictures=False, progress=False).fit(task, resume=resume)
        return [array(variable.value) for variable in task.variables().values()]

    whole = fit("whole", 7)
    fit("stopped", 4)
    gone_on = fit("stopped", 7, resume=True)
    assert all(np.array_equal(*pair) for pair in zip(whole, gone_on, strict=True))


# ------------------------------------------------------------------ what it must reach


@pytest.mark.real
@pytest.mark.long
def test_on_the_real_data_a_tenth_of_the_error_is_left(experiment_on_real_data: Experiment) -> None:
    result = experiment_on_real_data("keras_io_autoencoder").result
    assert result["source"] == "mnist"
    assert result["test"]["error"] < 0.15 * result["test"]["noisy_error"]
