"""Heartbeat: lets a supervisor detect a hung worker process.

The work itself calls `beat`. A thread that did so would go on while the main thread hangs."""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[], None]] = []


def listen(function: Callable[[], None]) -> None:
    """Registers a function that every `beat` calls, in the thread that beats."""
    _listeners.append(function)


def beat() -> None:
    """Signals that a compiled call or a block of data is done."""
    for function in _listeners:
        function()
