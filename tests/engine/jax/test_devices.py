"""Several devices on JAX: four simulated ones, in a process of their own, because JAX counts its devices once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import keras
import pytest

import lightkeras as lk
from lightkeras.engine.jax import devices
from lightkeras.testing import TwoMoons

PROGRAM = """
import json, sys
import keras
import lightkeras as lk
from lightkeras.testing import TwoMoons
from lightkeras.training.stepper import bound_engine

folder = sys.argv[1]

class Normalized(TwoMoons):
    # Its moving means, its dropout and its last batch, of 16 examples, are those of the whole batch.
    def build_model(self):
        hidden = [keras.layers.Dense(16, name="wide"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
        return keras.Sequential([keras.Input((2,)), *hidden, keras.layers.Dense(1)], name="moons")


def fit(name, task=None, **settings):
    task = Normalized() if task is None else task
    run = {"max_epochs": 3, "run_dir": f"{folder}/{name}", "pictures": False, "progress": False, "patience": None}
    resume = settings.pop("resume", False)
    result = lk.Runner(**run | settings).fit(task, resume=resume)
    on = {len(v.value.sharding.device_set) for v in task.variables().values()}
    return {"history": result.history, "devices": sorted(on)}


class Holds(keras.callbacks.Callback):
    def __init__(self, task):
        super().__init__()
        self.task, self.held = task, []

    def on_epoch_end(self, epoch, logs=None):
        arrays = bound_engine(self.task).hold(self.task.variables()).arrays
        self.held.append((arrays, {key: array.copy() for key, array in arrays.items()}))


found = {"one": fit("one"), "four": fit("four", devices="all"), "two": fit("two", devices=2)}
fit("resumed", devices=4, max_epochs=1)
found["resumed"] = fit("resumed", devices=4, resume=True)
fit("elsewhere", max_epochs=1)
found["elsewhere"] = fit("elsewhere", devices=4, resume=True)

task = Normalized()
holds = Holds(task)
fit("held", task, devices=4, callbacks=[holds])
found["held"] = [all((arrays[key] == copy).all() for key, copy in copies.items()) for arrays, copies in holds.held]

mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], keras.distribution.list_devices())
layout = keras.distribution.LayoutMap(mesh)
layout[".*wide/kernel"] = (None, "model")
parallel = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False)
with parallel.scope():
    task = Normalized()
    found["parallel"] = fit("parallel", task)
    kernel = task.model.layers[0].kernel.value
    found["kernel"] = [list(shard.data.shape) for shard in kernel.addressable_shards]
    layout["wide/kernels"] = (None, "model")
    try:
        fit("wrong")
    except ValueError as error:
        found["wrong"] = str(error)
layout = keras.distribution.LayoutMap(mesh)
layout["wide/kernel"] = (None, "model")  # Keras 3.10 searches for it, newer versions compare whole paths
found["finds a part"] = layout["moons/wide/kernel"] is not None
parallel = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False)
with parallel.scope():
    try:
        fit("part")
        found["part"] = ""
    except ValueError as error:
        found["part"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "KERAS_BACKEND": "jax"}
    folder = tmp_path_factory.mktemp("devices")
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"errors": done.stderr}


def test_several_devices_compute_what_one_does(found):
    assert [found[name]["devices"] for name in ("one", "two", "four")] == [[1], [2], [4]]
    for name in ("two", "four", "parallel"):
        for value, epochs in found["one"]["history"].items():
            assert found[name]["history"][value] == pytest.approx(epochs, rel=1e-4), (name, value)


def test_a_resumed_run_ends_as_one_that_never_stopped_and_may_have_other_devices(found):
    assert found["resumed"] == found["four"]
    assert found["elsewhere"]["history"]["train/loss"] == pytest.approx(found["one"]["history"]["train/loss"], rel=1e-4)
    assert "devices was None and is 4" in found["errors"]


def test_values_that_are_held_do_not_change_with_later_steps(found):
    assert found["held"] == [True] * 3


def test_a_layout_divides_a_variable_and_a_key_of_none_is_refused(found):
    assert found["kernel"] == [[2, 8]] * 4
    assert found["wrong"].startswith("The layout 'wide/kernels' matches no variable: expected a regular ")
    assert "Did you mean 'moons/wide/kernel'" in found["wrong"]
    assert found["part"].startswith("The layout 'wide/kernel' matches no variable: ") != found["finds a part"]


def test_each_device_computes_a_part_of_the_batch_inside_the_loop(tmp_path):
    program = """
import jax, lightkeras as lk
from lightkeras.testing import TwoMoons
lowered = []
jit = jax.jit
def seen(function, **settings):
    made = jit(function, **settings)
    def call(*arguments):
        if settings.get("donate_argnums") == 0:
            lowered.append(made.lower(*arguments).compile().as_text())
        return made(*arguments)
    return call
jax.jit = seen
lk.Runner(max_epochs=1, run_dir=FOLDER, devices=4, progress=False, pictures=False).fit(TwoMoons())
print(sum("all-reduce" in text for text in lowered), len(lowered))
"""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", program.replace("FOLDER", repr(str(tmp_path / "run")))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    reducing, compiled = map(int, done.stdout.split()[-2:])
    assert 0 < reducing <= compiled


def test_what_cannot_be_used_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"devices=9: JAX has 1 \(cpu:0\)\. Use devices='all'\."):
        lk.Runner(devices=9, run_dir=tmp_path / "run").fit(TwoMoons())
    with pytest.raises(ValueError, match=r"Runner\(devices='two'\): expected a number, 'all' or None\."):
        lk.Runner(devices="two")
    with pytest.raises(ValueError, match=r"Runner\(devices=0\): expected a whole number of at least 1"):
        lk.Runner(devices=0)
    with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
        message = r"devices='all': keras\.distribution\.set_distribution was called"
        with pytest.raises(ValueError, match=message):
            lk.Runner(devices="all", run_dir=tmp_path / "run").fit(TwoMoons())
    # A mock, because several processes cannot join inside a test that runs in one.
    monkeypatch.setattr(devices.jax, "process_count", lambda: 2)
    message = r"chose devices of 1 of the 2 processes\. Choose some of each"
    with keras.distribution.DataParallel(auto_shard_dataset=False).scope(), pytest.raises(ValueError, match=message):
        devices.check([])
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", "cpu:1"])
    with pytest.raises(ValueError, match=r"devices=1: the 2 processes have 2 devices, and each process needs"):
        lk.Runner(devices=1, run_dir=tmp_path / "run").fit(TwoMoons())
    assert not (tmp_path / "run").exists()
