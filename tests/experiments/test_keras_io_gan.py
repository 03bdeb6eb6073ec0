"""The GAN: run as a person runs it, on the built-in sample, and what its task is made of."""

from __future__ import annotations

import importlib.util
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


def test_the_result_shows_how_much_a_student_of_generated_digits_can_read(finished: Finished) -> None:
    result = finished.result
    assert (result["source"], result["fit"]["steps"], result["fit"]["monitor"]) == ("sample", 6, "val/accuracy")
    assert result["test"].keys() == {"accuracy"}
    assert 0 <= result["test"]["accuracy"] <= 1


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


def test_an_image_is_classified_by_its_digit_and_whether_it_is_real(finished: Finished) -> None:
    task = task_of()
    outputs = lk.Runner(run_dir=finished.run_dir).predict(task, (np.zeros((5, 28, 28), "float32"),), weights="best")
    assert outputs["digit"].shape == outputs["real"].shape == (5,)
    assert set(outputs["digit"]) <= set(range(10))
    assert ((outputs["real"] > 0) & (outputs["real"] < 1)).all()


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_it_runs_on(experiment: Experiment, backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    result = experiment("keras_io_gan", *SMALL, KERAS_BACKEND=backend).result
    assert (result["backend"], result["fit"]["steps"]) == (backend, 6)
    assert 0 <= result["test"]["accuracy"] <= 1


# ------------------------------------------------------------------ what it is made of


def test_the_samples_are_five_rows_of_the_ten_digits_from_the_same_noise() -> None:
    task = task_of()
    first, again = ([axes.images[0].get_array().data for axes in task.draw(None)["samples"].axes] for _ in range(2))
    assert len(first) == 50
    assert {image.shape for image in first} == {(28, 28)}
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[10])  # the same digit, and other noise


def one_step(task: Any, run_dir: Path, images: np.ndarray | None = None) -> None:
    given = None if images is None else (images, np.arange(len(images), dtype="int32") % 10)
    runner = lk.Runner(max_steps=1, run_dir=run_dir, preflight=False, pictures=False, progress=False, monitor=None)
    runner.fit(task, given, batch_size=20) if given else runner.fit(task)


def equal(left: list[np.ndarray], right: list[np.ndarray]) -> list[bool]:
    return [np.array_equal(*pair) for pair in zip(left, right, strict=True)]


@pytest.mark.filterwarnings("ignore:.*outside its declared range")
@pytest.mark.parametrize(("still", "moving"), [("generator", "discriminator"), ("discriminator", "generator")])
def test_each_network_moves_by_its_own_optimizer_alone(still: str, moving: str, tmp_path: Path) -> None:
    task = task_of(**{f"{still}_rate": 0.0})
    before = {name: weights(getattr(task, name)) for name in (still, moving, "student")}
    one_step(task, tmp_path / "run", np.random.default_rng(0).random((20, 28, 28), "float32"))
    assert all(equal(before[still], weights(getattr(task, still))))
    assert not any(equal(before[moving], weights(getattr(task, moving))))
    assert not any(equal(before["student"], weights(task.student)))


@pytest.mark.filterwarnings("ignore:.*outside its declared range")
def test_the_student_learns_from_no_real_image(tmp_path: Path) -> None:
    found = {}
    for brightness in (0.2, 0.9):
        task = task_of(generator_rate=0.0)  # through which it would see the real ones
        one_step(task, tmp_path / str(brightness), np.full((20, 28, 28), brightness, "float32"))
        found[brightness] = (weights(task.student), weights(task.discriminator))
    assert all(equal(found[0.2][0], found[0.9][0]))
    assert not all(equal(found[0.2][1], found[0.9][1]))


@pytest.mark.filterwarnings("ignore:.*outside its declared range")
def test_the_average_moves_towards_the_generator_by_what_it_does_not_remember(tmp_path: Path) -> None:
    task = task_of(memory=0.75)
    before = task.average.get_weights()
    one_step(task, tmp_path / "run", np.random.default_rng(0).random((20, 28, 28), "float32"))
    for first, newest, average in zip(before, task.generator.get_weights(), task.average.get_weights(), strict=True):
        np.testing.assert_allclose(average, 0.75 * first + 0.25 * newest, rtol=1e-5, atol=1e-7)
        assert not np.array_equal(first, newest)


# ------------------------------------------------------------------ what it must reach


@pytest.mark.real
@pytest.mark.long
def test_on_the_real_data_a_student_of_its_digits_can_read_real_ones(experiment_on_real_data: Experiment) -> None:
    result = experiment_on_real_data("keras_io_gan").result
    assert result["source"] == "mnist"
    assert result["test"]["accuracy"] >= 0.9  # 0.1 is chance; a student of the real digits comes to 0.97
