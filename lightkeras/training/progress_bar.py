"""Progress bar and one line per epoch on a terminal, a bar and a table in a notebook, else only the lines."""

from __future__ import annotations

import html
import time
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import rich.progress_bar
from rich.table import Table as Grid
from rich.text import Text

from lightkeras.system.display import Display
from lightkeras.system.messages import printable
from lightkeras.system.tables import Table
from lightkeras.system.value_names import leading

_NARROW = 70
"""Columns of a terminal below which the bar itself and the remaining time are left out."""
_EPOCHS_SHOWN = 12
"""Last epochs in the table of a notebook. The best epoch is shown too; `FitResult.history` holds all of them."""


@final
class ProgressBar:
    """The progress of a fit, as a view of a display.

    Args:
        epochs: Maximum number of epochs; `None` if unknown.
        steps: Steps per epoch; `None` if unknown.
        display: Where to show it.
        clock: Returns monotonic time in seconds.
        monitor: Name of the monitored value, which is shown first of many; `None` for none.
    """

    def __init__(
        self,
        epochs: int | None,
        steps: int | None,
        display: Display,
        clock: Callable[[], float] = time.monotonic,
        monitor: str | None = None,
    ) -> None:
        self._display, self._clock, self._monitor = display, clock, monitor
        self._of = f"/{epochs}" if epochs else ""
        self._total = steps * epochs if steps and epochs else None
        self._done = self._resumed_at = 0
        self._began = clock()
        self._speed = 0.0
        self._at, self._values = "starting", ""
        self._running = False
        self._finished: dict[int, dict[str, float]] = {}  # what the table of a notebook shows, by epoch
        self._best: int | None = None

    def __enter__(self) -> ProgressBar:
        self._running, self._began = True, self._clock()
        self._display.show(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._running = False

    def print_line(self, text: str) -> None:
        """Prints a message that remains."""
        self._display.message(text)

    def resume_at(self, steps: int) -> None:
        """Sets the bar of a resumed run to the `steps` train steps that are done."""
        self._done = self._resumed_at = steps

    def advance(self, epoch: int, steps: int, seconds: float, values: Mapping[str, float]) -> None:
        """Advances the bar by the train steps of one call of `seconds`, and shows the running means."""
        if not self._display.live:
            return
        now = steps / max(seconds, 1e-9)
        self._speed = now if not self._speed else 0.8 * self._speed + 0.2 * now
        self._done += steps
        self._at = f"epoch {epoch}{self._of}"
        self._values = printable(f"{self._text(values)}  {self._speed:,.0f} steps/s".strip())
        self._display.refresh()

    def end_epoch(self, epoch: int, values: Mapping[str, float], best: bool) -> None:
        """Shows the values of a finished epoch: in a line, or in the table of a notebook."""
        if self._display.keeps_lines:
            self._display.print(f"epoch {epoch:>3}{self._of}  {self._text(values)}", "best" if best else "")
            return
        self._best = epoch if best else self._best
        self._finished[epoch] = dict(values)
        for number in [*self._finished][:-_EPOCHS_SHOWN]:
            if number != self._best:
                del self._finished[number]
        self._display.refresh()

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        if not self._running:
            return
        steps = f"{self._done:,}/{self._total:,}" if self._total else f"{self._done:,}"
        if options.max_width < _NARROW:
            yield Text(f"{self._at} {steps} {self._values}", no_wrap=True, overflow="ellipsis")
            return
        left = self._left()
        bar = rich.progress_bar.ProgressBar(self._total, self._done, 24, pulse=self._total is None)
        grid = Grid.grid(padding=(0, 1))
        for width in (len(self._at), 24, len(steps), None, len(left)):
            grid.add_column(no_wrap=True, overflow="ellipsis", min_width=width)
        grid.add_row(self._at, bar, steps, Text(self._values), left)
        yield grid

    def _repr_html_(self) -> str:
        table = ""
        if self._finished:
            known = dict.fromkeys(name for values in self._finished.values() for name in values)
            names = leading(known, monitor=self._monitor)
            rows = [
                [f"{epoch}{self._of}", *(f"{values[n]:.4f}" if n in values else "" for n in names), mark]
                for epoch, values in self._finished.items()
                for mark in ("best" if epoch == self._best else "",)
            ]
            marked = [number for number, epoch in enumerate(self._finished) if epoch == self._best]
            lines = {"not shown": f"{len(known) - len(names)} further values"} if len(known) > len(names) else {}
            table = Table(["epoch", *names, ""], rows, lines, marked, texts=[len(names) + 1])._repr_html_()
        if not self._running:
            return table
        limit = f'value="{self._done}" max="{self._total}"' if self._total else ""
        left = f", {left}" if (left := self._left()) else ""
        steps = f"{self._done:,}/{self._total:,}" if self._total else f"{self._done:,}"
        return (
            f'{table}<div style="font-variant-numeric:tabular-nums">{html.escape(self._at)} '
            f'<progress {limit} style="width:14em"></progress> {steps} {html.escape(self._values)}{left}</div>'
        )

    def _text(self, values: Mapping[str, float]) -> str:
        names = leading(values, monitor=self._monitor)
        more = [f"and {len(values) - len(names)} more"] if len(values) > len(names) else []
        return "  ".join([*(f"{name} {values[name]:.4f}" for name in names), *more])

    def _left(self) -> str:
        """The remaining time, by the mean speed so far, with validations and everything else; `""` if unknown."""
        done = self._done - self._resumed_at
        if not self._total or not done:
            return ""
        return f"{duration((self._clock() - self._began) / done * max(0, self._total - self._done))} left"


def duration(seconds: float) -> str:
    """Returns a duration such as `"3 min 05 s"`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
