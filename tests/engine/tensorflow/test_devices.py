"""Several devices on TensorFlow: three of a CPU, in processes of their own, because they are made before it starts."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import forked
import numpy as np
import pytest

import lightkeras as lk
from lightkeras.testing import TwoMoons

CONFORMANCE = Path(__file__).parents[1]
BY_HAND = CONFORMANCE / "tasks"

BEGINNING = """
import json, os, signal, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
import keras
import numpy as np
from keras import layers, ops
import lightkeras as lk
from lightkeras.testing import TwoMoons, two_moons

folder = sys.argv[1]
SMALLER_LAST = lk.data.ArrayData(two_moons(330), two_moons(101, seed=1), batch_size=32)  # the last ones of 10 and 5


def fit(name, task, **settings):
    run = {"max_epochs": 3, "run_dir": f"{folder}/{name}", "pictures": False, "progress": False, "patience": None}
    resume = settings.pop("resume", False)
    return lk.Runner(**run | settings).fit(task, resume=resume).history


class Moons(TwoMoons):
    # With state of every kind that devices change: moving means, and metrics of examples and of one value a step.
    def build_data(self):
        return SMALLER_LAST

    def build(self):
        super().build()
        self.right, self.losses = keras.metrics.BinaryAccuracy("right", threshold=0.0), keras.metrics.Mean("losses")

    def build_model(self):
        normalized = layers.BatchNormalization(synchronized=True)
        return keras.Sequential([keras.Input((2,)), layers.Dense(16, use_bias=False), normalized, layers.Dense(1)])

    def loss(self, batch, training):
        points, label = batch
        logit = self.model(points, training=training)
        label = ops.cast(label, "float32")[:, None]
        loss = ops.mean(ops.softplus(logit) - label * logit)
        self.right.update_state(label, logit)
        self.losses.update_state(loss)
        return loss


class Noisy(Moons):
    def build_model(self):
        inside = [layers.Dense(16), layers.BatchNormalization(), layers.Dropout(0.3)]
        return keras.Sequential([keras.Input((2,)), *inside, layers.Dense(1)])

    def build(self):
        super().build()
        self.seeds = keras.random.SeedGenerator(3)

    def predict_step(self, batch):
        return keras.random.normal((ops.shape(batch[0])[0], 1), seed=self.seeds)
"""

PROGRAM = """
import warnings

warnings.simplefilter("ignore")


def state(task):
    return {key: variable.numpy().tolist() for key, variable in task.variables().items()}


