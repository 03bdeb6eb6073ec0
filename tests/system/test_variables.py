"""Values of variables are read as copies, and written back whole or not at all."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from lightkeras.system.variables import CheckpointError, read_variables, write_variables


def variables(**values) -> dict[str, keras.Variable]:
    return {
        key: keras.Variable(np.asarray(value), dtype=str(np.asarray(value).dtype), trainable=False, name=key)
        for key, value in values.items()
    }


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(2)}, r"1 of its variables are not in it \(b\), 0 in it are unknown \(none\)"),
        ({"a": np.zeros(2), "b": np.zeros(3), "c": 0}, r"0 of .* \(none\), 1 in it are unknown \(c\)"),
        ({"a": np.zeros(2), "b": np.zeros(4)}, r"b \(b\) has shape \(3,\), the saved value \(4,\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(arrays, message):
    found = variables(a=np.ones(2, "float32"), b=np.ones(3, "float32"))
    with pytest.raises(CheckpointError, match=message):
        write_variables(found, arrays)
    assert read_variables(found)["a"].tolist() == [1, 1]


def test_values_that_were_read_do_not_change_with_the_variable():
    found = variables(a=np.ones(2, "float32"))
    read = read_variables(found)
    found["a"].assign([2, 2])
    assert read["a"].tolist() == [1, 1]


def test_values_that_were_read_can_be_written_to():
    found = variables(a=np.ones(2, "float32"))
    read = read_variables(found)["a"]
    read[0] = 5
    assert read_variables(found)["a"].tolist() == [1, 1]
