"""Restores variables and global random generators after a trial run of steps."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from lightkeras.engine import make_engine
from lightkeras.engine.base import Trace
from lightkeras.system import random_states
from lightkeras.system.held_values import HeldValues
from lightkeras.system.unseeded import set_unseeded_generator, unseeded_generator
from lightkeras.system.variables import read_variables, write_variables
from lightkeras.task import Task


@dataclasses.dataclass(frozen=True)
class SavedState:
    """The values of a task's variables, and of others of Keras or the backend, which `restored` restores."""

    held: HeldValues
    others: HeldValues

    def restore_variables(self) -> None:
        """Restores the variables now; the random generators are not touched."""
        self.held.restore()
        self.others.restore()


def others_of(task: Task, trace: Trace) -> list[Any]:
    """Variables that a traced step uses but that are not part of the task."""
    # A trace contains Keras variables, or the backend's variables inside them.
    own = {id(found) for variable in task.variables().values() for found in (variable, variable.value)}
    return [found for found in trace.variables if id(found) not in own]


@contextlib.contextmanager
def restored(task: Task, others: Sequence[Any] = ()) -> Iterator[SavedState]:
    """Restores the variables of a task, others (also of the backend) and all global random generators on exit."""
    engine = task.bind(make_engine)
    numbered = {str(number): found for number, found in enumerate(others)}
    state = SavedState(engine.hold(task.variables()), engine.hold(numbered))
    generators = random_states.read()
    # Keras creates a generator at the first draw without a seed. A new one is removed: it would become part of the run
    # state.
    unseeded = unseeded_generator()
    try:
        yield state
    finally:
        state.restore_variables()
        random_states.write(generators)
        set_unseeded_generator(unseeded)


@contextlib.contextmanager
def variables_restored(variables: Mapping[str, keras.Variable]) -> Iterator[None]:
    """Restores some variables on exit, and nothing else."""
    before = read_variables(variables)
    try:
        yield
    finally:
        write_variables(variables, before)
