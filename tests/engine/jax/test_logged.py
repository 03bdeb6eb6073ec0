"""Logs of steps on JAX, which are read when a value is."""

import numpy as np

from lightkeras.engine.jax.logged import Logged


class Table:
    """A table that notes when it is read."""

    def __init__(self, rows):
        self.rows, self.reads = rows, 0

    def __array__(self, dtype=None, copy=None):
        self.reads += 1
        return np.array(self.rows, "float32")


def test_tables_are_read_once_and_when_a_value_is():
    tables = [Table([[1, 2], [3, 4], [0, 0]]), Table([[5, 6]]), Table([[7, 8]])]
    logs = Logged(("loss", "norm"), [2, 2], [tables[:1], tables[1:]])
    assert (list(logs), len(logs), [table.reads for table in tables]) == (["loss", "norm"], 2, [0, 0, 0])
    assert {name: column.tolist() for name, column in logs.items()} == {"loss": [1, 3, 5, 7], "norm": [2, 4, 6, 8]}
    assert [table.reads for table in tables] == [1, 1, 1]


def test_no_steps_have_empty_columns():
    assert Logged(("loss",), [], [])["loss"].shape == (0,)
