"""The running trials of a search, with the best ones and the remaining time, as a view of a display."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable
from typing import Any, final

from rich.text import Text

from lightkeras.runs.results import ranked_trials, short
from lightkeras.search import outputs
from lightkeras.search.coordinator import Coordinator
from lightkeras.search.pruning import is_better
from lightkeras.search.records import Record
from lightkeras.system.display import Display
from lightkeras.system.messages import printable
from lightkeras.system.tables import Table
from lightkeras.training.progress_bar import duration

EVERY = 0.5  # seconds between two updates
_BEST_SHOWN = 5


@final
class ProgressTable:
    """The progress of a search.

    Args:
        coordinator: The coordinator of the search.
        trials: Maximum number of trials; `None` if unknown.
        display: Where to show it.
        clock: Returns monotonic time in seconds.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        trials: int | None,
        display: Display,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._coordinator, self._trials, self._display, self._clock = coordinator, trials, display, clock
        self._began, self._updated = clock(), float("-inf")
        self._ended_before = self._ended()
        self._shown = self._parts()  # what a terminal draws from its own thread
        display.show(self)

    def update(self, ended: bool = False) -> None:
        """Shows the runs as they are now, if the last update is old enough or the search has `ended`."""
        now = self._clock()
        if self._display.live and (ended or now - self._updated >= EVERY):
            self._updated, self._shown = now, self._parts()
            self._display.refresh()

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        running, best, lines = self._shown
        if running.rows or best.rows:
            yield running if running.rows else best
        for line in lines:
            yield Text(printable(line), overflow="fold")

    def _repr_html_(self) -> str:
        running, best, lines = self._shown
        shown = [table._repr_html_() for table in (best, running) if table.rows]
        return "".join([*shown, *(f"<div>{html.escape(printable(line))}</div>" for line in lines)])

    def _parts(self) -> tuple[Table, Table, list[str]]:
        """The running runs, the best trials so far, and how many trials ended."""
        plan, records = self._coordinator.plan, self._coordinator.records
        names = list(plan.space.ranges)
        columns = ["running", "epoch", plan.objective, "best", *names]
        running = Table(columns, [self._row(run, names) for run in records.working()])
        ranked = [outputs.trial_of(plan, run) for run in records.ranked(plan.mode)[:_BEST_SHOWN]]
        lines = [f"{self._counted()}{self._left()}"]
        best = self._coordinator.best()
        if best is not None and best.outcome is not None:
            lines.append(f"best so far: {best.number}, {plan.objective} {short(best.outcome.value)}")
        return running, ranked_trials(ranked, plan.objective), lines

    def _row(self, run: Record, names: list[str]) -> list[str]:
        mode, values = self._coordinator.plan.mode, [value for _, value in run.reports]
        best = None
        for value in values:
            best = value if best is None or is_better(value, best, mode) else best
        epochs = run.epochs or self._coordinator.plan.runner.epoch_limit or "?"
        epoch = f"{run.reports[-1][0] if run.reports else 0}/{epochs}"
        chosen = [short(run.values[name]) if name in run.values else "" for name in names]
        return [run.name, epoch, short(values[-1] if values else None), short(best), *chosen]

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
        return f", about {duration(seconds)} left"

    def _ended(self) -> int:
        return sum(run.outcome is not None for run in self._coordinator.records.trials())
