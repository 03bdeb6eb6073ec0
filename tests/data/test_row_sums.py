"""Sums of rows by Keras's operations, and by those of an engine."""

import keras
import numpy as np
from keras import ops

from lightkeras.data.row_sums import row_sums_by, weighted_row_sums

IDS, WEIGHTS, OWNERS = np.array([0, 2, 1], "int32"), np.array([1.0, 0.5, -1.0], "float32"), np.array([0, 0, 2], "int32")
SUMS = [[51.0, 102.0], [0.0, 0.0], [-10.0, -20.0], [0.0, 0.0]]


def table(dtype="float32"):
    return keras.Variable(np.array([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]), dtype=dtype)


def test_each_sum_has_its_rows_and_the_dtype_of_the_table():
    sums = weighted_row_sums(table("float64"), IDS, WEIGHTS, OWNERS, 4)
    assert keras.backend.standardize_dtype(sums.dtype) == "float64"
    assert ops.convert_to_numpy(sums).tolist() == SUMS


def test_an_engine_may_compute_them_but_need_not():
    given = []

    def own(*arguments):
        given.append(arguments)
        return "own" if len(given) == 1 else None

    with row_sums_by(own):
        assert weighted_row_sums(table(), IDS, WEIGHTS, OWNERS, 4) == "own"
        assert ops.convert_to_numpy(weighted_row_sums(table(), IDS, WEIGHTS, OWNERS, 4)).tolist() == SUMS
    assert [arguments[-1] for arguments in given] == [4, 4]
    assert ops.convert_to_numpy(weighted_row_sums(table(), IDS, WEIGHTS, OWNERS, 4)).tolist() == SUMS
    assert len(given) == 2
