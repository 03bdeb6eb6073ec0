"""The GAN: run as a person runs it, on the built-in sample, and what its task is made of."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from machine import Experiment, Finished, load
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightkeras as lk

gan = load("keras_io_gan")
SMALL = ("--runner.max_epochs", "2", "--runner.limit_batches.train", "3", "--hp.filters", "16")


@pytest.fixture(scope="module")
def finished(experiment: Experiment) -> Finished:
    return experiment("keras_io_gan", *SMALL)


def task_of(**hparams: Any) -> Any:
    task = gan.KerasIoGan(gan.KerasIoGan.HParams(filters=16, **hparams), lk.Lookup(source="sample"))
    task.set_up(seed=0)
    return task


def weights(model: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable.value) for variable in model.trainable_variables]


# ------------------------------------------------------------------ what a run leaves behind


def test_the_result_says_how_readable_the_digits_are(finished: Finished) -> None:
    result = finished.result
    assert (result["source"], result["fit"]["steps"], result["fit"]["monitor"]) == ("sample", 6, "val/readable")
    assert result["test"].keys() == {"readable", "readable_of_real", "distance"}
    assert 0 <= result["test"]["readable"] <= result["test"]["readable_of_real"] <= 1
    assert result["test"]["distance"] > 0


def test_samples_are_images_in_tensorboard_after_every_epoch(finished: Finished) -> None:
    steps: set[int] = set()
    for path in finished.run_dir.glob("events.out.tfevents.*"):
        events = EventAccumulator(str(path), size_guidance={"images": 0}).Reload()
        if "validation/samples" in events.Tags()["images"]:
            steps |= {event.step for event in events.Images("validation/samples")}
    assert steps == {3, 6}
    assert (finished.run_dir / "figures" / "test" / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_the_model_that_is_left_behind_is_the_generator(finished: Finished) -> None:
    generator = keras.models.load_model(finished.run_dir / "model.keras")
    noise, digit = np.ones((3, 32), "float32"), np.eye(10, dtype="float32")[:3]
    images = keras.ops.convert_to_numpy(generator({"noise": noise, "digit": digit}, training=False))
    assert images.shape == (3, 28, 28)
    assert 0 <= images.min() < images.max() <= 1
    assert not np.array_equal(images[0], images[1])  # the same noise, and another digit


def test_of_an_image_it_says_the_digit_and_whether_it_is_real(finished: Finished) -> None:
    task = task_of()
    outputs = lk.Runner(run_dir=finished.run_dir).predict(task, (np.zeros((5, 28, 28), "float32"),), weights="best")
    assert outputs["digit"].shape == outputs["real"].shape == (5,)
    assert set(outputs["digit"]) <= set(range(10))
    assert ((outputs["real"] > 0) & (outputs["real"] < 1)).all()


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_it_runs_on(experiment: Experiment, backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    result = experiment("keras_io_gan", *SMALL, KERAS_BACKEND=backend).result
    assert (result["backend"], result["fit"]["steps"]) == (backend, 6)
    assert math.isfinite(result["test"]["distance"])


# ------------------------------------------------------------------ what it is made of


def test_the_samples_are_five_rows_of_the_ten_digits_from_the_same_noise() -> None:
    task = task_of()
    first, again = ([axes.images[0].get_array().data for axes in task.draw(None)["samples"].axes] for _ in range(2))
    assert len(first) == 50
    assert {image.shape for image in first} == {(28, 28)}
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[10])  # the same digit, and other noise


@pytest.mark.parametrize(("still", "moving"), [("generator", "discriminator"), ("discriminator", "generator")])
def test_each_network_moves_by_its_own_optimizer_alone(still: str, moving: str, tmp_path: Path) -> None:
    task = task_of(**{f"{still}_rate": 0.0})
    before = {name: weights(getattr(task, name)) for name in (still, moving, "judge")}
    lk.Runner(max_steps=1, run_dir=tmp_path / "run", preflight=False, pictures=False, progress=False).fit(task)

    def moved(name: str) -> list[bool]:
        pairs = zip(before[name], weights(getattr(task, name)), strict=True)
        return [not np.array_equal(*pair) for pair in pairs]

    assert not any(moved(still))
    assert all(moved(moving))
    assert all(moved("judge"))


def test_the_distance_is_that_of_the_cubic_kernel_without_its_bias() -> None:
    left, right = np.array([[0.0], [1.0]], "float32"), np.array([[1.0], [2.0]], "float32")
    # (xy + 1)^3: 1 within the left pair, 27 within the right one, and 1, 1, 8, 27 between them.
    found = float(keras.ops.convert_to_numpy(gan.distance(left, right)))
    assert found == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_the_distance_of_single_images_is_a_number() -> None:
    image = np.ones((1, 4), "float32")
    assert float(keras.ops.convert_to_numpy(gan.distance(image, image))) == pytest.approx(-2 * 2**3)


# ------------------------------------------------------------------ what it must reach


@pytest.mark.real
def test_on_the_real_data_the_digits_can_be_read(experiment_on_real_data: Experiment) -> None:
    result = experiment_on_real_data("keras_io_gan").result
    assert result["source"] == "mnist"
    assert result["test"]["readable_of_real"] >= 0.95
    assert result["test"]["readable"] >= 0.9  # noise is read as the digit that was asked for once in ten times
    assert result["test"]["distance"] <= 0.2
