"""Reuse of data between runs of one process, for the workers of a search.

A worker does many runs on the same data. Once `enable` was called, a data module replaces later ones that are built
with the same settings, and what was read is kept by what it was read from. In other processes nothing is kept: the
data of a run is freed with the run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lightkeras.data.feed import ArrayFeed
from lightkeras.data.module import DataModule

T = TypeVar("T")
_PLAIN = (int, float, str, bytes, bool, Path, type(None))
_cache: dict[Any, Any] = {}
_used_by_run: dict[Any, DataModule] = {}
_enabled = False


def enable() -> None:
    """Switches reuse on for the rest of this process."""
    global _enabled
    _enabled = True


def reused_module(built: DataModule | None) -> DataModule | None:
    """Returns the data module to use: an earlier one with the same settings, else the one given.

    Settings are the attributes after the constructor. A module that holds anything but plain values by then, such as
    arrays, is not replaced.
    """
    if not _enabled or built is None:
        return built
    settings = _settings(vars(built))
    if settings is None:
        return built
    key = (type(built), settings)
    if key in _cache:
        found: DataModule = _cache[key]
        return found
    _used_by_run[key] = built
    return built


def commit(ended_well: bool) -> None:
    """Caches the data modules of the run that ends here, if it ended well and they are reusable.

    A module is if its splits are in memory: the order of their batches is a function of seed and epoch. A stream may
    continue where it stopped, so that the next run would see other batches than in a process of its own.
    """
    for key, used in _used_by_run.items():
        if ended_well and isinstance(used.train(), ArrayFeed):
            _cache[key] = used
    _used_by_run.clear()


def memoized(key: tuple[Any, ...], make: Callable[[], T]) -> T:
    """Returns `make()`, or what an earlier call with the same key returned, where reuse is enabled.

    The key must hold everything that the value depends on.
    """
    if not _enabled:
        return make()
    if key not in _cache:
        _cache[key] = make()
    value: T = _cache[key]
    return value


def _settings(value: Any) -> Any:
    """Plain values in a form that can be compared; `None` if one of them is not a plain value."""
    if isinstance(value, dict):
        parts = [(key, _settings(part)) for key, part in value.items()]
        return None if any(part is None for _, part in parts) else ("dict", *parts)
    if isinstance(value, (tuple, list)):
        parts = [_settings(part) for part in value]
        return None if None in parts else (type(value).__name__, *parts)
    return (type(value).__name__, value) if isinstance(value, _PLAIN) else None
