"""The way from `Runner.fit` to the user's `train_step`: few frames, and a traceback that ends in the user's code."""

from __future__ import annotations

import traceback
from pathlib import Path

import keras
import numpy as np
import pytest

import lightkeras as lk
from lightkeras.testing import TwoMoons, two_moons

PACKAGE = Path(lk.__file__).resolve().parent
HERE = Path(__file__).resolve()


def ours(stack: traceback.StackSummary) -> list[str]:
    """Frames of lightkeras from `fit` on: `"runner.py fit"`."""
    frames = [frame for frame in stack if Path(frame.filename).resolve().is_relative_to(PACKAGE)]
    names = [f"{Path(frame.filename).resolve().relative_to(PACKAGE)} {frame.name}" for frame in frames]
    return names[names.index("runner.py fit") :] if "runner.py fit" in names else []


class Watched(TwoMoons):
    """Keeps the stacks of the calls of its train step."""

    def build_model(self):
        self.stacks = []
        return super().build_model()

    def train_step(self, batch):
        self.stacks.append(ours(traceback.extract_stack()[:-1]))
        return super().train_step(batch)


class Freezes(keras.callbacks.Callback):
    """Freezes a layer after the first epoch: the compiled step is made anew, in the loop."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.layers[0].trainable = False


def arrays():
    return two_moons(80)


def generator():
    points, label = two_moons(80)
    return lambda: ((points[i : i + 32], label[i : i + 32]) for i in range(0, 80, 32))


def dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(two_moons(80)).batch(32)


SOURCES = [arrays, generator, dataset]


@pytest.mark.parametrize("source", SOURCES)
def test_the_loop_comes_to_the_train_step_in_six_frames_of_three_files(source, tmp_path):
    task = Watched()
    lk.Runner(max_epochs=2, run_dir=tmp_path / "run", callbacks=[Freezes()]).fit(task, source())
    in_the_loop = [
        way for way in task.stacks if "runner.py train_epoch" in way and "training/fit.py open_epoch" not in way
    ]
    assert in_the_loop  # the step was run, or traced by the compiled call, in the loop
    for way in in_the_loop:
        assert way[:2] == ["runner.py fit", "runner.py train_epoch"]
        assert way[-1] == "task.py run_train_step"
        assert len(way) <= 6, way
        assert len({frame.split()[0] for frame in way}) <= 3, way


class Mistaken(TwoMoons):
    """Has a mistake in its train step."""

    def train_step(self, batch):
        return self.modell(batch[0])


class Mismatched(TwoMoons):
    """Gives its model what that does not take: the error is raised by Keras."""

    def train_step(self, batch):
        return self.model(np.zeros((3, 7), "float32"))


@pytest.mark.parametrize("source", SOURCES)
def test_a_mistake_in_the_train_step_comes_out_through_seven_frames_of_five_files(source, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTKERAS_FULL_TRACEBACK", "1")
    with pytest.raises(AttributeError, match="modell") as caught:
        lk.Runner(run_dir=tmp_path / "run").fit(Mistaken(), source())
    way = ours(traceback.extract_tb(caught.tb))
    assert way[-1] == "task.py run_train_step"
    assert len(way) <= 7, way
    assert len({frame.split()[0] for frame in way}) <= 5, way


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("task", [Mistaken, Mismatched])
def test_the_last_frame_that_the_user_sees_is_their_own(source, task, tmp_path):
    with pytest.raises((AttributeError, ValueError)) as caught:
        lk.Runner(run_dir=tmp_path / "run").fit(task(), source())
    error = caught.value
    while error.__cause__ is not None:  # a TaskError explains the error it was raised from
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    assert Path(frames[-1].filename).resolve() == HERE
    assert frames[-1].name == "train_step"
    shown = "".join(traceback.format_exception(caught.value))
    assert f"{PACKAGE}/" not in shown.replace(str(PACKAGE / "runner.py"), "")
    assert "LIGHTKERAS_FULL_TRACEBACK=1 shows them" in shown
