"""What an encoder learned from the train split: kept with the run, and all that is needed besides weights."""

from __future__ import annotations

import dataclasses
import hashlib

import keras
import numpy as np
import pytest
from keras import layers, ops

import lightkeras as lk
from lightkeras.data.feed import ArrayFeed, StreamFeed
from lightkeras.data.structure import map_structure, spec_of
from lightkeras.encoders import saved_state
from lightkeras.encoders.base import Encoder, batches_of

TRAIN = (np.array([[0.0], [2.0], [4.0], [6.0]], np.float32), np.array([0, 0, 1, 1], np.float32))
HELD_OUT = (np.array([[100.0], [200.0]], np.float32), np.array([1, 0], np.float32))


class Centred(Encoder):
    """Subtracts the mean of the train split, and counts how often it learned."""

    learned = 0

    def __init__(self, factor=1.0):
        self.mean = None
        self.factor = factor

    @property
    def is_fitted(self):
        return self.mean is not None

    def fit(self, batches):
        Centred.learned += 1
        self.mean = np.concatenate([points for points, _ in batches]).mean(keepdims=True)

    def state(self):
        return {"mean": self.mean}

    def restore(self, state):
        if state["mean"].shape != (1, 1):
            raise ValueError("it holds another mean.")
        self.mean = state["mean"]

    @property
    def fingerprint(self):
        return hashlib.blake2b(f"{self.factor}".encode() + self.mean.tobytes(), digest_size=16).hexdigest()

    def encode(self, inputs):
        return (inputs - self.mean) * np.float32(self.factor)

    def inputs(self):
        return keras.Input((1,), name="centred")

    def join(self, model):
        raw = keras.Input((1,))
        return keras.Model(raw, model(layers.Rescaling(self.factor, -self.factor * float(self.mean[0, 0]))(raw)))


class Data(lk.DataModule):
    """Arrays that can be taken away after training."""

    source = "arrays"
    train_is_gone = False

    def train(self):
        if Data.train_is_gone:
            raise AssertionError("the train split was asked for")
        return ArrayFeed(TRAIN, 2)

    def validation(self):
        return ArrayFeed(HELD_OUT, 2)

    def test(self):
        return ArrayFeed(HELD_OUT, 2)


class Line(lk.Task):
    @dataclasses.dataclass(frozen=True)
    class HParams:
        factor: float = 1.0

    def build_data(self):
        return Data()

    def build_encoder(self):
        return Centred(self.hp.factor)

    def build_model(self):
        inputs = self.encoder.inputs()
        return keras.Model(inputs, layers.Dense(1)(inputs))

    def loss(self, batch, training):
        points, target = batch
        return ops.mean((ops.squeeze(self.model(points, training=training), -1) - target) ** 2)


class Dataless(Line):
    def build_data(self):
        return None


@pytest.fixture(autouse=True)
def anew(monkeypatch, tmp_path):
    monkeypatch.setattr(Centred, "learned", 0)
    monkeypatch.setattr(Data, "train_is_gone", False)
    monkeypatch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path / "cache"))


def runner(path, **settings):
    return lk.Runner(**{"max_epochs": 2, "run_dir": path, "progress": False, **settings})


def test_it_learns_from_the_train_split_alone_before_the_model_is_built(tmp_path):
    task = Line()
    runner(tmp_path / "run").fit(task)
    assert task.encoder.mean.tolist() == [[3.0]]
    assert Centred.learned == 1
    loaded = keras.models.load_model(tmp_path / "run" / "model.keras")
    found = keras.ops.convert_to_numpy(loaded(HELD_OUT[0]))
    best = runner(tmp_path / "run").predict(Line(), HELD_OUT[0], weights="best")
    np.testing.assert_allclose(found, best, rtol=1e-5)


def test_it_learns_from_data_that_was_given(tmp_path):
    task = Dataless()
    runner(tmp_path / "run").fit(task, (TRAIN[0] + 1, TRAIN[1]), HELD_OUT, batch_size=2)
    assert task.encoder.mean.tolist() == [[4.0]]


def test_from_a_stream_it_learns_batch_by_batch():
    parts = [(TRAIN[0][:3], TRAIN[1][:3]), (TRAIN[0][3:], TRAIN[1][3:])]
    feed = StreamFeed(lambda epoch: iter(parts), map_structure(spec_of, parts[0]), steps=2)
    encoder = Centred()
    encoder.fit(batches_of(feed))
    assert encoder.mean.tolist() == [[3.0]]


def test_a_run_is_tested_and_used_without_its_train_split(tmp_path, monkeypatch):
    runner(tmp_path / "run").fit(Line())
    monkeypatch.setattr(Data, "train_is_gone", True)
    tested = runner(tmp_path / "run").evaluate(Line(), weights="best")
    given = runner(tmp_path / "run").evaluate(Dataless(), HELD_OUT, weights="best")
    assert tested.metrics["loss"] == given.metrics["loss"]
    assert Centred.learned == 1


def test_a_resume_continues_with_what_was_learned(tmp_path):
    runner(tmp_path / "run").fit(Line())
    task = Line()
    resumed = runner(tmp_path / "run", max_epochs=4).fit(task, resume=True)
    once = runner(tmp_path / "once", max_epochs=4).fit(Line())
    assert Centred.learned == 2  # both runs once
    assert resumed.history == once.history


def test_weights_of_another_encoder_are_refused(tmp_path):
    runner(tmp_path / "run").fit(Line())
    with pytest.raises(ValueError, match=r"The saved run used an encoder with the fingerprint [0-9a-f]{32}, and this"):
        runner(tmp_path / "run").evaluate(Line(Line.HParams(factor=2.0)), weights="best")


def test_what_was_learned_is_missing_or_damaged(tmp_path):
    runner(tmp_path / "run").fit(Line())
    file = tmp_path / "run" / "encoder.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:20])
    with pytest.raises(ValueError, match=r"encoder\.safetensors is damaged: .* It holds the state of the run"):
        runner(tmp_path / "run").evaluate(Line(), weights="best")
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"No such file: .*encoder\.safetensors, which holds what the run's enco"
    ):
        runner(tmp_path / "run").fit(Line(), resume=True)


def test_it_comes_back_from_its_bytes_and_from_no_others(tmp_path):
    encoder, again = Centred(), Centred()
    encoder.fit([TRAIN])
    saved_state.from_bytes(again, saved_state.to_bytes(encoder), tmp_path)
    assert again.mean.tolist() == [[3.0]]
    encoder.mean = np.zeros((2, 2))
    with pytest.raises(ValueError, match=r" cannot be used: it holds another mean\."):
        saved_state.from_bytes(again, saved_state.to_bytes(encoder), tmp_path)


def test_without_a_train_split_nothing_can_be_learned():
    with pytest.raises(ValueError, match=r"Dataless\.build_encoder returned a Centred that learns from the train spl"):
        Dataless().set_up(0)
    with pytest.raises(ValueError, match=r"return a DataModule from build_data, fit it first, or take the weights of"):
        lk.Runner().predict(Dataless(), HELD_OUT[0])
