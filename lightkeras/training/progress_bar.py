"""What a person sees while a run goes on: one line per epoch and a bar; nothing when nobody looks."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@final
class ProgressBar:
    """A progress bar over the steps of a fit. Quiet where the output is not a terminal.

    Args:
        epochs: Most epochs there will be.
        steps: Steps per epoch; `None` if not known.
        shown: Whether to show anything at all.
        console: Where to draw; `None` for standard output.
    """

    def __init__(self, epochs: int, steps: int | None, shown: bool = True, console: Console | None = None) -> None:
        console = console or Console()
        self._says = shown
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

    def say(self, text: str) -> None:
        """Says something worth knowing in a log too: on standard error, unless nothing is to be shown at all."""
        if self._says:
            Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)

    def go_on(self, steps: int) -> None:
        """A run goes on after `steps` train steps that were done before."""
        if self._shown:
            self._bar.update(self._task, completed=steps)

    def advance(self, epoch: int, steps: int, seconds: float, values: Mapping[str, float]) -> None:
        """After a call: `steps` more train steps were done in `seconds`.

        Args:
            epoch: The epoch, from 1.
            steps: Steps done by the call.
            seconds: Time it took.
            values: Running means of the epoch.
        """
        if not self._shown:
            return
        now = steps / max(seconds, 1e-9)
        self._speed = now if not self._speed else 0.8 * self._speed + 0.2 * now
        text = f"{_text(values)}  {self._speed:,.0f} steps/s"
        self._bar.update(self._task, advance=steps, description=f"epoch {epoch}/{self._epochs}", values=text)

    def end_epoch(self, epoch: int, values: Mapping[str, float], best: bool) -> None:
        """After an epoch: leaves a line with its values."""
        if self._shown:
            mark = "  [green]best[/green]" if best else ""
            self._bar.console.print(f"epoch {epoch:>3}/{self._epochs}  {escape(_text(values))}{mark}", highlight=False)


def _text(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())
