"""The wording that error messages share: what was received, what there is, and the nearest name."""

from __future__ import annotations

import difflib
import sys
import traceback
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Lists the valid names and suggests the nearest one.

    Args:
        name: What the user wrote.
        valid: The names that would have been accepted.

    Returns:
        A sentence to end an error message with, such as
        `"Did you mean 'val/loss'? Valid names: train/loss, val/loss."`.
    """
    names = sorted(valid)
    if not names:
        return "There are no valid names."
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}Valid names: {', '.join(names)}."


def raised_by_us(error: BaseException) -> bool:
    """Whether lightkeras itself raised the error, and not the user's code or a library."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).startswith("lightkeras.")


_said: set[str] = set()


def announce(line: str, once: bool = False) -> None:
    """Says one line to the person at the terminal, on standard error.

    Args:
        line: The line.
        once: Whether to say it only if this process did not yet: an experiment of several runs prepares its data
            for each.
    """
    if once and line in _said:
        return
    _said.add(line)
    print(f"lightkeras: {line}", file=sys.stderr, flush=True)


def check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number of at least {least}.")
