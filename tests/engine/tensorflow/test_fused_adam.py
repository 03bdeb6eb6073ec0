"""`FusedAdam` by TensorFlow's kernel: in graphs, and with row-sparse gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from lightkeras.optimizers import FusedAdam

START = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")


def test_an_update_is_one_operation_for_each_variable():
    variables = [keras.Variable(START), keras.Variable(START[0])]
    optimizer = FusedAdam(0.1)
    optimizer.build(variables)

    @tf.function
    def step():
        optimizer.apply([tf.ones_like(variable.value) for variable in variables], variables)

    kinds = [operation.type for operation in step.get_concrete_function().graph.get_operations()]
    assert kinds.count("ResourceApplyAdam") == 2
    assert kinds.count("Sqrt") == 1  # of the step's size, which is computed once


@pytest.mark.parametrize("amsgrad", [False, True])
def test_xla_compiles_it(amsgrad):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(FusedAdam(0.1, amsgrad=amsgrad), "mse", jit_compile=True)
    losses = model.fit(START, START[:, :1], epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2


def test_the_parts_of_a_row_sparse_gradient_are_summed():
    def trained(gradient):
        variable = keras.Variable(START)
        optimizer = FusedAdam(0.1)
        optimizer.build([variable])
        optimizer.apply([gradient], [variable])
        return variable.numpy()

    rows = tf.IndexedSlices(tf.constant([[1.0, 2], [3, 4], [5, 6]]), tf.constant([2, 0, 2]), tf.constant([5, 2]))
    dense = tf.constant([[3.0, 4], [0, 0], [6, 8], [0, 0], [0, 0]])
    np.testing.assert_array_equal(trained(rows), trained(dense))
