"""Values of Keras variables as NumPy arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import ml_dtypes
import numpy as np


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or that does not fit the task.

    Examples:
        ```python
        import lightkeras as lk

        Moons = lk.testing.TwoMoons
        run_dir = lk.Runner(max_epochs=1).fit(Moons()).run_dir
        try:
            lk.Runner(max_epochs=1).fit(Moons(Moons.HParams(hidden_units=8)), init_from=run_dir)
        except lk.CheckpointError as error:
            print(error)  # lists the names and shapes that differ
        ```
    """


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
