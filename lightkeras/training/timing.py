"""TimeLedger: counts the time of a fit by part, each second in one part only.

    ledger = TimeLedger()
    with ledger.part("validation"):
        with ledger.part("callbacks"):      # counts for the callbacks, not for the validation
            ...
    ledger.move(0.2, "compute", "data")     # time whose part is known only afterwards
    ledger.summary(steps=1000)

Every fit keeps one, profiled or not: it reads the clock twice for each part that is entered, one or two microseconds.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, final

PARTS = {
    "start": "set-up, data, features, tracing, preflight",
    "compute": "train steps",
    "data": "opening splits, waiting for batches",
    "compilation": "tracing again, first calls for a batch shape",
    "validation": "validation",
    "logging": "CSV, TensorBoard, progress bar",
    "callbacks": "Keras callbacks",
    "pictures": "pictures of the task, curves, report.html",
    "checkpoint": "copies for checkpoints, model.keras",
    "watch": "checks for NaN and infinity, snapshots",
    "trace": "starting and stopping the trace",
    "other": "everything else",
}
"""Names and contents of the parts."""

P = ParamSpec("P")
R = TypeVar("R")


@final
class TimeLedger:
    """Seconds by part; time outside of all parts counts for `"other"`.

    Args:
        clock: Returns monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._entered = ["other"]
        self._since = clock()
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time of the block for a part, except for the parts entered inside."""
        self._count()
        self._entered.append(name)
        try:
            yield
        finally:
            self._count()
            self._entered.pop()

    def move(self, seconds: float, origin: str, target: str) -> None:
        """Moves time from one part to another, at most all of it."""
        moved = min(seconds, self.seconds[origin])
        self.seconds[origin] -= moved
        self.seconds[target] += moved

    def summary(self, steps: int) -> dict[str, Any]:
        """The time counted so far, as JSON values."""
        self._count()
        total = sum(self.seconds.values())
        parts = {
            name: {"seconds": round(seconds, 6), "share": round(seconds / total, 6) if total else 0.0}
            for name, seconds in self.seconds.items()
        }
        per_step = 1e6 * self.seconds["compute"] / steps if steps else None
        return {"wall_s": round(total, 6), "steps": steps, "compute_us_per_step": per_step, "parts": parts}

    def _count(self) -> None:
        now = self._clock()
        self.seconds[self._entered[-1]] += now - self._since
        self._since = now


class _HasLedger(Protocol):
    ledger: TimeLedger


S = TypeVar("S", bound=_HasLedger)


def counted(name: str) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Decorates a method to count its time for a part, in the `ledger` of its object."""

    def decorate(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @functools.wraps(method)
        def with_time_counted(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            with self.ledger.part(name):
                return method(self, *args, **kwargs)

        return with_time_counted

    return decorate
