"""What `config.json` records of a run, and what a resume adds to it."""

import json

import keras
import numpy as np
import pytest

from lightkeras import Runner
from lightkeras.data import feed as feeds
from lightkeras.data.structure import digest_of, flatten
from lightkeras.runs.directory import RunDirectory
from lightkeras.runs.resume import ChangedRunError
from lightkeras.testing import TwoMoons, two_moons
from lightkeras.training import setup
from lightkeras.training.run_config import config_of
from lightkeras.training.settings import Settings

TRAIN, OTHER = two_moons(32), two_moons(16, seed=1)


class Dataless(TwoMoons):
    def build_data(self):
        return None


def made(settings, task=None, train=None):
    return setup.make_fit(settings, setup.get_ready(settings, task or TwoMoons(), train, None, 8))


def test_the_configuration_says_what_the_run_is_made_of(tmp_path):
    settings = Settings(run_dir=tmp_path / "run", seed=4, validate_every="5 steps")
    fit = made(settings)
    config = config_of(fit)
    assert json.loads(json.dumps(config))["task"] == "TwoMoons"
    assert (config["seed"], config["source"], config["backend"]) == (4, "arrays", keras.backend.backend())
    assert config["data"] == {
        "source": "arrays",
        "fingerprint": fit.train_stepper.feed.fingerprint(),
        "batch_size": 32,
        "batches": 10,
        "validation": {"fingerprint": fit.validation_steppers[""].feed.fingerprint(), "examples": 100},
    }
    assert config["monitor"] == {"name": "val/loss", "mode": "min"}
    assert config["runner"]["validate_every"] == "5 steps"
    assert config["hparams"] == {"hidden_units": 16, "learning_rate": 0.01, "batch_size": 32}
    assert config["code"] == {}  # the class is one of lightkeras
    assert set(config_of(made(settings, Dataless(), TRAIN))["code"]) == {"Dataless"}


def test_the_fingerprint_of_a_stream_is_that_of_its_first_batch_which_the_preflight_reads(tmp_path):
    def data_with(preflight, *batches):
        settings = Settings(run_dir=tmp_path / "run", preflight=preflight)
        return config_of(made(settings, train=lambda: iter(batches)))["data"]

    nothing = {"source": "stream", "batch_size": None, "batches": None, "validation": None}
    assert data_with(False, TRAIN, OTHER) == {**nothing, "fingerprint": None}
    first = data_with(True, TRAIN, OTHER)
    assert first == {**nothing, "fingerprint": digest_of(dict(flatten(TRAIN)))}
    assert data_with(True, TRAIN) == first
    assert data_with(True, OTHER, TRAIN) != first


def test_each_resume_is_noted_and_the_beginning_stays(tmp_path):
    settings = Runner(run_dir=tmp_path / "run", max_epochs=1, progress=False, preflight=False)
    settings.fit(TwoMoons())
    before = json.loads((tmp_path / "run" / "config.json").read_text())
    for _ in range(2):
        settings.fit(TwoMoons(), resume=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [(entry["step"], entry["changed"]) for entry in config.pop("resumed")] == [(10, []), (10, [])]
    assert config == before


def test_the_fingerprint_of_large_arrays_is_computed_while_the_run_trains(tmp_path, monkeypatch):
    written = []
    write = RunDirectory.write_config
    monkeypatch.setattr(
        RunDirectory, "write_config", lambda self, config: (written.append(config), write(self, config))
    )
    monkeypatch.setattr(feeds, "LARGE_BYTES", 0)
    runner = Runner(max_epochs=1, run_dir=tmp_path / "run", progress=False, pictures=False)
    runner.fit(Dataless(), TRAIN, OTHER)
    first, second = (config["data"] for config in written)
    assert (first["fingerprint"], first["validation"]["fingerprint"]) == (None, None)
    assert (second["fingerprint"], second["validation"]["fingerprint"]) == (digest_of(TRAIN), digest_of(OTHER))
    nothing = {"fingerprint": None, "validation": None}
    assert {**first, **nothing} == {**second, **nothing}
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert recorded["data"]["fingerprint"] == digest_of(TRAIN)
    longer = Runner(max_epochs=2, run_dir=tmp_path / "run", progress=False, pictures=False)
    x, y = TRAIN
    with pytest.raises(ChangedRunError, match="the examples of train changed"):
        longer.fit(Dataless(), (x + np.float32(1), y), OTHER, resume=True)
    assert longer.fit(Dataless(), TRAIN, OTHER, resume=True).epochs == 2
    assert "resumed" in json.loads((tmp_path / "run" / "config.json").read_text())


def test_an_error_of_the_fingerprint_is_that_of_the_run(tmp_path, monkeypatch):
    def full(self):
        raise OSError("No space left on device")

    monkeypatch.setattr(feeds, "LARGE_BYTES", 0)
    monkeypatch.setattr(feeds.ArrayFeed, "fingerprint", full)
    with pytest.raises(OSError, match="No space left"):
        Runner(max_epochs=1, run_dir=tmp_path / "run", progress=False, pictures=False).fit(Dataless(), TRAIN, OTHER)