def warned(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        returned = function()
    return returned, [str(each.message) for each in caught if each.category is UserWarning]


found = {}
for devices in (None, 3):
    task = Moons()
    history = fit(f"on {devices}", task, devices=devices, log_gradients="norm", max_epochs=2)
    found[str(devices)] = {"history": history, "state": state(task), "steps": int(task.optimizer.iterations)}
    found[str(devices)]["predicted"] = lk.Runner(devices=devices).predict(task, two_moons(37)[0]).tolist()

task = Noisy()
_, found["warned"] = warned(lambda: fit("noisy", task, devices=2, max_epochs=1))
found["seeds"] = [task.model.layers[2].seed_generator.state.numpy().tolist(), task.seeds.state.numpy().tolist()]
found["drawn"] = lk.Runner(devices=2).predict(task, (np.zeros((8, 2), "f"), np.zeros(8))).ravel().tolist()

fit("elsewhere", Moons(), max_epochs=1, preflight=False)
resume = lambda: fit("elsewhere", Moons(), devices=2, max_epochs=2, preflight=False, resume=True)
found["elsewhere"], found["changed"] = warned(resume)


class InBranch(Moons):
    def train_step(self, batch):
        return ops.cond(self.optimizer.iterations < 0, lambda: 0.0, lambda: super(InBranch, self).train_step(batch))


class PythonFunctions(Moons):
    def train_step(self, batch):
        points, label = batch
        points = tf.ensure_shape(tf.numpy_function(lambda array: array, [points], tf.float32), [None, 2])
        loss = super().train_step((points, label))
        return tf.ensure_shape(tf.numpy_function(lambda array: array, [loss], tf.float32), [])


for name, call in {
    "python functions": lambda: fit("python functions", PythonFunctions(), devices=2),
    "many": lambda: fit("many", Moons(), devices=9),
    "branch": lambda: fit("branch", InBranch(), devices=2),
}.items():
    try:
        call()
    except Exception as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def run(program, *arguments):
    done = forked.run(["-c", BEGINNING + program, *map(str, arguments)], env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return json.loads(run(PROGRAM, tmp_path_factory.mktemp("devices")).stdout.splitlines()[-1])


def assert_near(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


def test_several_devices_compute_what_one_does(found):
    one, several = found["None"], found["3"]
    assert_near(several["history"], one["history"])
    assert_near(several["state"], one["state"])
    assert several["steps"] == one["steps"] == 22
    np.testing.assert_allclose(several["predicted"], one["predicted"], rtol=1e-4, atol=1e-5)


def test_each_device_draws_its_own_noise_and_the_seeds_are_those_of_one_device(found):
    drawn = found["drawn"]  # four examples on each of two devices
    assert len(set(drawn)) == 8
    (_, of_dropout), of_task = found["seeds"]
    assert (of_dropout, of_task) == (11, [3, 0])  # a draw at each step


def test_a_normalization_of_each_part_by_itself_is_warned_of_once(found):
    (message,) = [message for message in found["warned"] if "BatchNormalization" in message]
    assert message.startswith("BatchNormalization normalizes each device's part of a batch by itself in ")
    assert "Set BatchNormalization(synchronized=True)" in message


def test_a_run_may_be_resumed_on_other_devices(found):
    expected = {name: values for name, values in found["None"]["history"].items() if name != "train/gradient_norm"}
    assert_near(found["elsewhere"], expected)
    assert any("devices was None and is 2" in message for message in found["changed"])


def test_what_cannot_be_used_is_refused(found, tmp_path):
    assert found["many"] == "devices=9: TensorFlow has 3 (CPU:0, CPU:1, CPU:2). Use devices='all'."
    assert "A sum over several devices inside a branch" in found["branch"]
    assert "Call them on one side of minimize, or use one device." in found["python functions"]
    with pytest.raises(ValueError, match=r"devices=2: TensorFlow has 1 \(CPU:0\)\. Use devices='all'\."):
        lk.Runner(devices=2, run_dir=tmp_path / "run").fit(TwoMoons())
    assert not (tmp_path / "run").exists()


OPTIMIZERS = """
sys.path.insert(0, sys.argv[2])
from by_hand import learn
from lightkeras.engine.tensorflow import devices

rng = np.random.default_rng(0)
WORDS = rng.integers(0, 9, (46, 4)), rng.integers(0, 2, 46)  # the last batch of 4


class Words(TwoMoons):
    # A table whose rows are looked up by several devices, and more than once.
    def build_model(self):
        inside = [layers.Embedding(9, 4), layers.GlobalAveragePooling1D(), layers.Dense(8, "tanh"), layers.Dense(1)]
        return keras.Sequential([keras.Input((4,), dtype="int32"), *inside])


def compared(make, arrays, size, several):
    losses = []
    for count in (1, several):
        with devices.over(count):
            task = make()
            losses.append(learn(task, lk.data.ArrayFeed(arrays, size), 40, epochs=15)["loss"].tolist())
    return losses


def with_optimizer(optimizer):
    class Made(Words):
        def build_optimizer(self):
            return optimizer()

    return Made()


adam = keras.optimizers.Adam
OPTIMIZERS = {
    "all of it": lambda: adam(
        0.01, global_clipnorm=0.01, gradient_accumulation_steps=3, weight_decay=0.1, use_ema=True, ema_momentum=0.9,
        ema_overwrite_frequency=5,
    ),
    "clipped by the norm of all": lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.01),
    "accumulated": lambda: adam(0.01, gradient_accumulation_steps=3, weight_decay=0.1, clipnorm=0.1),
    "averaged and scaled": lambda: keras.optimizers.LossScaleOptimizer(
        adam(0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=5), dynamic_growth_steps=10
    ),
    "rows": lambda: lk.optimizers.LazyAdam(0.01),
    "fused": lambda: lk.optimizers.FusedAdam(0.01, weight_decay=0.1, clipnorm=0.1),
}
found = {name: compared(lambda: with_optimizer(OPTIMIZERS[name]), WORDS, 7, 2) for name in sys.argv[3:]}
found["fewer examples than devices"] = compared(Moons, two_moons(11), 5, 3)
print(json.dumps(found))
"""


def assert_updates_are_those_of_one_device(names, tmp_path):
    found = json.loads(run(OPTIMIZERS, tmp_path, BY_HAND, *names).stdout.splitlines()[-1])
    for name, (one, several) in found.items():
        assert len(one) in (45, 105)
        np.testing.assert_allclose(several, one, rtol=1e-5, err_msg=name)


def test_optimizers_clip_accumulate_and_average_the_gradient_of_the_whole_batch(tmp_path):
    assert_updates_are_those_of_one_device(["all of it"], tmp_path)


@pytest.mark.long
def test_each_optimizer_updates_as_on_one_device(tmp_path):
    names = ("clipped by the norm of all", "accumulated", "averaged and scaled", "rows", "fused")
    assert_updates_are_those_of_one_device(names, tmp_path)


BY_BATCH = """
class ByBatch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])
        if batch == 3:  # assigned between two calls: the other devices must see it
            self.model.layers[-1].bias.assign(self.model.layers[-1].bias + 1)


found = []
for devices in (None, 3):
    callback = ByBatch()
    fit(f"by batch on {devices}", Moons(), devices=devices, max_epochs=1, callbacks=[callback], preflight=False)
    found.append(callback.losses)
print(json.dumps(found))
"""


@pytest.mark.long
def test_callbacks_are_called_at_every_batch_and_what_they_assign_reaches_all_devices(tmp_path):
    one, several = json.loads(run(BY_BATCH, tmp_path).stdout.splitlines()[-1])
    assert len(several) == 11
    np.testing.assert_allclose(several, one, rtol=1e-5)


CONFORMING = """
import functools, pathlib
sys.path.insert(0, sys.argv[2])
import test_conformance


class Synchronized(layers.BatchNormalization):
    def __init__(self, **settings):
        super().__init__(**settings | {"synchronized": True})


layers.BatchNormalization = Synchronized

found = {}
for name in sys.argv[3:]:
    found[name] = []
    for devices in (None, 2):
        test_conformance.lk.Runner = functools.partial(lk.runner.Runner, devices=devices)
        found[name].append(test_conformance.fit(name, pathlib.Path(folder) / f"{name} on {devices}")["step"])
print(json.dumps(found))
"""
OFTEN = ("Gan",)
# Its loss divides by the sum of the weights, which each device knows for its part alone; and random numbers.
NOT_A_MEAN, RANDOM = "WeightedRegression", "RandomVae"


def assert_conforms(names, tmp_path):
    found = json.loads(run(CONFORMING, tmp_path, CONFORMANCE, *names).stdout.splitlines()[-1])
    for name, (one, two) in found.items():
        assert len(one["train/loss"]) == 100
        # Keras takes a synchronized variance as a difference of large numbers: in two passes, 5e-6 were left of 1.3e-5.
        near = 2e-5 if name == "Convolutional" else 1e-5
        for column, values in one.items():
            np.testing.assert_allclose(two[column], values, rtol=near, atol=1e-6, err_msg=f"{name}: {column}")


def test_every_step_of_the_tasks_logs_what_it_does_on_one_device(tmp_path):
    assert_conforms(OFTEN, tmp_path)


@pytest.mark.long
def test_every_step_of_the_other_tasks_logs_what_it_does_on_one_device(tmp_path):
    names = run(
        "sys.path.insert(0, sys.argv[2])\nimport test_conformance\nprint(*test_conformance.TASKS)",
        *(tmp_path, CONFORMANCE),
    )
    assert_conforms([name for name in names.stdout.split() if name not in (*OFTEN, NOT_A_MEAN, RANDOM)], tmp_path)


KILLED = """
class Killed(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 17:  # inside the second epoch
            os.kill(os.getpid(), signal.SIGKILL)


kills = [Killed()] if "killed" in sys.argv[2:] else []
print(json.dumps(fit(sys.argv[3], Noisy(), devices=2, callbacks=kills, resume="resumed" in sys.argv[2:])))
"""


def test_a_run_that_is_killed_and_resumed_ends_as_one_that_was_never_killed(tmp_path):
    whole = run(KILLED, tmp_path, "whole", "whole")
    assert run(KILLED, tmp_path, "killed", "run").returncode == -signal.SIGKILL
    assert json.loads(run(KILLED, tmp_path, "resumed", "run").stdout) == json.loads(whole.stdout)
