"""The console that all messages are printed with."""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import sys
from collections.abc import Iterable, Iterator
from typing import Any, final

import rich.console
from rich.segment import Segment
from rich.text import Text

from lightkeras.system.messages import printable

_TRUNCATED = re.compile("(?:^|.{1,2})\N{HORIZONTAL ELLIPSIS}$")


@final
class Console(rich.console.Console):
    """A rich console that escapes control characters, and that outlives its reader.

    What is printed may come from a run directory of somebody else. A pipe whose reader has ended, as in `| head`, must
    not end a training run. Characters that the encoding of the output lacks are printed as `?`, and truncated lines
    end in `...`. In a notebook it prints text: rich would print HTML, also in place of what goes to standard error.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(force_jupyter=False, **settings)
        self._has_unicode = self.encoding.startswith("utf")
        if isinstance(self.file, io.TextIOWrapper) and not self._has_unicode:
            self.file.reconfigure(errors="replace")

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        segments = super().render(renderable, options)
        return segments if self._has_unicode else map(_in_ascii, segments)

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(printable(text), **settings)

    def on_broken_pipe(self) -> None:
        self.quiet = True


def _in_ascii(segment: Segment) -> Segment:
    """A text without the signs that are used here and by rich: a truncated one ends in three points, and is as wide."""
    text = _TRUNCATED.sub(lambda found: "..."[-len(found[0]) :], segment.text)
    return segment._replace(text=text.replace("\N{PLUS-MINUS SIGN}", "+-"))


@contextlib.contextmanager
def closed_output_ignored() -> Iterator[None]:
    """Ends the block, without an error, when the reader of standard output has ended or closed it.

    Raises:
        SystemExit: The reader ended; status 141, that of a program that SIGPIPE ended.
    """
    _occupy_standard_streams()
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        if not _is_broken():
            raise
        raise SystemExit(141) from None


def _is_broken() -> bool:
    """Whether the reader of standard output has ended. What it still holds is dropped: Python would report it."""
    try:
        number = sys.stdout.fileno()
        poll = select.poll()
        poll.register(number, select.POLLOUT)
        broken = any(events & select.POLLERR for _, events in poll.poll(0))
    except (OSError, ValueError):  # not a file, as in a test
        return False
    if broken:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
    return broken


def _occupy_standard_streams() -> None:
    """Opens `/dev/null` for closed standard streams: else a file of the run would get their number and their output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
