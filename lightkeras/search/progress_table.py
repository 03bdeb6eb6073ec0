"""Table of running trials on the terminal, with the best trial and the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lightkeras.search.coordinator import Coordinator
from lightkeras.search.pruning import is_better
from lightkeras.search.records import Record

EVERY = 0.5  # seconds between two updates


@final
class ProgressTable:
    """Context manager that shows a table during a search; shows nothing unless stdout is a terminal.

    `clock` returns monotonic time in seconds.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        trials: int | None,
        enabled: bool,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._coordinator, self._trials, self._clock = coordinator, trials, clock
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._enabled = enabled and self._console.is_terminal
        self._began, self._shown = clock(), float("-inf")
        self._ended_before = self._ended()

    def __enter__(self) -> Self:
        if self._enabled:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._enabled:
            self._live.__exit__(kind, error, trace)

    def show(self) -> None:
        """Updates the table if the last update is old enough."""
        now = self._clock()
        if self._enabled and now - self._shown >= EVERY:
            self._shown = now
            self._live.update(self.render(), refresh=True)

    def render(self) -> RenderableType:
        """Returns the table."""
        plan, records = self._coordinator.plan, self._coordinator.records
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "epoch", plan.objective, "best", "hyperparameters"):
            table.add_column(heading, justify="left" if heading in ("run", "hyperparameters") else "right")
        for run in records.working():
            table.add_row(*self._row(run))
        best = self._coordinator.best()
        parts: list[RenderableType] = [table, Text(f"{self._counted()}{self._left()}")]
        if best is not None and best.outcome is not None:
            parts.append(Text(f"best so far: {best.number}, {plan.objective} {_short(best.outcome.value)}"))
        return Group(*parts)

    def _row(self, run: Record) -> list[str]:
        mode, values = self._coordinator.plan.mode, [value for _, value in run.reports]
        best = None
        for value in values:
            best = value if best is None or is_better(value, best, mode) else best
        epochs = run.epochs or self._coordinator.plan.runner.epoch_limit or "?"
        chosen = "  ".join(f"{name} {_short(value)}" for name, value in run.values.items())
        epoch = f"{run.reports[-1][0] if run.reports else 0}/{epochs}"
        return [run.name, epoch, _short(values[-1] if values else None), _short(best), chosen]

    def _counted(self) -> str:
        trials = self._coordinator.records.trials()
        ended = [run.outcome.status for run in trials if run.outcome is not None]
        of = "" if self._trials is None else f" of {self._trials}"
        parts = [f"{ended.count(status)} {status}" for status in ("completed", "pruned", "failed") if status in ended]
        return f"{len(ended)}{of} trials ended" + (f" ({', '.join(parts)})" if parts else "")

    def _left(self) -> str:
        """The remaining time, estimated from the trials that ended in this process."""
        here = self._ended() - self._ended_before
        if self._trials is None or not here:
            return ""
        seconds = (self._clock() - self._began) / here * max(0, self._trials - self._ended())
        return f", about {_duration(seconds)} left"

    def _ended(self) -> int:
        return sum(run.outcome is not None for run in self._coordinator.records.trials())


def _short(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
