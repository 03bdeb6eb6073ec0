"""Gradient sizes on JAX."""

import keras
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
