"""Logs of steps that may still be running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import jax
import numpy as np


@final
class Logged(Mapping[str, np.ndarray]):
    """Columns of the logs of steps by name; reading one waits for the steps.

    Args:
        names: Names of the columns.
        counts: Number of steps of each call.
        tables: Outputs of each call: tables with at least so many rows.
    """

    def __init__(self, names: Sequence[str], counts: Sequence[int], tables: Sequence[list[jax.Array]]) -> None:
        self._names, self._counts, self._tables = names, counts, tables
        self._columns: dict[str, np.ndarray] | None = None

    def __getitem__(self, name: str) -> np.ndarray:
        if self._columns is None:
            self._columns, self._tables = self._read(), ()
        return self._columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _read(self) -> dict[str, np.ndarray]:
        found = [_joined(table)[:count] for table, count in zip(self._tables, self._counts, strict=True)]
        values = _joined(found) if found else np.zeros((0, len(self._names)), "float32")
        return {name: values[:, number] for number, name in enumerate(self._names)}


def _joined(parts: Sequence[Any]) -> np.ndarray:
    """Returns arrays of the device or the host as one, without a copy of a single one."""
    return np.asarray(parts[0]) if len(parts) == 1 else np.concatenate([np.asarray(part) for part in parts])
