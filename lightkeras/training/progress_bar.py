"""Progress bar and one line per epoch; without a terminal there are only the lines."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import final

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightkeras.system.console import Console


@final
class ProgressBar:
    """A progress bar over the steps of a fit. Hidden if the output is not a terminal.

    Args:
        epochs: Maximum number of epochs.
        steps: Steps per epoch; `None` if unknown.
        shown: Whether to print anything.
        console: Console of the bar; `None` for standard output.
    """

    def __init__(self, epochs: int, steps: int | None, shown: bool = True, console: Console | None = None) -> None:
        console = console or Console()
        self._prints = shown
        self._shown = shown and console.is_terminal
        self._epochs, self._steps = epochs, steps
        self._speed = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not self._shown,
        )
        self._task = self._bar.add_task("starting", total=steps and steps * epochs, values="")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._bar.stop()

    def print_line(self, text: str) -> None:
        """Prints a line to standard error, also if that is a log file; prints nothing with `shown=False`."""
        if self._prints:
            Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)

    def resume_at(self, steps: int) -> None:
        """Sets the bar of a resumed run to the `steps` train steps that are done."""
        if self._shown:
            self._bar.update(self._task, completed=steps)

    def advance(self, epoch: int, steps: int, seconds: float, values: Mapping[str, float]) -> None:
        """Advances the bar by the train steps of one call of `seconds`, and shows the running means."""
        if not self._shown:
            return
        now = steps / max(seconds, 1e-9)
        self._speed = now if not self._speed else 0.8 * self._speed + 0.2 * now
        text = f"{_text(values)}  {self._speed:,.0f} steps/s"
        self._bar.update(self._task, advance=steps, description=f"epoch {epoch}/{self._epochs}", values=text)

    def end_epoch(self, epoch: int, values: Mapping[str, float], best: bool) -> None:
        """Prints the values of a finished epoch: above the bar, or to standard error without a terminal."""
        line = f"epoch {epoch:>3}/{self._epochs}  {_text(values)}"
        if self._shown:
            mark = "  [green]best[/green]" if best else ""
            self._bar.console.print(f"{escape(line)}{mark}", highlight=False)
        else:
            self.print_line(f"{line}  best" if best else line)


def _text(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())
