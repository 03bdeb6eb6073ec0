"""Texts and images that a task logs while it is trained."""

from __future__ import annotations

import io

import keras
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightkeras as lk
from lightkeras.plots import png
from lightkeras.testing import TwoMoons

GRAY = np.array([[0.0, 1.0], [0.5, 0.25]], np.float32)


class Logging(TwoMoons):
    """Calls a function with the task at the end of each epoch."""

    def __init__(self, log):
        super().__init__()
        self._log = log

    def build_callbacks(self):
        return [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: self._log(self))]


def fit(folder, log, **settings):
    plain = {"progress": False, "pictures": False, "export": False, "preflight": False, "max_epochs": 2}
    return lk.Runner(run_dir=folder, **plain | settings).fit(Logging(log))


def read(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0}).Reload()


def pixels(content: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(content))[..., :3]


def test_texts_and_images_are_at_their_train_step(tmp_path):
    figure = Figure(figsize=(1, 1))

    def log(task):
        task.log_text("notes", "# größe")
        task.log_image("gray", GRAY)
        task.log_image("a figure", figure)

    fit(tmp_path / "run", log)
    found = read(tmp_path / "run")
    assert [event.step for event in found.Tensors("notes")] == [10, 20]
    assert found.Tensors("notes")[0].tensor_proto.string_val[0].decode() == "# größe"
    assert found.SummaryMetadata("notes").plugin_data.plugin_name == "text"
    assert [event.step for event in found.Images("gray")] == [10, 20]
    assert found.Images("a figure")[0].encoded_image_string == png(figure)


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 1), (2, 2, 3), (2, 2, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_arrays_of_every_form_keep_their_values(tmp_path, shape, dtype):
    image = np.ones(shape, np.float32) * (GRAY if len(shape) == 2 else GRAY[..., None])
    if shape[-1] == 4:
        image[..., 3] = 1.0
    given = image if dtype == "float32" else np.round(255 * image).astype(np.uint8)
    fit(tmp_path / "run", lambda task: task.log_image("image", given), max_epochs=1)
    (event,) = read(tmp_path / "run").Images("image")
    assert (event.width, event.height) == (2, 2)
    assert pixels(event.encoded_image_string)[..., 0] == pytest.approx(GRAY, abs=1 / 255)


@pytest.mark.parametrize(
    ("log", "error", "message"),
    [
        (lambda task: task.log_text("config", "a"), ValueError, r"log_text\('config'\): the name is taken"),
        (lambda task: task.log_image("val/loss", GRAY), ValueError, r"log_image\('val/loss'\): the name is taken"),
        (lambda task: task.log_text("", "a"), ValueError, "expected a name of printable characters"),
        (lambda task: task.log_text("a", 1), TypeError, "expected a str, got int"),
        (lambda task: task.log_image("a", 255 * GRAY), ValueError, "got values from 0 to 255"),
        (lambda task: task.log_image("a", GRAY * np.nan), ValueError, "expected floats from 0 to 1"),
        (lambda task: task.log_image("a", GRAY.astype(np.int64)), ValueError, "expected uint8 or floats from 0 to 1"),
        (lambda task: task.log_image("a", np.zeros((2, 2, 2))), ValueError, r"got dtype float64 and shape \[2, 2, 2\]"),
        (
            lambda task: [task.log_text("a", "b"), task.log_image("a", GRAY)],
            ValueError,
            r"Logging\.log_image\('a'\): the name is taken by log_text",
        ),
        (
            lambda task: [task.log_image("a", GRAY), task.log_image("a", GRAY)],
            ValueError,
            "it was logged after step 10 already",
        ),
    ],
)
def test_what_is_no_text_or_image_or_has_a_name_that_is_taken_is_refused(tmp_path, log, error, message):
    with pytest.raises(error, match=message):
        fit(tmp_path / "run", log)


def test_a_call_inside_a_step_or_outside_a_fit_is_refused(tmp_path):
    class Inside(TwoMoons):
        def loss(self, batch, training):
            self.log_text("a", "b")
            return super().loss(batch, training)

    with pytest.raises(RuntimeError, match=r"Inside\.log_text was called inside a step"):
        lk.Runner(run_dir=tmp_path / "run", progress=False).fit(Inside())
    task = TwoMoons()
    with pytest.raises(RuntimeError, match=r"TwoMoons\.log_image was called while no fit of the task is running"):
        task.log_image("a", GRAY)
    lk.Runner(run_dir=tmp_path / "run", progress=False, pictures=False, max_epochs=1).fit(task)
    with pytest.raises(RuntimeError, match="no fit of the task is running"):
        task.log_text("a", "b")


def test_they_stay_when_a_skipped_batch_removes_the_steps_after_them(tmp_path):
    class Broken(Logging):
        def build_data(self):
            points, label = lk.testing.two_moons(320)
            points[300] = np.nan
            return lk.data.ArrayData((points, label), lk.testing.two_moons(100, seed=1), batch_size=32)

    runner = lk.Runner(
        run_dir=tmp_path / "run", progress=False, pictures=False, export=False, preflight=False, max_epochs=2,
        skip_broken=4,
    )  # fmt: skip
    result = runner.fit(Broken(lambda task: task.log_text("notes", "a")))
    assert len(result.skipped) == 2
    assert [event.step for event in read(tmp_path / "run").Tensors("notes")] == [10, 20]
