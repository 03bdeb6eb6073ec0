"""A traced function, compiled for one batch shape."""

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
    """A traced function, compiled for one batch shape, with the variables that it reads and writes."""

    def __init__(self, traced: Traced, run: Callable[..., Any], one_batch: bool) -> None:
        self._traced = traced
        self._read = traced.read_only
        self._run = jax.jit(run, donate_argnums=0)
        self.one_batch = one_batch
        """Whether a call runs one batch, given its index, instead of the first `count` batches."""
        self.compiling: float | None = None
        """Seconds of its first call, which compiles it and does not wait for the result."""

    def __call__(self, source: Structure, start: int, count: int) -> list[Any]:
        """Runs batches and sets the variables. Returns the outputs of each call.

        The old values of written variables are donated, so that their memory is reused.
        """
        # `value` would look for a scope and a cast, which exist only inside a step, at ten times the cost.
        read = [variable._value for variable in self._read]
        values, outputs = copy_shared([variable._value for variable in self._traced.written], read), []
        for number in range(count) if self.one_batch else [count]:
            began = time.perf_counter()
            values, output = self._run(values, read, source, np.int32(start), np.int32(number))
            outputs.append(output)
            if self.compiling is None:
                self.compiling = time.perf_counter() - began
        for variable, value in zip(self._traced.written, values, strict=True):
            # `assign` would convert and check values that are known to fit, at 30 times the cost.
            variable._direct_assign(value)
        return outputs


def is_faster_outside_loop(traced: Traced) -> bool:
    """Whether a step is faster outside a loop: on a CPU, XLA computes convolutions slower inside one.

    A convolution network took 1.42 times as long as Keras's `fit` in a loop, a transformer 0.94 times. Decided from the
    operations, not by timing, so that a resumed run computes the same bits on a busier machine.
    """
    return jax.default_backend() == "cpu" and "conv_general_dilated" in primitives_of(traced.jaxpr.jaxpr)


def primitives_of(jaxpr: Jaxpr) -> set[str]:
    """Names of the operations of a function and its inner functions."""
    inner = (leaf for equation in jaxpr.eqns for leaf in jax.tree.leaves(list(equation.params.values())))
    found = {equation.primitive.name for equation in jaxpr.eqns}
    for part in inner:
        if isinstance(part, ClosedJaxpr | Jaxpr):
            found |= primitives_of(part.jaxpr if isinstance(part, ClosedJaxpr) else part)
    return found


def copy_shared(donated: list[jax.Array], kept: Sequence[jax.Array]) -> list[jax.Array]:
    """Copies donated arrays that are also the value of another variable: an array can be donated only once."""
    seen = set(map(id, kept))
    if len(seen.union(map(id, donated))) == len(seen) + len(donated):
        return donated
    found = []
    for array in donated:
        found.append(jnp.copy(array) if id(array) in seen else array)
        seen.add(id(array))
    return found
