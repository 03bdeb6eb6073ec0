"""Work on a batch that learns nothing, done in the input pipeline while the step before it runs.

A layer that first turns its input into something else without using any variable, such as text into
numbers, computes that by `ahead(function, inputs)`. Outside a run this is `function(inputs)`. In a run
the engine finds out, while it traces the step, which functions are called on which arrays of the batch
(`Recording`), computes them in its input pipeline, and hands the values to the step (`Providing`).
The numbers are the same either way.
"""

from __future__ import annotations

import abc
import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

Function = Callable[[Any], Any]

_active: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("lightkeras_ahead", default=None)


def ahead(function: Function, inputs: Any) -> Any:
    """`function(inputs)`, computed in the input pipeline where there is one and `inputs` is an array of the batch.

    Args:
        function: A pure function of one tensor that reads no variable; the same object at every call.
        inputs: The tensor.
    """
    scope = _active.get()
    return function(inputs) if scope is None else scope.compute(function, inputs)


def is_active() -> bool:
    """Whether a step is being run by an engine."""
    return _active.get() is not None


class Scope(abc.ABC):
    """What `ahead` does while a step is traced; entered with `with scope.entered():`."""

    @abc.abstractmethod
    def compute(self, function: Function, inputs: Any) -> Any:
        """The value of `function(inputs)`."""

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)


@final
class Recording(Scope):
    """Computes in place, and notes what could be done ahead.

    Args:
        leaves: The arrays of the batch.
    """

    def __init__(self, leaves: Sequence[Any]) -> None:
        self._leaves = leaves
        self.found: list[tuple[Function, int]] = []

    def compute(self, function: Function, inputs: Any) -> Any:
        position = _position(self._leaves, inputs)
        if position is not None and (function, position) not in self.found:
            self.found.append((function, position))
        return function(inputs)


@final
class Providing(Scope):
    """Gives the values that were computed ahead; computes any other in place.

    Args:
        leaves: The arrays of the batch.
        found: What was computed ahead: functions, and positions among `leaves`.
        values: Their values.
    """

    def __init__(self, leaves: Sequence[Any], found: Sequence[tuple[Function, int]], values: Sequence[Any]) -> None:
        self._leaves, self._found, self._values = leaves, list(found), values

    def compute(self, function: Function, inputs: Any) -> Any:
        position = _position(self._leaves, inputs)
        if position is None or (function, position) not in self._found:
            return function(inputs)
        return self._values[self._found.index((function, position))]


def _position(leaves: Sequence[Any], inputs: Any) -> int | None:
    return next((number for number, leaf in enumerate(leaves) if leaf is inputs), None)
