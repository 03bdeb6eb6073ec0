"""A profiled run: its parts are its wall time, and what was compiled is named."""

import json
import time

import keras
import numpy as np
import pytest

import lightkeras as lk
from lightkeras.testing import TwoMoons

BACKEND = keras.backend.backend()


def profiled(path, task=None, **given):
    settings = {"max_epochs": 2, "patience": None, "progress": False, "steps_per_call": 3, "profile": True}
    fitted = lk.Runner(run_dir=path, **settings | given).fit(task or TwoMoons())
    return fitted, json.loads((path / "profile.json").read_text())


def test_the_parts_are_the_wall_time(tmp_path) -> None:
    began = time.perf_counter()
    fitted, profile = profiled(tmp_path / "run")
    called = time.perf_counter() - began
    parts = {name: part["seconds"] for name, part in profile["parts"].items()}
    assert sum(parts.values()) == pytest.approx(profile["wall_s"], abs=1e-4)
    assert sum(part["share"] for part in profile["parts"].values()) == pytest.approx(1, abs=1e-4)
    assert fitted.wall_s <= profile["wall_s"] <= called  # the fit's own begins when all is compiled
    assert profile["steps"] == fitted.steps
    for name in ("start", "compute", "validation", "logging", "checkpoint", "watch"):
        assert parts[name] > 0, name
    assert parts["data"] < parts["start"]  # they lie in memory


class Slow(keras.callbacks.Callback):
    """Counts the seconds that it takes: on a busy machine a sleep lasts longer."""

    seconds = 0.0

    def on_epoch_end(self, epoch, logs=None):
        began = time.perf_counter()
        time.sleep(0.2)
        self.seconds += time.perf_counter() - began


def test_a_slow_callback_is_distinguished_from_the_rest(tmp_path) -> None:
    slow = Slow()
    _, profile = profiled(tmp_path / "run", callbacks=[slow])
    parts = {name: part["seconds"] for name, part in profile["parts"].items()}
    assert slow.seconds >= 0.4
    assert slow.seconds <= parts["callbacks"] < slow.seconds + parts["start"]


class SlowMoons(lk.testing.TwoMoons):
    """Its batches take their time."""

    def batches(self):
        rng = np.random.default_rng(0)
        for _ in range(6):
            time.sleep(0.1)
            yield rng.normal(size=(4, 2)).astype("float32"), np.zeros(4, "int32")


def test_waiting_for_a_stream_is_distinguished_from_computing(tmp_path) -> None:
    task = SlowMoons()
    settings = {"max_epochs": 3, "patience": None, "progress": False, "profile": True, "preflight": False}
    lk.Runner(run_dir=tmp_path / "run", **settings).fit(task, task.batches)
    parts = json.loads((tmp_path / "run" / "profile.json").read_text())["parts"]
    # Of 1.8: what is read during the first call, which may be all of an epoch, is not waited for.
    assert parts["data"]["seconds"] > 0.6
    assert parts["compute"]["seconds"] < parts["data"]["seconds"]


@pytest.mark.backends("tensorflow", "jax", reason="torch compiles nothing")
def test_what_was_compiled_is_named_with_its_cause(tmp_path) -> None:
    _, profile = profiled(tmp_path / "run")
    train = [found for found in profile["compilations"] if found["step"] == "train"]
    batch, last = TwoMoons().hp.batch_size, 320 % TwoMoons().hp.batch_size
    assert train[0]["cause"] == "the first batch"
    assert train[0]["seconds"] > 0
    assert f"[{batch}, 2]" in train[0]["form"] or f"({batch}, 2)" in train[0]["form"]
    assert [found["cause"].startswith("a batch of another form than ") for found in train[1:]] == [True] * bool(last)
    assert "validation" in {found["step"] for found in profile["compilations"]}


@pytest.mark.backends("tensorflow", "jax", reason="torch compiles nothing")
def test_compiling_is_counted_apart_from_training_and_from_validation(tmp_path) -> None:
    runner = lk.Runner(max_epochs=1, profile=True, progress=False, preflight=False, run_dir=tmp_path / "run")
    runner.fit(TwoMoons())
    profile = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert {found["step"] for found in profile["compilations"]} == {"train", "validation"}
    compiled = sum(found["seconds"] for found in profile["compilations"])
    assert profile["parts"]["compilation"]["seconds"] == pytest.approx(compiled, rel=0.05)


@pytest.mark.backends("tensorflow", "jax", reason="torch compiles nothing")
def test_what_the_preflight_compiled_is_not_taken_from_the_first_call_and_validation(tmp_path) -> None:
    _, profile = profiled(tmp_path / "run")
    assert sum(found["seconds"] for found in profile["compilations"]) > 0  # before the training
    assert profile["parts"]["compilation"]["seconds"] == 0


def test_the_backend_traces_one_call(tmp_path) -> None:
    _, profile = profiled(tmp_path / "run")
    names = [path.name for path in (tmp_path / "run" / "profile").rglob("*") if path.is_file()]
    assert profile["trace"] == str(tmp_path / "run" / "profile")
    suffix = ".pt.trace.json" if BACKEND == "torch" else ".xplane.pb"
    assert [name for name in names if name.endswith(suffix)] != []


def test_a_run_that_is_not_profiled_writes_none(tmp_path) -> None:
    lk.Runner(run_dir=tmp_path / "run", max_epochs=1, progress=False).fit(TwoMoons())
    assert not (tmp_path / "run" / "profile.json").exists()
    assert not (tmp_path / "run" / "profile").exists()
