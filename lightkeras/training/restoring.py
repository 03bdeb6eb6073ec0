"""Restores variables and global random generators after a trial run of steps."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state  # no public name reaches Keras's own seed generator
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

from lightkeras.engine.base import Trace
from lightkeras.system import random_states
from lightkeras.system.variables import read_variables, write_variables
from lightkeras.task import Task


@dataclasses.dataclass(frozen=True)
class SavedState:
    """The variables of a task with their values, and others of Keras or the backend, which `restored` restores."""

    variables: Mapping[str, keras.Variable]
    arrays: Mapping[str, np.ndarray]
    others: Sequence[tuple[Any, np.ndarray]] = ()

    def restore_variables(self) -> None:
        """Restores the variables now; the random generators are not touched."""
        write_variables(self.variables, self.arrays)
        for variable, value in self.others:
            variable.assign(value)


def others_of(task: Task, trace: Trace) -> list[Any]:
    """Variables that a traced step uses but that are not part of the task."""
    # A trace contains Keras variables, or the backend's variables inside them.
    own = {id(found) for variable in task.variables().values() for found in (variable, variable.value)}
    return [found for found in trace.variables if id(found) not in own]


@contextlib.contextmanager
def restored(task: Task, others: Sequence[Any] = ()) -> Iterator[SavedState]:
    """Restores the variables of a task, others (also of the backend) and all global random generators on exit."""
    variables = task.variables()
    state = SavedState(variables, read_variables(variables), [(found, value_of(found)) for found in others])
    generators = random_states.read()
    # Keras creates a generator at the first draw without a seed. A new one is removed: it would become part of the run
    # state.
    unseeded = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    try:
        yield state
    finally:
        state.restore_variables()
        random_states.write(generators)
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, unseeded)


@contextlib.contextmanager
def variables_restored(variables: Mapping[str, keras.Variable]) -> Iterator[None]:
    """Restores some variables on exit, and nothing else."""
    before = read_variables(variables)
    try:
        yield
    finally:
        write_variables(variables, before)


def value_of(variable: Any) -> np.ndarray:
    """A copy of the value of a variable of Keras or the backend."""
    return np.array(keras.ops.convert_to_numpy(keras.ops.copy(variable)))
