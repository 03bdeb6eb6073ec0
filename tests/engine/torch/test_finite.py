"""Values that are not finite, and gradient sizes, on torch."""

import keras
import numpy as np
import torch

from lightkeras.engine.torch.finite import all_finite, largest, numbers

CPU = torch.device("cpu")


def test_the_largest_absolute_value_counts_and_a_nan_stays_one():
    assert largest(torch.tensor([-3.0, 2.0]), CPU).item() == 3.0
    assert largest(torch.tensor([]), CPU).item() == largest(None, CPU).item() == 0.0
    assert largest(torch.tensor([1.0, torch.nan]), CPU).isnan()
    assert largest(torch.tensor([1.0], dtype=torch.float16), CPU).dtype == torch.float32


def test_values_are_those_of_float_tensors_alone():
    assert numbers(torch.tensor([1.5], requires_grad=True)).tolist() == [1.5]
    assert numbers(torch.tensor([1.5], dtype=torch.bfloat16)).tolist() == [1.5]
    assert numbers(torch.tensor([1.5], dtype=torch.float64)).dtype == np.float64
    assert numbers(torch.tensor([1])) is None
    assert numbers(1.5) is None


def test_each_variable_is_checked():
    values = (np.ones(2), np.array([1.0, np.nan]), np.array([np.inf]), np.zeros((0, 2)))
    found = all_finite([keras.Variable(value.astype("float32")) for value in values])
    assert found.tolist() == [True, False, False, True]
