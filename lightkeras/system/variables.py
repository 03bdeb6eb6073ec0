"""Values of Keras variables as NumPy arrays, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, final

import keras
import ml_dtypes
import numpy as np

_COMPARED = 1 << 20
"""Bytes that are compared at once."""

_COPIED = 1 << 24
"""Bytes that are copied to measure how long it takes."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or that does not fit the task."""


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


def read_variables(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Returns copies of the values of variables, by key."""
    return {key: read_variable(variable) for key, variable in variables.items()}


def write_variables(variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray]) -> None:
    """Assigns values of `read_variables`; a CheckpointError, and no change, if the keys or a shape differ."""
    check_values(variables, arrays)
    for key, variable in variables.items():
        variable.assign(arrays[key])


def check_values(variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray]) -> None:
    """Checks that `write_variables` would accept values; a CheckpointError if not."""
    missing, unknown = sorted(set(variables) - set(arrays)), sorted(set(arrays) - set(variables))
    if missing or unknown:
        raise CheckpointError(
            f"The saved state does not fit this task: {len(missing)} of its variables are not in it "
            f"({', '.join(missing[:3]) or 'none'}), {len(unknown)} in it are unknown "
            f"({', '.join(unknown[:3]) or 'none'}). Use the hyperparameters and the code it was saved with."
        )
    for key, variable in variables.items():
        if tuple(arrays[key].shape) != tuple(variable.shape):
            raise CheckpointError(
                f"The saved state does not fit this task: {variable.path} ({key}) has shape "
                f"{tuple(variable.shape)}, the saved value {tuple(arrays[key].shape)}. "
                "Use the hyperparameters and the code it was saved with."
            )
        if arrays[key].dtype.kind not in "biuf" and str(arrays[key].dtype) != str(variable.dtype):
            raise CheckpointError(
                f"The saved state does not fit this task: {variable.path} ({key}) is {variable.dtype}, the saved "
                f"value {arrays[key].dtype}."
            )


def read_variable(variable: keras.Variable) -> np.ndarray:
    if variable.dtype == "bfloat16":  # NumPy 2 cannot read it from TensorFlow; the way through float32 is exact
        return np.array(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))).astype(ml_dtypes.bfloat16)
    # NumPy 2 warns of TensorFlow's variables, not of its tensors.
    array: np.ndarray = keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))
    if not (array.flags.owndata and array.flags.writeable):  # JAX returns a view, the others a copy
        array = np.array(array)
    # PyTorch has no uint16 and uint32: Keras stores them in wider integers there.
    return array if array.dtype.name == variable.dtype else array.astype(variable.dtype)


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
