"""Checks that checkpoints and `model.keras` can store the state of the run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping

import keras
import numpy as np

from lightkeras.runs import checkpoint
from lightkeras.system import files
from lightkeras.system.held_values import same_bits
from lightkeras.system.tensorflow import tensorflow_left_out
from lightkeras.task import Task
from lightkeras.training.step_errors import TaskError
from lightkeras.training.stepper import bound_engine

Forms = dict[str, tuple[tuple[int, ...], str, int]]


SAMPLE = 1 << 16
"""Values of a variable that are encoded and decoded: what a file cannot hold depends on the dtype."""


def check_saved(task: Task) -> None:
    """Writes every variable as a checkpoint does, reads it back, and compares the bits. No file is written.

    Of a large variable, this is done for its first values.

    Raises:
        TaskError: A variable or its name changes on the way.
    """
    variables, name = task.variables(), type(task).__name__
    engine = bound_engine(task)
    for key, variable in variables.items():
        described = f"{variable.path} ({key}), {variable.dtype}{list(variable.shape)}"
        advice = "Give it a dtype that NumPy knows, or keep it out of the task's attributes."
        try:
            before = _sample(engine.hold({key: variable}).arrays[key])
            after = checkpoint.round_trip(before, str(variable.dtype))
        except Exception as error:
            raise TaskError(f"{name}: a checkpoint cannot hold the variable {described}: {error}. {advice}") from error
        if not same_bits(before, after):
            raise TaskError(f"{name}: a checkpoint does not restore the bits of the variable {described}. {advice}")
    names = {key: variable.path for key, variable in variables.items()}
    if json.loads(files.json_bytes(names)) != names:
        raise TaskError(f"{name}: a checkpoint does not restore the names of its variables: {names}.")


def _sample(array: np.ndarray) -> np.ndarray:
    return array if array.size <= SAMPLE else array.reshape(-1)[:SAMPLE]


def warn_of_missing_config(task: Task) -> None:
    """Warns of a model that cannot be written to `model.keras` at the end, because it lacks a `get_config`."""
    model = vars(task).get("model")
    if not isinstance(model, keras.Model):
        return
    try:
        with tensorflow_left_out():
            keras.saving.serialize_keras_object(model)
    except NotImplementedError:
        warnings.warn(
            f"{type(task).__name__}: model.keras cannot be written at the end: {type(model).__name__}, or a layer in "
            "it, has no `get_config`. Define one that returns the arguments of the constructor.",
            UserWarning,
            stacklevel=2,
        )


def forms(variables: Mapping[str, keras.Variable]) -> Forms:
    """Shape, dtype and identity of each variable, which must not change during a run."""
    return {key: (tuple(v.shape), str(v.dtype), id(v)) for key, v in variables.items()}


def check_same_state(task: Task, before: Forms) -> None:
    """Checks that a step added, removed and replaced no variables: `before` is the result of `forms` before it.

    Raises:
        TaskError: A variable is new, gone or replaced.
    """
    now, after = task.variables(), forms(task.variables())
    new = [f"{now[key].path} ({key})" for key in after if after[key] != before.get(key)]
    gone = [key for key in before if key not in after]
    if new or gone:
        raise TaskError(
            f"{type(task).__name__}.train_step changed the set of variables: added {', '.join(new) or 'none'}; "
            f"removed {', '.join(gone) or 'none'}. Create every layer, metric and optimizer in `build`."
        )
