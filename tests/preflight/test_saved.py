"""What comes back from a checkpoint, and whether the variables stay the same ones."""

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers

from lightkeras import checkpoint
from lightkeras.preflight import TaskError
from lightkeras.preflight.saved import check_same_state, check_saved, forms, same_bits
from lightkeras.testing import TwoMoons


class Holding(TwoMoons):
    """Holds one variable more."""

    def __init__(self, variable):
        super().__init__()
        self.holder = layers.Layer(name="holder")
        self.holder.more = variable


def ready(task):
    task.set_up(0)
    return task


WIDE = pytest.mark.backends("tensorflow", "torch", reason="JAX halves 64 bits, unless it is told not to")


@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "uint8", "float16", "bfloat16", "float32", "complex64"),
        pytest.param("int64", marks=WIDE),
        pytest.param("float64", marks=WIDE),
    ],
)
def test_variables_of_every_dtype_that_numpy_knows_come_back(dtype):
    variable = keras.Variable([1, 0, 1], dtype=dtype, trainable=False)
    check_saved(ready(Holding(variable)))
    found = checkpoint.round_trip(variable)
    assert found.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert found.tolist() == [1, 0, 1]


def test_numbers_that_are_none_and_scalars_and_empty_variables_come_back():
    for value in (np.nan, np.zeros((0, 3), "float32"), np.float32([np.inf, -0.0])):
        check_saved(ready(Holding(keras.Variable(value, trainable=False))))


@pytest.mark.backends("tensorflow", reason="the others have no text")
def test_a_variable_of_text_is_named():
    words = keras.Variable(["a"], dtype="string", trainable=False, name="words")
    message = r"Holding: a checkpoint cannot hold the variable words \(holder\.0000\), string\[1\]: .*Give it a dtype"
    with pytest.raises(TaskError, match=message):
        check_saved(ready(Holding(words)))


def test_a_variable_that_comes_back_otherwise_is_named(monkeypatch):
    monkeypatch.setattr(checkpoint, "_restored", lambda array, dtype: array.astype("float16"))
    with pytest.raises(
        TaskError, match=r"kernel \(model\.0000\), float32\[2, 16\] does not come back from a checkpoint"
    ):
        check_saved(ready(TwoMoons()))


def test_variables_that_came_went_or_are_others_are_named():
    task = ready(Holding(keras.Variable(1.0, trainable=False, name="more")))
    before = forms(task.variables())
    check_same_state(task, before)
    task.holder = layers.Layer()
    task.holder.more = keras.Variable(1.0, trainable=False, name="another")
    with pytest.raises(TaskError, match=r"train_step changed which .*: new are another \(holder\.0000\), gone none"):
        check_same_state(task, before)
    del task.holder
    with pytest.raises(TaskError, match=r"new are none, gone holder\.0000\. Make every layer"):
        check_same_state(task, before)


def test_bits_are_compared_and_not_numbers():
    assert same_bits(np.float32([np.nan]), np.float32([np.nan]))
    assert not same_bits(np.float32([0.0]), np.float32([-0.0]))
