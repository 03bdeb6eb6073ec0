"""Checks for variables that are not finite, and observed gradients, on TensorFlow."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    Line,
    prepared,
)
from keras import layers

from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.layer_calls import Observation
from lightkeras.engine.tensorflow.finite import largest, numbers


@pytest.mark.parametrize("count", [3, 40])
def test_variables_that_are_not_finite_are_found_one_by_one_or_compiled(count):
    engine = make_engine()
    variables = {str(number): keras.Variable(np.ones(2, "float32")) for number in range(count)}
    variables |= {"large": keras.Variable(np.full(4, 3e38, "float32")), "whole": keras.Variable(1, dtype="int32")}
    assert engine.not_finite(variables) == []  # the sum of the large ones is not finite, and they are
    variables["1"].assign([1.0, np.nan])
    assert engine.not_finite(variables) == ["1"]


def test_row_sparse_gradients_are_looked_into():
    class Sparse(Line):
        def build_model(self):
            return keras.Sequential([keras.Input((1,), dtype="int32"), layers.Embedding(4, 1), layers.Flatten()])

    task = Sparse()
    batch = (np.int32([[1], [2]]), np.float32([[np.inf], [0.0]]))
    engine, _trace, _program = prepared(task, ArrayFeed(batch, 2))
    _, seen = engine.run_eagerly(task.run_train_step, batch)
    assert seen[-1] == Observation("gradient", task.model.layers[0].embeddings.path, -np.inf)


def test_the_largest_absolute_value_counts_and_a_nan_is_infinite():
    assert float(largest(tf.constant([-3.0, 2.0]))) == 3.0
    assert float(largest(None)) == float(largest(tf.constant([], tf.float32))) == 0.0
    assert float(largest(tf.constant([1.0, np.nan]))) == np.inf
    assert float(largest(tf.IndexedSlices(tf.constant([[1.0], [-4.0]]), tf.constant([0, 1])))) == 4.0


def test_values_are_those_of_float_tensors_alone():
    assert numbers(tf.constant([1.5])).tolist() == [1.5]
    assert numbers(tf.IndexedSlices(tf.constant([[2.5]]), tf.constant([0]))).tolist() == [[2.5]]
    assert numbers(tf.constant([1])) is None
    assert numbers(1.5) is None
