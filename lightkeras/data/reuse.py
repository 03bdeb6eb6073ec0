"""Data that is prepared once in a process that does several runs, one after the other.

A worker of a search does many runs on the same data. There a module of data takes the place of one that is built
with the same settings later, and what was read is kept by what it was read from. Elsewhere nothing is kept: the data
of a run goes with the run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lightkeras.data.feed import ArrayFeed
from lightkeras.data.module import DataModule

T = TypeVar("T")
_PLAIN = (int, float, str, bytes, bool, Path, type(None))
_kept: dict[Any, Any] = {}
_built: dict[Any, DataModule] = {}
_keeps: list[bool] = []


def begin() -> None:
    """Keeps from now on."""
    _keeps[:] = [True]


def module(built: DataModule | None) -> DataModule | None:
    """The module of data to use: the one given, or an earlier one that was built with the same settings.

    Settings are compared as they are after the constructor. A module that holds anything but plain values by then,
    such as arrays, is used as it is.

    Args:
        built: What `Task.build_data` gave.
    """
    if not _keeps or built is None:
        return built
    settings = _settings(vars(built))
    if settings is None:
        return built
    key = (type(built), settings)
    if key in _kept:
        found: DataModule = _kept[key]
        return found
    _built[key] = built
    return built


def settle(ended_well: bool) -> None:
    """Keeps the modules that the run which ends here has used, if they can be used again.

    Those whose splits are held in memory can: the order of their batches is a function of seed and epoch. A stream
    may go on where it was left, so that the next run would see other batches than in a process of its own.

    Args:
        ended_well: Whether the run came to its end.
    """
    for key, used in _built.items():
        if ended_well and isinstance(used.train(), ArrayFeed):
            _kept[key] = used
    _built.clear()


def once(key: tuple[Any, ...], make: Callable[[], T]) -> T:
    """What was read under a key before, or else what is read now.

    Args:
        key: What it depends on.
        make: Reads it.
    """
    if not _keeps:
        return make()
    if key not in _kept:
        _kept[key] = make()
    value: T = _kept[key]
    return value


def _settings(value: Any) -> Any:
    """Plain values in a form that can be compared; `None` if there is another one among them."""
    if isinstance(value, dict):
        parts = [(key, _settings(part)) for key, part in value.items()]
        return None if any(part is None for _, part in parts) else ("dict", *parts)
    if isinstance(value, (tuple, list)):
        parts = [_settings(part) for part in value]
        return None if None in parts else (type(value).__name__, *parts)
    return (type(value).__name__, value) if isinstance(value, _PLAIN) else None
