"""`metrics.csv`: one row per train step, one per epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from lightkeras import files
from lightkeras.loggers.base import Logger


@final
class CsvLogger(Logger):
    """Writes rows of `kind,epoch,step,<names>`; `kind` is `step` or `epoch`, values not logged are empty.

    A step's row holds the values of that step, an epoch's row the means over the epoch.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: tuple[str, ...] = ()
        self._file: io.TextIOWrapper | None = None

    def open(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        with files.explained(self._path):
            self._file = open(self._path, "x", newline="", encoding="utf-8")  # noqa: SIM115
        self._write([["kind", "epoch", "step", *names]])

    def log_steps(self, epoch: int, first_step: int, values: Mapping[str, Sequence[float]]) -> None:
        columns = [[_text(value) for value in values[name]] if name in values else None for name in self._names]
        count = max((len(column) for column in columns if column is not None), default=0)
        self._write(
            ["step", epoch, first_step + i, *(column[i] if column is not None else "" for column in columns)]
            for i in range(count)
        )

    def log_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        row = [_text(values[name]) if name in values else "" for name in self._names]
        self._write([["epoch", epoch, step, *row]])

    def flush(self) -> None:
        if self._file is not None:
            with files.explained(self._path):
                self._file.flush()

    def close(self, failed: bool = False) -> None:
        if self._file is not None:
            with files.explained(self._path):
                self._file.close()
            self._file = None

    def _write(self, rows: object) -> None:
        if self._file is None:
            raise RuntimeError("CsvLogger: open(names) comes before the first value.")
        with files.explained(self._path):
            csv.writer(self._file, lineterminator="\n").writerows(rows)  # type: ignore[arg-type]


def _text(value: float) -> str:
    return f"{value:.9g}"  # enough digits to get a float32 back exactly
