"""The torch engine: hand-computed numbers at any number of steps per call."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import torch
from by_hand import (
    LINE,
    LINE_LOSSES,
    LINE_WEIGHTS,
    Line,
    learn,
    one_weight,
    prepared,
)
from keras import ops

from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.torch import TorchEngine
from lightkeras.runner import Runner
from lightkeras.task import Task
from lightkeras.testing import TwoMoons


def test_the_engine_of_this_backend_is_torchs():
    assert isinstance(make_engine(), TorchEngine)
    assert make_engine().backend == "torch"


# ---------------------------------------------------------------------- memory


def test_an_allocation_that_failed_is_distinguished_from_other_errors():
    with pytest.raises(MemoryError) as host:
        np.empty(2**55)
    with pytest.raises(RuntimeError) as device:
        torch.empty(2**50, dtype=torch.uint8)
    with pytest.raises(RuntimeError) as other:
        torch.zeros(4).reshape(3)
    engine = make_engine()
    assert engine.is_out_of_memory(host.value)
    assert engine.is_out_of_memory(device.value)
    assert engine.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not engine.is_out_of_memory(other.value)


# ---------------------------------------------------------------------- traces


def test_a_module_of_torch_inside_a_model_learns():
    class Wrapped(Line):
        def build_model(self):
            self.linear = torch.nn.Linear(1, 1, bias=False)
            torch.nn.init.ones_(self.linear.weight)
            return keras.Sequential([keras.Input((1,)), keras.layers.TorchModuleWrapper(self.linear)])

    task = Wrapped()
    _engine, trace, _program = prepared(task, ArrayFeed(LINE, 2))
    assert [update.unreached for update in trace.updates] == [()]
    assert learn(task, ArrayFeed(LINE, 2))["loss"].tolist() == LINE_LOSSES
    assert task.linear.weight.item() == LINE_WEIGHTS[-1]


# ---------------------------------------------------------------------- gradients and what they leave


def test_a_variable_that_is_frozen_learns_where_it_is_named():
    class Named(Line):
        def build(self):
            super().build()
            self.model.layers[0].trainable = False

        def train_step(self, batch):
            return self.minimize(lambda: self.loss(batch, True), [self.model.layers[0].kernel])

    task = Named()
    assert learn(task, ArrayFeed(LINE, 2))["loss"].tolist() == LINE_LOSSES
    assert not task.model.layers[0].kernel.value.requires_grad


def test_what_is_frozen_or_thawed_between_two_calls_takes_effect():
    class Two(Task):
        def build_model(self):
            return keras.Sequential([keras.Input((1,)), one_weight(1.0), one_weight(1.0)])

        def build_optimizer(self):
            return keras.optimizers.SGD(0.125)

        def loss(self, batch, training):
            return ops.mean(ops.square(self.model(batch[0]) - batch[1]))

    task, feed = Two(), ArrayFeed(LINE, 1)
    engine, _trace, program = prepared(task, feed)
    stream = engine.open(feed)
    found = []
    for frozen in ([], [0], [0, 1]):
        for number, layer in enumerate(task.model.layers):
            layer.trainable = number not in frozen
        before = [weight.item() for weight in task.model.get_weights()]
        program.run(stream, 1)
        found.append([weight.item() != old for weight, old in zip(task.model.get_weights(), before, strict=True)])
    assert found == [[True, True], [False, True], [False, False]]


def test_only_the_way_through_the_inputs_counts_in_gradients():
    class Closed(Line):
        def train_step(self, batch):
            def penalty():
                y = ops.square(batch[0]) * self.model.layers[0].kernel
                z = y * 3.0  # depends on y, but not through the function
                found = self.gradients(lambda given: ops.sum(given * ops.stop_gradient(z) + given * z), y)
                return ops.mean(found)

            return self.minimize(penalty)

    # y = w, z = 3y; the gradient of yz + yz for a z that stands still is 2z = 6w; that of its mean for w: 3, from z.
    task = Closed()
    assert learn(task, ArrayFeed([array[:1] for array in LINE], 1))["loss"].tolist() == [6.0]
    assert task.model.get_weights()[0].item() == 1 - 0.125 * 3


def test_gradients_of_what_is_not_a_scalar_are_refused():
    class Rows(Line):
        def train_step(self, batch):
            self.gradients(lambda x: x * 2.0, batch[0])

    with pytest.raises(ValueError, match=r"gradients: the value has shape \(2, 1\); expected a scalar"):
        learn(Rows(), ArrayFeed(LINE, 2))


# ---------------------------------------------------------------------- a run


def test_a_run_loads_no_tensorflow(tmp_path):
    program = f"""
import sys
import lightkeras as lk
import keras

class Scheduled(lk.testing.TwoMoons):
    def build_optimizer(self):
        rate = keras.optimizers.schedules.CosineDecay(0.0, 50, warmup_target=0.01, warmup_steps=10)
        return keras.optimizers.Adam(rate)

runner = lk.Runner(max_epochs=2, run_dir={str(tmp_path / "run")!r}, monitor="val/loss", patience=2, progress=False)
runner.fit(Scheduled())
runner.predict(Scheduled(), lk.testing.two_moons(5)[0], weights="best")
print("tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert (tmp_path / "run" / "model.keras").exists()


def test_a_distribution_of_keras_is_refused_because_steps_would_ignore_it(tmp_path):
    mesh = keras.distribution.DeviceMesh((1,), ["batch"], ["cpu:0"])
    distribution = keras.distribution.DataParallel(device_mesh=mesh, auto_shard_dataset=False)
    message = r"chose a DataParallel, which is used on JAX alone\. Leave it out .* torchrun"
    with distribution.scope(), pytest.raises(ValueError, match=message):
        Runner(run_dir=tmp_path / "run").fit(TwoMoons())
    assert not (tmp_path / "run").exists()
