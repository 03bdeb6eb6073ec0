"""Runs commands of an experiment in this process."""

from __future__ import annotations

from typing import Any

import lightkeras as lk
from lightkeras.testing import TwoMoons


def run(*words: str, task: type[lk.Task] = TwoMoons, **defaults: Any) -> int:
    """Runs a command of a task, and returns its exit status."""
    try:
        lk.cli(task, args=list(words), **defaults)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
