"""Values of variables that are held while steps change the variables, and the comparison of bits.

This module must not import Keras, whose import registers what engines are part of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np

_COMPARED = 1 << 20
"""Bytes that are compared at once."""

_COPIED = 1 << 24
"""Bytes that are copied to measure how long it takes."""


@final
@dataclasses.dataclass(frozen=True)
class HeldValues:
    """Values of variables at one moment, in the host's memory, which later steps do not change.

    Args:
        variables: Variables of Keras or the backend by key; all have `assign`.
        values: Their values, of a type that the backend assigns without a copy if it can.
        arrays: The same values; they share the memory of `values`, and must not be written to.
        by_reference: Whether a value is copied only when a step changes its variable.
    """

    variables: Mapping[str, Any]
    values: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    by_reference: bool = False

    def seconds_to_come(self, clock: Callable[[], float]) -> float:
        """Estimates the seconds that steps will take to copy the values, by a copy of some of them."""
        if not self.by_reference or not self.arrays:
            return 0.0
        largest = max(self.arrays.values(), key=lambda array: array.nbytes).reshape(-1)
        sample = largest[: max(1, _COPIED // largest.itemsize)]
        began = clock()
        sample.copy()
        seconds = clock() - began
        return seconds * sum(array.nbytes for array in self.arrays.values()) / max(1, sample.nbytes)

    def restore(self) -> None:
        """Assigns the values to the variables."""
        for key, variable in self.variables.items():
            variable.assign(self.values[key])


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have equal shapes, dtypes and bits, also of NaNs; holds no copy of them."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if one.strides == other.strides and one.ctypes.data == other.ctypes.data:  # the same memory
        return True
    left, right = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    return all(
        np.array_equal(left[start : start + _COMPARED], right[start : start + _COMPARED])
        for start in range(0, left.size, _COMPARED)
    )
