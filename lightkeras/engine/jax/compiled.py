"""One traced function, compiled for one form of batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from lightkeras.data.structure import Structure
from lightkeras.engine.jax.steps import Traced


@final
class Compiled:
    """A traced function, compiled for one form of batch, with the variables that it reads and writes."""

    def __init__(self, traced: Traced, run: Callable[..., Any], alone: bool) -> None:
        self._traced = traced
        self._read = traced.read_only
        self._run = jax.jit(run, donate_argnums=0)
        self.alone = alone
        """Whether it takes one batch, by its number, and not the first so many."""
        self.compiling: float | None = None
        """Seconds that its first call took, which compiles it and does not wait for what it computes."""

    def __call__(self, source: Structure, start: int, count: int) -> list[Any]:
        """Runs over some batches, and sets the variables. Gives the outputs of each call.

        The values that the variables had are given away: their memory is used again.
        """
        read = [variable.value for variable in self._read]
        values, outputs = separate([variable.value for variable in self._traced.written], read), []
        for number in range(count) if self.alone else [count]:
            began = time.perf_counter()
            values, output = self._run(values, read, source, np.int32(start), np.int32(number))
            outputs.append(output)
            if self.compiling is None:
                self.compiling = time.perf_counter() - began
        for variable, value in zip(self._traced.written, values, strict=True):
            # `assign` would convert and check what is known to fit, at 30 times the cost.
            variable._direct_assign(value)
        return outputs


def is_faster_alone(traced: Traced) -> bool:
    """Whether a step takes less time in a call of its own than in a loop.

    Told from the step and not by the clock, so that a run that is gone on with computes the same bits.
    """
    return jax.default_backend() == "cpu" and "conv_general_dilated" in primitives_of(traced.jaxpr.jaxpr)


def primitives_of(jaxpr: Jaxpr) -> set[str]:
    """Names of the operations of a function, and of the functions in it."""
    inner = (leaf for equation in jaxpr.eqns for leaf in jax.tree.leaves(list(equation.params.values())))
    found = {equation.primitive.name for equation in jaxpr.eqns}
    for part in inner:
        if isinstance(part, ClosedJaxpr | Jaxpr):
            found |= primitives_of(part.jaxpr if isinstance(part, ClosedJaxpr) else part)
    return found


def separate(given_away: list[jax.Array], kept: Sequence[jax.Array]) -> list[jax.Array]:
    """The arrays, copied where one array is the value of two variables: it can be given away once, and not kept."""
    seen = set(map(id, kept))
    if len(seen.union(map(id, given_away))) == len(seen) + len(given_away):
        return given_away
    found = []
    for array in given_away:
        found.append(jnp.copy(array) if id(array) in seen else array)
        seen.add(id(array))
    return found
