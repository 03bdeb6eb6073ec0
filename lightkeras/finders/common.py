"""What both finders do: check settings, and end with the state that they began with."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from keras.src.backend.common import global_state  # no public name reaches Keras's own seed generator
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

from lightkeras import checkpoint
from lightkeras.task import Task


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Puts back the random states of Python, NumPy and Keras."""
    pythons, numpys = random.getstate(), np.random.get_state()
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    of_keras = {} if generator is None else {"state": generator.state}
    before = checkpoint.read_variables(of_keras)
    try:
        yield
    finally:
        random.setstate(pythons)
        np.random.set_state(numpys)
        checkpoint.write_variables(of_keras, before)
        # One that was not there is made anew when it is next asked for, from Python's random state.
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)


@contextlib.contextmanager
def rolled_back(task: Task) -> Iterator[Callable[[], None]]:
    """Puts back the variables that train steps change. What is yielded does so in between, too."""
    variables = task.variables()
    before = checkpoint.read_variables(variables)

    def put_back() -> None:
        checkpoint.write_variables(variables, before)

    try:
        yield put_back
    finally:
        put_back()


def check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number of at least {least}.")
