"""Where progress is shown: a terminal, the output of a notebook's cell, or lines on standard error.

    with display.showing(runner.progress) as screen:    # one display at a time: an inner call shows on the outer one
        with display.phase("reading data"):             # anywhere below; shows nothing outside of `showing`
            ...
        screen.show(view)                               # stays until another view replaces it
        screen.print("epoch 1/3  val/loss 0.25")        # a line that remains

A terminal and a notebook have one live area, which is drawn over and over. Everywhere else, a pipe or a file, there is
none: phases and views are left out, lines are printed at once.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import html
import importlib
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, final

from lightkeras.system import tables
from lightkeras.system.messages import announce, printable
from lightkeras.system.tables import Table

_NOTEBOOK_EVERY = 0.25
"""Seconds between two updates of a notebook's cell: each is a message to the browser, with the whole view."""
_BURST = 10
"""Updates within 0.5 s that phases and new views may cause: many of those follow each other at once in a start."""
_CONSOLES = {"jupyter-console", "jupyter-qtconsole"}


class View(Protocol):
    """What the live area shows."""

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        """Renders for a terminal, at any time and from another thread."""

    def _repr_html_(self) -> str:
        """Renders for a notebook."""


class Display(abc.ABC):
    """Where progress is shown.

    Attributes:
        live: Whether there is a live area.
        keeps_lines: Whether lines are how a fit shows its epochs; a notebook shows them in its view.
    """

    live = False
    keeps_lines = True

    def __init__(self) -> None:
        self._view: View = _Empty()
        self._splits: dict[str, Mapping[str, float]] = {}
        self._phases: list[tuple[str, float]] = []  # the innermost last, with the time when it began

    @contextlib.contextmanager
    def phase(self, text: str) -> Iterator[None]:
        """Shows in the live area what happens inside the block."""
        self._phases.append((text, time.monotonic()))
        self.refresh(soon=True)
        try:
            yield
        finally:
            self._phases.pop()

    def show(self, view: View) -> None:
        """Shows a view in the live area, which calls it whenever it is drawn again."""
        self._view = view
        self.refresh(soon=True)

    def show_result(self, splits: Mapping[str, Mapping[str, float]]) -> None:
        """Shows the values of splits in the live area of a terminal, until it ends: before pictures are drawn."""
        self._splits = {**self._splits, **splits}

    @abc.abstractmethod
    def refresh(self, soon: bool = False) -> None:
        """Draws the live area again; in a notebook not more often than every 0.25 s, or 0.05 s on average if `soon`."""

    @abc.abstractmethod
    def print(self, line: str, mark: str = "") -> None:
        """Prints a line that remains, with an emphasized `mark` at its end."""

    def message(self, line: str) -> None:
        """Prints a line about the run, which goes to standard error if that is a file."""
        self.print(line)

    def print_table(self, line: str, table: Table) -> None:
        """Prints a line and, where there is a live area, a table below it."""
        self.message(line)

    def close(self) -> None:
        """Ends the live area."""
        self._phases = []

    def _phase_text(self) -> str:
        for text, began in self._phases[-1:]:  # a copy: a terminal is drawn by a thread of its own
            seconds = time.monotonic() - began
            return printable(f"{text} ({seconds:.0f} s)" if seconds >= 2 else text)
        return ""


@final
class Silent(Display):
    """Shows nothing."""

    def refresh(self, soon: bool = False) -> None:
        return

    def print(self, line: str, mark: str = "") -> None:
        return


@final
class Lines(Display):
    """Prints lines to standard error."""

    def refresh(self, soon: bool = False) -> None:
        return

    def print(self, line: str, mark: str = "") -> None:
        _print_error(f"{line}  {mark}" if mark else line)


