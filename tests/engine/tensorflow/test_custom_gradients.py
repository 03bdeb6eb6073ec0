"""Custom gradients in traced steps: they work, and nothing of them is left when their task is gone."""

from __future__ import annotations

import gc

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from tensorflow.python.framework import func_graph
from tensorflow.python.framework import ops as tf_ops

from lightkeras import Runner
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine.tensorflow.custom_gradients import owned_by
from lightkeras.task import Task


@tf.custom_gradient
def doubled(x):
    return x, lambda upstream: 2.0 * upstream


@tf.function(autograph=False)
def shared(x):
    """A function that several steps call."""
    return doubled(x)


class Custom(Task):
    """The weight falls by twice the learning rate of 1 in each step."""

    def build(self):
        self.model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
        self.optimizer = keras.optimizers.SGD(1.0)

    def train_step(self, batch):
        return self.minimize(lambda: ops.sum(self.function(self.model.layers[0].kernel)))

    def function(self, x):
        return doubled(x)


class InBranch(Custom):
    def function(self, x):
        return ops.cond(ops.sum(x) < 1.0, lambda: doubled(keras.activations.silu(x) * 2.0), lambda: x)


class Shared(Custom):
    def function(self, x):
        return shared(x * 1.0)


def registered():
    gc.collect()
    # `isinstance` would ask some objects for their class, such as deprecated ones of torch, which warn.
    graphs = [found for found in gc.get_objects() if issubclass(type(found), func_graph.FuncGraph)]
    return len([name for name in tf_ops.gradient_registry.list() if name.startswith("CustomGradient")]), len(graphs)


def trained(path, kind):
    """Trains two steps, and returns the weight."""
    task = kind()
    settings = {"progress": False, "pictures": False, "export": False, "patience": None}
    Runner(max_epochs=1, run_dir=path, **settings).fit(task, ArrayFeed((np.zeros((4, 1), "float32"),), 2))
    return float(task.model.get_weights()[0].item())


def test_the_graphs_of_a_task_are_freed_with_it(tmp_path):
    assert trained(tmp_path / "first", Custom) == -4.0
    keras.backend.clear_session()
    before = registered()
    for number, kind in enumerate([Custom, InBranch, Custom]):
        trained(tmp_path / str(number), kind)
        keras.backend.clear_session()
    assert registered() == before


def test_a_function_that_several_steps_call_keeps_its_gradient(tmp_path):
    for number in range(2):
        assert trained(tmp_path / str(number), Shared) == -4.0
        keras.backend.clear_session()
        gc.collect()


def test_a_gradient_is_kept_as_long_as_its_owner():
    class Owner:
        pass

    def names():
        return {name for name in tf_ops.gradient_registry.list() if name.startswith("CustomGradient")}

    owner, before = Owner(), names()
    with tf.Graph().as_default(), owned_by(owner):
        doubled(tf.constant(1.0))
    assert len(names() - before) == 1
    del owner
    assert names() == before
