"""The rows that a gradient touches, on each backend."""

import keras
import numpy as np
import pytest
from keras import ops

from lightkeras.engine.touched_rows import touched_rows


def test_a_dense_gradient_touches_the_rows_of_a_table_that_are_not_all_zero_and_all_of_another_variable():
    gradient = ops.convert_to_tensor(np.float32([[0, 1], [0, 0], [np.nan, 0], [0, 0]]))
    assert touched_rows(gradient, is_table=False) is None
    table = keras.Variable(np.zeros((4, 2), "float32"))
    rows = touched_rows(gradient, is_table=True)
    rows.write(table, ops.ones_like(rows.values))
    assert ops.convert_to_numpy(table).tolist() == [[1, 1], [0, 0], [1, 1], [0, 0]]
    assert ops.convert_to_numpy(rows.read(table)).shape == ops.convert_to_numpy(rows.values).shape


@pytest.mark.backends("tensorflow", reason="JAX has no row-sparse gradients, and torch its own")
def test_a_row_sparse_gradient_touches_the_rows_that_it_lists_each_once_with_its_sum():
    import tensorflow as tf

    gradient = tf.IndexedSlices(tf.constant([[1.0], [0.0], [3.0]]), tf.constant([2, 0, 2]), tf.constant([4, 1]))
    for is_table in (False, True):
        rows = touched_rows(gradient, is_table)
        assert rows.indices.numpy().tolist() == [2, 0]
        assert rows.values.numpy().tolist() == [[4], [0]]


@pytest.mark.backends("torch")
def test_a_sparse_torch_gradient_touches_the_rows_that_it_lists_each_once_with_its_sum():
    import torch

    gradient = torch.sparse_coo_tensor([[2, 0, 2]], [[1.0], [0.0], [3.0]], (4, 1), check_invariants=True)
    for is_table in (False, True):
        rows = touched_rows(gradient, is_table)
        assert rows.indices.tolist() == [0, 2]
        assert rows.values.tolist() == [[0], [4]]