@final
class Terminal(Display):
    """A live area below the lines of a terminal.

    Args:
        console: The `Console` of the terminal.
    """

    live = True

    def __init__(self, console: Any) -> None:
        from rich.live import Live  # not needed where there is no terminal
        from rich.spinner import Spinner

        super().__init__()
        self._console = console
        ascii_only = not str(console.encoding).lower().startswith("utf")
        self._spinner = Spinner("line" if ascii_only else "dots")
        # A log file of standard error must get what is printed there.
        self._errors_beside = sys.stderr.isatty()
        self._live = Live(
            console=console,
            get_renderable=self._drawn,
            refresh_per_second=8,
            transient=True,
            redirect_stderr=self._errors_beside,
        )

    def refresh(self, soon: bool = False) -> None:
        if not self._live.is_started:
            self._live.start(refresh=True)  # not before there is something to show: it hides the cursor

    def print(self, line: str, mark: str = "") -> None:
        from rich.text import Text

        text = Text(printable(line))
        if mark:
            text.append("  ").append(mark, style="green")
        self._console.print(text, soft_wrap=True)

    def message(self, line: str) -> None:
        if self._errors_beside:
            self.print(line)
        else:
            _print_error(line)

    def print_table(self, line: str, table: Table) -> None:
        self.print(line)
        self._console.print(table)

    def close(self) -> None:
        super().close()
        self._view, self._splits = _Empty(), {}
        self._live.stop()

    def _drawn(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [self._view]
        if self._splits:
            parts.append(tables.of_splits(self._splits))
        if text := self._phase_text():
            self._spinner.update(text=Text(text, no_wrap=True, overflow="ellipsis"))
            parts.append(self._spinner)
        return Group(*parts)


@final
class Notebook(Display):
    """The output of a notebook's cell: one block of HTML, which is replaced again and again.

    The last view and the messages remain when it is closed. No thread draws it: messages of another thread
    may get into another cell.
    """

    live = True
    keeps_lines = False

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._tables: list[str] = []
        self._handle: Any = None
        self._drawn_at = collections.deque([-math.inf] * _BURST, maxlen=_BURST)

    def refresh(self, soon: bool = False) -> None:
        now = time.monotonic()
        if now - self._drawn_at[0] >= 0.5 if soon else now - self._drawn_at[-1] >= _NOTEBOOK_EVERY:
            self._draw()

    def print(self, line: str, mark: str = "") -> None:
        self._lines.append(f"{line}  {mark}" if mark else line)
        self.refresh()

    def print_table(self, line: str, table: Table) -> None:
        summary = f"<summary>{html.escape(printable(line))}</summary>"
        self._tables.append(f"<details>{summary}{table._repr_html_()}</details>")
        self.refresh(soon=True)

    def close(self) -> None:
        super().close()
        if self._handle is not None or self._lines:
            self._draw()

    def _draw(self) -> None:
        display: Any = importlib.import_module("IPython.display")
        lines = "".join(f"<div>{html.escape(printable(line))}</div>" for line in self._lines)
        text = self._phase_text()
        phase = f'<div style="opacity:.65">{html.escape(text)}&nbsp;&hellip;</div>' if text else ""
        shown = {
            "text/html": f"<div>{''.join(self._tables)}{lines}{self._view._repr_html_()}{phase}</div>",
            "text/plain": "\n".join([*self._lines, text]),
        }
        if self._handle is None:
            self._handle = display.display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)
        self._drawn_at.append(time.monotonic())


@final
class _Empty:
    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        return ()

    def _repr_html_(self) -> str:
        return ""


def _print_error(line: str) -> None:
    """Prints a line to standard error, whose reader may have ended."""
    from lightkeras.system.console import Console

    Console(stderr=True, soft_wrap=True).print(line, markup=False, highlight=False)


_current: Display = Silent()
_muted = False


def current() -> Display:
    """The display that `showing` opened last; one that shows nothing outside of it."""
    return _current


def phase(text: str) -> contextlib.AbstractContextManager[None]:
    """Shows on the current display what happens inside the block, such as `"reading data"`."""
    return _current.phase(text)


@contextlib.contextmanager
def showing(shown: bool) -> Iterator[Display]:
    """Opens a display for the block, or uses the one that is open already.

    Args:
        shown: Whether to show anything in the block.
    """
    global _current
    before = _current
    shown = shown and not _muted
    if shown and not isinstance(before, Silent):
        yield before
        return
    _current = made = make() if shown else Silent()
    try:
        yield made
    finally:
        _current = before
        made.close()


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Context in which nothing is shown, by `showing` neither."""
    global _muted
    before, _muted = _muted, True
    try:
        with showing(False):
            yield
    finally:
        _muted = before


def make() -> Display:
    """Returns the display of this process: of its terminal or notebook, else of lines on standard error."""
    from lightkeras.system.console import Console

    if in_notebook():
        if (problem := _not_live()) is None:
            return Notebook()
        announce(f"{problem}: progress is printed as one line per epoch.", once=True)
        return Lines()
    console = Console()
    return Terminal(console) if console.is_terminal and not console.is_dumb_terminal else Lines()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook or of another Jupyter front end."""
    kernel = sys.modules.get("ipykernel.zmqshell")
    return kernel is not None and isinstance(sys.modules["IPython"].get_ipython(), kernel.ZMQInteractiveShell)


def _not_live() -> str | None:
    """Why the front end of the kernel cannot show live output; `None` if it can.

    The protocol does not tell: consoles are known by the program that started the kernel.
    """
    if "spyder_kernels" in sys.modules:
        return "Spyder's console cannot show live output"
    try:
        started_by = Path(f"/proc/{os.getppid()}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return None
    if _CONSOLES & {word.rpartition("/")[2] for word in started_by}:
        return "a Jupyter console cannot show live output"
    return None
