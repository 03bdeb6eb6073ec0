"""Values of variables are read as copies, and written back whole or not at all."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from lightkeras.system import variables as module
from lightkeras.system.variables import CheckpointError, HeldValues, read_variables, same_bits, write_variables


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


def test_held_values_are_put_back():
    found = variables(a=np.ones(2, "float32"))
    held = HeldValues(found, {"a": np.float32([3, 4])}, {"a": np.float32([3, 4])})
    held.restore()
    assert read_variables(found)["a"].tolist() == [3, 4]


def test_bits_are_compared_and_not_numbers():
    assert same_bits(np.float32([np.nan]), np.float32([np.nan]))
    assert not same_bits(np.float32([0.0]), np.float32([-0.0]))
    assert not same_bits(np.float32([0.0]), np.int32([0]))
    assert not same_bits(np.zeros((2, 1)), np.zeros((1, 2)))
    assert same_bits(np.array(2.0), np.array(2.0))
    assert same_bits(np.zeros((2, 0)), np.zeros((2, 0)))


def test_bits_are_compared_to_the_end_of_large_arrays(monkeypatch):
    monkeypatch.setattr(module, "_COMPARED", 16)
    one, other = np.arange(9, dtype="float64"), np.arange(9, dtype="float64")
    assert same_bits(one, other)
    assert same_bits(one[::2], other[::2])
    assert same_bits(one, one)
    other[-1] = -8
    assert not same_bits(one, other)


def test_the_time_of_copies_to_come_is_that_of_a_sample_times_its_share(monkeypatch):
    monkeypatch.setattr(module, "_COPIED", 64)
    arrays = {"a": np.ones((4, 32), "float32"), "b": np.ones(16, "float32"), "c": np.ones((), "float32")}
    readings = iter([1.0, 3.0])
    held = HeldValues({}, arrays, arrays, by_reference=True)
    assert held.seconds_to_come(lambda: next(readings)) == 2.0 * (512 + 64 + 4) / 64
    assert HeldValues({}, arrays, arrays).seconds_to_come(lambda: 0.0) == 0.0
    assert HeldValues({}, {}, {}, by_reference=True).seconds_to_come(lambda: 0.0) == 0.0
