"""Texts as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightkeras.plots.style import RIGHT, RIGHT_MARK, WRONG, WRONG_MARK, plain, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHARACTERS, MOST_LINES = 96, 5  # of a text, in a line and in all
_WIDTH, _LINE, _PAD = 8.4, 0.165, 0.14  # inches


def text_panel(entries: Sequence[tuple[str, str | bytes, bool]]) -> Figure:
    """Texts below each other, each with its title: right ones blue with a check mark, wrong ones red.

    Of a long text the beginning is shown.

    Args:
        entries: `(title, text, right)`; `bytes` are read as UTF-8.

    Raises:
        ValueError: No entries, or one of another form.
    """
    from matplotlib.figure import Figure

    if not len(entries):
        raise ValueError("text_panel: there are no entries; expected (title, text, right) at least once.")
    for number, entry in enumerate(entries):
        if len(entry) != 3 or not isinstance(entry[1], (str, bytes)):
            raise ValueError(f"text_panel: entry {number} is {entry!r}; expected (title, text, right).")
    blocks = [_lines(text) for _, text, _ in entries]
    heights = [_LINE * (len(lines) + 1) + 2 * _PAD for lines in blocks]
    total = sum(heights)
    figure = Figure(figsize=(_WIDTH, total))
    top = total
    for (title, _, right), lines, height in zip(entries, blocks, heights, strict=True):
        top -= height
        axes = figure.add_axes((0.01, top / total, 0.98, height / total))
        axes.set(xlim=(0, _WIDTH), ylim=(0, height))
        axes.axis("off")
        color, mark = (RIGHT, RIGHT_MARK) if right else (WRONG, WRONG_MARK)
        axes.axvspan(0, 0.05, _PAD / 2 / height, 1 - _PAD / 2 / height, color=color, linewidth=0)
        heading = f"{mark} {plain(shortened(title, 100))}"
        axes.text(0.15, height - _PAD, heading, color=color, fontweight="bold", fontsize=9.5, va="top")
        body = plain("\n".join(lines))
        axes.text(0.15, height - _PAD - 1.15 * _LINE, body, fontsize=8.5, va="top", linespacing=1.25)
    return figure


def _lines(text: str | bytes) -> list[str]:
    read = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    line = shortened(read, CHARACTERS * MOST_LINES) or "(empty)"
    lines = textwrap.wrap(line, CHARACTERS)
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], shortened(" ".join(lines[MOST_LINES - 1 :]), CHARACTERS)]
    return lines
