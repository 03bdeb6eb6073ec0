"""Rows of arrays that cannot be changed in place."""

import keras
import numpy as np
from keras import ops

from lightkeras.engine.sparse_rows import MaskedRows


def test_only_touched_rows_are_written():
    table = keras.Variable(np.zeros((3, 2), "float32"))
    rows = MaskedRows(ops.ones((3, 2)), ops.convert_to_tensor([[True], [False], [True]]))
    assert ops.convert_to_numpy(rows.read(table)).tolist() == [[0, 0]] * 3
    rows.write(table, ops.convert_to_tensor(np.float32([[1, 2], [3, 4], [5, 6]])))
    assert ops.convert_to_numpy(table).tolist() == [[1, 2], [0, 0], [5, 6]]


def test_a_divided_gradient_is_of_the_same_rows():
    touched = ops.convert_to_tensor([[True], [False]])
    rows = MaskedRows(ops.convert_to_tensor(np.float32([[4], [2]])), touched) / 2
    assert ops.convert_to_numpy(rows.values).tolist() == [[2], [1]]
    assert rows.touched is touched
