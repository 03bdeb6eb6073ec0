"""What both finders do: check settings, and end with the state that they began with."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import numpy as np
from keras.src.backend.common import global_state  # no public name reaches Keras's own seed generator
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

from lightkeras.system import random_states
from lightkeras.system.variables import read_variables, write_variables
from lightkeras.task import Task


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Puts back the random states of Python, NumPy and Keras."""
    pythons, numpys = random.getstate(), np.random.get_state()
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    of_keras = {} if generator is None else {"state": generator.state}
    before = read_variables(of_keras)
    try:
        yield
    finally:
        random.setstate(pythons)
        np.random.set_state(numpys)
        write_variables(of_keras, before)
        # One that was not there is made anew when it is next asked for, from Python's random state.
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)


@contextlib.contextmanager
def rolled_back(task: Task) -> Iterator[Callable[[], None]]:
    """Puts back the variables that train steps change. What is yielded does so in between, too."""
    variables = task.variables()
    before = read_variables(variables)

    def put_back() -> None:
        write_variables(variables, before)

    try:
        yield put_back
    finally:
        put_back()


@contextlib.contextmanager
def untouched(task: Task) -> Iterator[None]:
    """Puts back the variables of a task and all random states."""
    # Where nothing drew from it yet, Keras's generator is made by what does: it must not become part of the run.
    unseeded = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    variables = task.variables()
    before, generators = read_variables(variables), random_states.read()
    try:
        yield
    finally:
        write_variables(variables, before)
        random_states.write(generators)
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, unseeded)
