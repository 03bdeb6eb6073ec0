"""Compiled functions on JAX: shared arrays, and steps inside or outside a loop."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from by_hand import (
    LINE,
    LINE_WEIGHTS,
    Line,
    one_weight,
    prepared,
)
from keras import layers, ops

from lightkeras.data.feed import ArrayFeed
from lightkeras.engine.jax import compiled


class Convolved(Line):
    """The same line, by a convolution over one pixel."""

    def build_model(self):
        point = keras.Input((1,))
        pixel = layers.Conv1D(1, 1, use_bias=False, kernel_initializer="ones")(ops.expand_dims(point, -1))
        return keras.Model(point, ops.squeeze(pixel, -1))


@pytest.mark.parametrize(("task", "looped"), [(Line, True), (Convolved, False)])
def test_on_a_cpu_a_step_with_a_convolution_is_called_by_itself_and_any_other_in_a_loop(task, looped):
    feed = ArrayFeed(LINE, 1)
    engine, _trace, program = prepared(task(), feed)
    stream = engine.open(feed)
    logs = [program.run(stream, count) for count in (2, 5)]
    assert [part.steps for part in logs] == [2, 1]
    assert [part.examples.tolist() for part in logs] == [[1, 1], [1]]
    # Errors -1, then 2 * 1.25 - 4 = -1.5, then 3 * 2 - 6 = 0: w = 1 + 2/8, then 1.25 + 6/8.
    assert np.concatenate([part.values["loss"] for part in logs]).tolist() == [1.0, 2.25, 0.0]
    on_cpu = jax.default_backend() == "cpu"
    assert [("steps a call" in form) for form in program.forms] == [looped or not on_cpu]


def test_two_variables_may_hold_one_array_and_an_array_may_be_kept():
    class Target(Line):
        def build(self):
            super().build()
            self.target = keras.Sequential([keras.Input((1,)), one_weight(0.0)])

        def train_step(self, batch):
            loss = super().train_step(batch)
            target = self.target.weights[0]
            target.assign(0.5 * target + 0.5 * self.model.weights[0])
            return loss

    task, feed = Target(), ArrayFeed([array[:2] for array in LINE], 2)
    engine, _trace, program = prepared(task, feed)
    task.target.weights[0].assign(task.model.weights[0])  # Keras keeps the very array
    kept = np.float32([[1.0]])
    task.model.weights[0].assign(kept)
    program.run(engine.open(feed), 1)
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[0]
    assert task.target.get_weights()[0].item() == (1 + LINE_WEIGHTS[0]) / 2
    assert kept.item() == 1.0


def test_the_arrays_given_away_are_copied_where_one_is_shared():
    one, two = jnp.ones(1), jnp.ones(1)
    assert compiled.copy_shared([one, two], []) == [one, two]
    found = compiled.copy_shared([one, one, two], [two])
    assert found[0] is one
    assert found[1] is not one
    assert found[2] is not two
