"""Gradient sizes, and values that are not finite, on JAX."""

import jax.numpy as jnp
import keras
import numpy as np
from by_hand import (
    LINE,
    InBranch,
    Line,
    learn,
    one_weight,
    prepared,
)
from keras import ops

from lightkeras.data.feed import ArrayFeed
from lightkeras.engine.jax import finite


def test_the_gradients_of_a_branch_are_left_out_of_the_sizes():
    task, feed = InBranch(), ArrayFeed(LINE, 1)
    engine, trace, _program = prepared(task, feed)
    assert [update.variables for update in trace.updates] == [tuple(task.model.trainable_variables)]
    assert engine.gradient_sizes(task.run_train_step, engine.open(feed)) == []


def test_the_sizes_of_gradients_are_those_of_the_first_batch_and_nothing_is_learned():
    class Half(Line):
        def build_model(self):
            self.unused = one_weight(3.0)
            self.unused.build((None, 1))
            return super().build_model()

        def loss(self, batch, training):
            stopped = ops.stop_gradient(self.unused(batch[0]))
            return super().loss(batch, training) + 0.0 * ops.mean(stopped)

    task, feed = Half(), ArrayFeed(LINE, 2)
    engine, trace, _program = prepared(task, feed)
    assert trace.updates[0].unreached == (task.unused.kernel,)
    found = engine.gradient_sizes(task.run_train_step, engine.open(feed))
    assert [(variable.path, size) for variable, size in found] == [
        (variable.path, {id(task.unused.kernel): 0.0}.get(id(variable), 5.0)) for variable in trace.updates[0].variables
    ]
    assert task.model.get_weights()[0].item() == 1.0
    assert int(task.optimizer.iterations) == 0


def test_what_the_loss_does_not_depend_on_is_left_alone_by_weight_decay():
    class Decaying(Line):
        def build_model(self):
            self.unused = one_weight(3.0)
            self.unused.build((None, 1))
            return super().build_model()

        def build_optimizer(self):
            return keras.optimizers.SGD(0.125, weight_decay=0.5)

    task = Decaying()
    learn(task, ArrayFeed(LINE, 2))
    assert task.unused.kernel.numpy().item() == 3.0


def test_the_largest_absolute_value_counts_and_a_nan_is_infinite():
    assert float(finite.largest(jnp.array([-3.0, 2.0]))) == 3.0
    assert float(finite.largest(jnp.array([]))) == 0.0
    assert float(finite.largest(jnp.array([1.0, jnp.nan]))) == np.inf


def test_values_are_those_of_float_arrays_alone():
    assert finite.numbers(jnp.array([1.5])).tolist() == [1.5]
    assert finite.numbers(jnp.array([1])) is None
    assert finite.numbers(1.5) is None


def test_a_sum_may_overflow_where_all_values_are_finite():
    values = [jnp.full(4, 3e38, "float32"), jnp.array([1.0, jnp.inf]), jnp.array([1], "int32"), jnp.ones(2, "bfloat16")]
    assert finite.sums_finite(values).tolist() == [False, False, True, True]
    assert finite.all_finite(values).tolist() == [True, False, True, True]
