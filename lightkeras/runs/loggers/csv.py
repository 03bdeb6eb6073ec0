"""`metrics.csv`: one row per train step, one per epoch, and one per validation inside an epoch."""

from __future__ import annotations

import csv
import mmap
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, final

from lightkeras.runs.loggers.base import Logger
from lightkeras.system import files

_COUNTERS = ("kind", "epoch", "step")


@final
class CsvLogger(Logger):
    """Writes rows of `kind,epoch,step,<names>`; `kind` is `step`, `epoch` or `validation`.

    A step's row holds the values of that step, an epoch's row the means over the epoch, a validation's row those
    over the validation split inside an epoch. Values not logged are empty. Those of a step have the digits of a
    float32, the others all that a float64 has.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: tuple[str, ...] = ()
        self._file: IO[str] | None = None
        self._begun = False

    def open(self, names: Sequence[str], position: Mapping[str, int] | None = None, step: int = 0) -> None:
        header = [*_COUNTERS, *names]
        expected = None if position is None else position.get(self._path.name)
        kept = 0 if expected is None else self._cut(header, expected)
        mode = "x" if position is None else "a" if kept else "w"
        with files.explained(self._path):
            self._file = open(self._path, mode, newline="", encoding="utf-8")  # noqa: SIM115
        self._names, self._begun = tuple(names), True
        if not kept:
            self._write([header])

    def log_steps(self, epoch: int, first_step: int, values: Mapping[str, Sequence[float]]) -> None:
        columns = [[_float32(value) for value in values[name]] if name in values else None for name in self._names]
        count = max((len(column) for column in columns if column is not None), default=0)
        self._write(
            ["step", epoch, first_step + i, *(column[i] if column is not None else "" for column in columns)]
            for i in range(count)
        )

    def log_validation(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._write([["validation", epoch, step, *self._means(values)]])

    def log_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._write([["epoch", epoch, step, *self._means(values)]])

    def log_images(self, step: int, images: Mapping[str, bytes]) -> None:
        """A table has no place for them."""

    def flush(self) -> None:
        if self._file is not None:
            with files.explained(self._path):
                self._file.flush()

    def position(self) -> dict[str, int]:
        file = self._opened()
        self.flush()
        return {self._path.name: os.fstat(file.fileno()).st_size}

    def sync(self) -> None:
        if self._begun:  # by the name: the thread that logs may close the file meanwhile, or have closed it
            with files.explained(self._path):
                files.sync(self._path)
                files.sync(self._path.parent)  # the name of a new file, too

    def close(self, failed: bool = False) -> None:
        if self._file is not None:
            with files.explained(self._path):
                self._file.close()
            self._file = None

    def _opened(self) -> IO[str]:
        if self._file is None:
            raise RuntimeError("CsvLogger: open(names) comes before the first value.")
        return self._file

    def _write(self, rows: object) -> None:
        file = self._opened()
        with files.explained(self._path):
            csv.writer(file, lineterminator="\n").writerows(rows)  # type: ignore[arg-type]

    def _means(self, values: Mapping[str, float]) -> list[str]:
        return [_float64(values[name]) if name in values else "" for name in self._names]

    def _cut(self, header: list[str], expected: int) -> int:
        """Removes the rows after a position. Returns how many bytes are left: 0 where the file is gone."""
        size = self._path.stat().st_size if self._path.exists() else None
        kept = 0 if size is None else _whole_lines(self._path, expected)
        if kept < expected:
            found = "is missing" if size is None else f"ends at byte {size}" if size < expected else "was changed"
            warnings.warn(
                f"{self._path} {found}, but the run was saved when it held {expected} bytes: "
                f"its rows from byte {kept} on are lost. The run goes on.",
                stacklevel=3,
            )
        if kept:
            _check_header(self._path, header)
            with files.explained(self._path):
                os.truncate(self._path, kept)
        return kept


def _check_header(path: Path, expected: list[str]) -> None:
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        found = next(csv.reader(file))
    if found == expected:
        return
    gone = [name for name in found if name not in expected]
    new = [name for name in expected if name not in found]
    differs = [f"it has {', '.join(gone)}"] * bool(gone) + [f"it lacks {', '.join(new)}"] * bool(new)
    raise ValueError(
        f"{path} has other columns than this run logs: {' and '.join(differs) or 'the same in another order'}. "
        "Go on with the task and the data that the run began with, or give another run directory."
    )


def _whole_lines(path: Path, limit: int) -> int:
    """Bytes of the lines that are whole, of those in the first `limit` bytes of a file."""
    with open(path, "rb") as file:
        end = min(limit, os.fstat(file.fileno()).st_size)
        if end == 0:
            return 0  # nothing cannot be mapped
        with mmap.mmap(file.fileno(), end, access=mmap.ACCESS_READ) as content:
            return content.rfind(b"\n") + 1


def _float32(value: float) -> str:
    return f"{value:.9g}"  # enough digits to get a float32 back exactly


def _float64(value: float) -> str:
    return repr(float(value)).removesuffix(".0")  # as many digits as it takes to get it back exactly
