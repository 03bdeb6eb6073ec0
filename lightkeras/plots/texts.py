"""Figure of texts."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightkeras.plots.style import RIGHT, RIGHT_MARK, WRONG, WRONG_MARK, escaped, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = 5  # of a text
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_MOST = 1000  # characters that are read: more do not fit
_SIZE = 8.5  # of the letters, in points
_WIDTH, _LINE, _PAD = 7.4, 0.165, 0.14  # inches
_LEFT = 0.15
_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)  # as reviews from web pages have them
_USUAL = 110  # characters of a line
_ROOM = 0.95 * _WIDTH - _LEFT - 0.1  # for a line; letters are rounded to pixels


def text_panel(entries: Sequence[tuple[str, str | bytes, bool]]) -> Figure:
    """Texts with titles, one below the other: right ones blue with a check mark, wrong ones red with a cross.

    Long texts are truncated, and the line breaks of HTML (`<br />`) are spaces.

    Args:
        entries: `(title, text, right)`; `bytes` are read as UTF-8.

    Raises:
        ValueError: No entries, or one that is not `(title, text, right)`.

    Examples:
        >>> figure = text_panel([("positive, 93 %", "a delight", True), ("negative, 61 %", "not bad at all", False)])
        >>> len(figure.axes)
        2
    """
    from lightkeras.plots.figure import ShownFigure

    if not len(entries):
        raise ValueError("text_panel: got no entries; expected (title, text, right) at least once.")
    for number, entry in enumerate(entries):
        if len(entry) != 3 or not isinstance(entry[1], (str, bytes)):
            raise ValueError(f"text_panel: entry {number} is {entry!r}; expected (title, text, right).")
    blocks = [_lines(text) for _, text, _ in entries]
    heights = [_LINE * (len(lines) + 1) + 2 * _PAD for lines in blocks]
    total = sum(heights)
    figure = ShownFigure(figsize=(_WIDTH, total))
    top = total
    for (title, _, right), lines, height in zip(entries, blocks, heights, strict=True):
        top -= height
        axes = figure.add_axes((0.01, top / total, 0.98, height / total))
        axes.set(xlim=(0, _WIDTH), ylim=(0, height))
        axes.axis("off")
        color, mark = (RIGHT, RIGHT_MARK) if right else (WRONG, WRONG_MARK)
        axes.axvspan(0, 0.05, _PAD / 2 / height, 1 - _PAD / 2 / height, color=color, linewidth=0)
        heading = f"{mark} {escaped(shortened(title, 60))}"
        axes.text(_LEFT, height - _PAD, heading, color=color, fontweight="bold", fontsize=9.5, va="top")
        body = escaped("\n".join(lines))
        axes.text(_LEFT, height - _PAD - 1.15 * _LINE, body, fontsize=_SIZE, va="top", linespacing=1.25)
    return figure


def _lines(text: str | bytes) -> list[str]:
    """The beginning of a text, in lines that fit by their width in the font (a line of W and M is wider than most)."""
    read = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    read = _LINE_BREAK.sub(" ", read)
    words = " ".join(read.split())[:_MOST].split(" ")
    lines: list[str] = []
    rest = [part for word in words for part in _parts(word)]
    while rest and len(lines) < MOST_LINES:
        count = _fitting(rest, len(lines[-1]) if lines else _USUAL)
        lines.append(" ".join(rest[:count]).lstrip())
        del rest[:count]
    if rest or len(" ".join(read.split())) > _MOST:
        while lines[-1] and _width(lines[-1] + ELLIPSIS) > _ROOM:
            lines[-1] = lines[-1][:-1]
        lines[-1] = lines[-1].rstrip() + ELLIPSIS
    return lines if lines[0] else ["(empty)"]


def _fitting(parts: Sequence[str], usual: int) -> int:
    """How many parts fit into a line, one at least. The search begins at a line of `usual` characters."""

    def fits(count: int) -> bool:
        return _width(" ".join(parts[:count]).lstrip()) <= _ROOM

    count = length = 0
    while count < len(parts) and length < usual:
        length += len(parts[count]) + 1
        count += 1
    while count > 1 and not fits(count):
        count -= 1
    while count < len(parts) and fits(count + 1):
        count += 1
    return max(count, 1)


def _parts(word: str) -> list[str]:
    """A word, split where it would be longer than a line."""
    if word.isascii() and 1.5 * len(word) * _SIZE / 72 <= _ROOM:  # no letter is as wide as that
        return [word]
    parts = []
    while _width(word) > _ROOM:
        end = next(end for end in range(len(word), 0, -1) if _width(word[:end]) <= _ROOM)
        parts.append(word[:end])
        word = word[end:]
    return [*parts, word]


def _width(text: str) -> float:
    """Width of a line of the body, in inches, without kerning: to lay out a line takes a millisecond."""
    return sum(map(_letter_width, text))


@functools.lru_cache(maxsize=4096)
def _letter_width(letter: str) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as a box, which has a width
        width, _, _ = TextToPath().get_text_width_height_descent(letter, FontProperties(size=_SIZE), ismath=False)
    return float(width) / 72
