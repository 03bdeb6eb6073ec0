"""Values that are held are put back, and bits are compared."""

import subprocess
import sys

import keras
import numpy as np

from lightkeras.system import held_values as module
from lightkeras.system.held_values import HeldValues, same_bits


def test_held_values_are_put_back():
    variable = keras.Variable(np.ones(2, "float32"), trainable=False)
    HeldValues({"a": variable}, {"a": np.float32([3, 4])}, {"a": np.float32([3, 4])}).restore()
    assert keras.ops.convert_to_numpy(variable).tolist() == [3, 4]


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


def test_the_module_of_checkpoints_can_be_imported_first():
    code = "import lightkeras.runs.checkpoint"  # it imports Keras, whose import registers parts of engines
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
