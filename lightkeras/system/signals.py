"""Signals that ask a run to stop: noted, and answered by the run where it can."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, Self, final

_SECOND: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@final
class StopSignals:
    """Notes SIGTERM and SIGINT (Ctrl-C) instead of acting on them; a context manager.

    A second SIGINT raises `KeyboardInterrupt` at once, a second SIGTERM ends the process at once, as they do without
    this. On exit the handlers are those that were there before. A signal that was ignored before, as a shell lets
    its background jobs ignore SIGINT, stays ignored. Outside the main thread nothing is noted, and signals act as
    they did: Python lets only the main thread set handlers.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Self:
        self.received, self._process = None, os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in _SECOND:
                before = signal.getsignal(number)
                if before in (signal.SIG_IGN, None):  # None: set by other than Python, and not to be put back by it
                    continue
                self._before[number] = before
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        found = signal.Signals(number)
        if os.getpid() != self._process:
            # A forked child, such as a worker that reads data, has these handlers too, but not the run: it does
            # what it would have done, or whoever ends it would wait for ever.
            signal.signal(found, self._before[found])
            os.kill(os.getpid(), found)
            return
        # Set now and not when the second one comes: Python's handlers wait until native code returns.
        signal.signal(found, _SECOND[found])
        self.received = self.received or found.name


def exit_status(name: str) -> int:
    """The exit status of a program that a signal ended, as shells give it.

    Args:
        name: Name of the signal, such as `StopSignals.received` gives it.

    Returns:
        128 and its number: 130 for `"SIGINT"`, 143 for `"SIGTERM"`.
    """
    return 128 + signal.Signals[name].value
