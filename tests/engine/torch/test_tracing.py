"""Traces on torch, which compute with shapes alone where they can."""

import keras
import numpy as np
import pytest
import torch
from by_hand import (
    LINE,
    Line,
    Noisy,
    assert_same,
    learn,
    noisy_data,
    one_weight,
    prepared,
    weights,
)
from keras import layers, ops

from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.task import Task


def test_text_is_refused_and_the_way_to_it_is_named():
    with pytest.raises(
        ValueError, match=r"Array text of a batch is text, which torch cannot compute with.* `build_encoder`"
    ):
        prepared(Line(), ArrayFeed({"text": np.array(["a", "b"]), "label": LINE[1][:2]}, 2))


def test_an_operation_that_needs_values_is_traced_with_zeros_and_changes_nothing():
    class Counted(Noisy):
        def train_step(self, batch):
            steps = int(ops.max(ops.cast(batch[0] > 100.0, "int32"))) + 1  # no number on `meta`
            return super().train_step(batch) * steps

    task = Counted()
    task.set_up(0)
    before, states = weights(task), torch.get_rng_state()
    trace = task.bind(make_engine).trace(task.run_train_step, ArrayFeed(noisy_data(20), 10).spec)
    assert_same(weights(task)[: len(before)], before)
    assert torch.equal(torch.get_rng_state(), states)
    assert trace.names == ("loss",)
    assert [update.unreached for update in trace.updates] == [()]
    assert float(task.error.count) == 0


def test_the_error_of_a_step_that_cannot_be_traced_is_its_own():
    class Wrong(Line):
        def loss(self, batch, training):
            return ops.mean(ops.matmul(batch[0], ops.ones((7, 1))))

    with pytest.raises(Exception, match="mat1 and mat2 shapes cannot be multiplied") as caught:
        prepared(Wrong(), ArrayFeed(LINE, 2))
    assert "meta" not in str(caught.value)


def test_a_step_is_traced_with_the_size_of_its_batches():
    sizes = []

    class Sized(Line):
        def loss(self, batch, training):
            sizes.append(batch[0].shape[0])
            return super().loss(batch, training)

    task = Sized()
    task.set_up(0)
    task.bind(make_engine).trace(task.run_train_step, ArrayFeed(LINE, 3).spec, 3)
    assert set(sizes) == {3}


def test_layers_are_built_for_real_while_a_step_is_traced():
    class Scaled(layers.Layer):
        def build(self, shape):
            self.scale = ops.convert_to_tensor([2.0])  # no variable, and so no part of what is put back
            self.kernel = self.add_weight(shape=(shape[-1], 1), initializer="ones")

        def call(self, x):
            return ops.matmul(x, self.kernel) * self.scale

    class Late(Line):
        def build_model(self):
            return keras.Sequential([Scaled()])

    task = Late()
    logs = learn(task, ArrayFeed([array[:2] for array in LINE], 2))
    assert logs["loss"].tolist() == [0.0]  # y = 2x from the beginning
    assert task.model.layers[0].scale.device.type == "cpu"


def test_both_branches_of_a_condition_are_traced():
    class Turns(Task):
        def build(self):
            self.models = [keras.Sequential([keras.Input((1,)), one_weight(1.0)]) for _ in range(2)]
            self.optimizers = [keras.optimizers.SGD(0.125) for _ in range(2)]

        def train_step(self, batch):
            def update(number):
                model, optimizer = self.models[number], self.optimizers[number]
                return self.minimize(lambda: ops.mean(model(batch)), model.trainable_variables, optimizer)

            return ops.cond(ops.max(batch) > 1.5, lambda: update(0), lambda: update(1))

    task = Turns()
    _engine, trace, _program = prepared(task, ArrayFeed(np.float32([[1], [2], [1]]), 1))
    assert [update.optimizer for update in trace.updates] == task.optimizers
    assert learn(task, ArrayFeed(np.float32([[1], [2], [1]]), 1))["loss"].tolist() == [1.0, 2.0, 0.875]
    assert [int(optimizer.iterations) for optimizer in task.optimizers] == [1, 2]


def test_a_trace_leaves_keras_as_it_was():
    from keras.src.backend.torch import random

    from lightkeras.system.keras_internals.backend import core

    parts = [
        (keras.Layer, "_maybe_build"),
        (core, "cond"),
        *((random, name) for name in ("dropout", "normal", "uniform")),
    ]
    before = [getattr(owner, name) for owner, name in parts]
    learn(Noisy(), ArrayFeed(noisy_data(20), 10))
    with pytest.raises(ValueError, match="expected a scalar"):
        make_engine().trace(lambda batch: make_engine().minimize(lambda: batch, list, None), ArrayFeed(LINE, 2).spec[0])
    assert [getattr(owner, name) for owner, name in parts] == before
    assert str(core.get_device()) == "cpu"
