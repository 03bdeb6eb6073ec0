"""A sign of life at each step of a work, for whoever watches over this process."""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[], None]] = []


def listen(function: Callable[[], None]) -> None:
    """Calls a function at each sign, from whatever thread gives it."""
    _listeners.append(function)


def beat() -> None:
    """Gives a sign: a compiled call, or a block of data, is done."""
    for function in _listeners:
        function()
