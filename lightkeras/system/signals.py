"""SIGTERM and SIGINT as a flag that a run polls."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, Self, final

_SECOND: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@final
class StopSignals:
    """Context manager that stores the first SIGTERM or SIGINT (Ctrl-C) in `received` instead of acting on it.

    A second SIGINT raises `KeyboardInterrupt`, and a second SIGTERM ends the process, as without this class. On exit
    the previous handlers are restored. Ignored signals stay ignored; shells ignore SIGINT for background jobs.
    Outside the main thread this class does nothing, because Python lets only the main thread set handlers.
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
                if before in (signal.SIG_IGN, None):  # None: set by native code, and Python cannot restore it
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
            # A forked child, such as a worker that reads data, inherits these handlers but does not run the loop
            # that polls. It must act on the signal, or the process that ends it would wait forever.
            signal.signal(found, self._before[found])
            os.kill(os.getpid(), found)
            return
        # Set now, not when the second signal comes: Python's handlers wait until native code returns.
        signal.signal(found, _SECOND[found])
        self.received = self.received or found.name


def exit_status(name: str) -> int:
    """Exit status of a program that a signal ended, as shells define it: 130 for `"SIGINT"`, 143 for `"SIGTERM"`."""
    return 128 + signal.Signals[name].value


def how_it_ended(code: int | None) -> str:
    """Describes an exit code of `multiprocessing`."""
    if code is None or code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (", perhaps because memory ran out" if name == "SIGKILL" else "")
