"""Computes parts of a step in the input pipeline, while the step before runs.

A layer that first converts its input without reading a variable, such as text to numbers, computes that with
`compute_ahead(function, inputs)`. Outside a run this is `function(inputs)`. In a run the engine traces the step in a
`RecordingScope`, which records the functions that are called on arrays of the batch; it computes them in its input
pipeline and passes the values to the step in a `PrecomputedScope`. The numbers are the same either way.
"""

from __future__ import annotations

import abc
import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

Function = Callable[[Any], Any]

_active: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("lightkeras_precompute", default=None)


def compute_ahead(function: Function, inputs: Any) -> Any:
    """Returns `function(inputs)`, computed in the input pipeline if `inputs` is an array of the batch in a run.

    `function` is pure, reads no variable, and must be the same object at every call.
    """
    scope = _active.get()
    return function(inputs) if scope is None else scope.compute(function, inputs)


def is_active() -> bool:
    """Whether an engine is tracing or running a step."""
    return _active.get() is not None


class Scope(abc.ABC):
    """What `compute_ahead` does while a step is traced; entered with `with scope.entered():`."""

    @abc.abstractmethod
    def compute(self, function: Function, inputs: Any) -> Any:
        """Returns the value of `function(inputs)`."""

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)


@final
class RecordingScope(Scope):
    """Computes every function in place, and records those that can be computed ahead."""

    def __init__(self, leaves: Sequence[Any]) -> None:
        self._leaves = leaves
        self.found: list[tuple[Function, int]] = []

    def compute(self, function: Function, inputs: Any) -> Any:
        position = _position(self._leaves, inputs)
        if position is not None and (function, position) not in self.found:
            self.found.append((function, position))
        return function(inputs)


@final
class PrecomputedScope(Scope):
    """Returns the values that were computed ahead; computes all others in place."""

    def __init__(self, leaves: Sequence[Any], found: Sequence[tuple[Function, int]], values: Sequence[Any]) -> None:
        self._leaves, self._found, self._values = leaves, list(found), values

    def compute(self, function: Function, inputs: Any) -> Any:
        position = _position(self._leaves, inputs)
        if position is None or (function, position) not in self._found:
            return function(inputs)
        return self._values[self._found.index((function, position))]


def _position(leaves: Sequence[Any], inputs: Any) -> int | None:
    return next((number for number, leaf in enumerate(leaves) if leaf is inputs), None)
