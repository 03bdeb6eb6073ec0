"""`metrics.csv`: one row per train step, one per epoch, and one per validation inside an epoch."""

from __future__ import annotations

import csv
import io
import mmap
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, final

import google_crc32c

from lightkeras.runs.loggers.base import Logger, Run
from lightkeras.system import files, portable
from lightkeras.system.messages import printable

FILE = "metrics.csv"
_COUNTERS = ("kind", "epoch", "step")
_LINE_BYTES = 1 << 20


@final
class CsvLogger(Logger):
    """Writes rows of `kind,epoch,step,<names>`; `kind` is `step`, `epoch` or `validation`.

    A step's row holds the values of that step, an epoch's row the means over the epoch, a validation's row the means
    over the validation split inside an epoch. Values that were not logged are empty. Values of steps have the 9 digits
    of a float32, the others all digits of a float64.
    """

    def __init__(self) -> None:
        self._path = Path(FILE)
        self._names: tuple[str, ...] = ()
        self._file: IO[str] | None = None
        self._checksum = 0  # CRC-32C of all that was written
        self._opened_once = False

    def open(self, run: Run) -> None:
        self._path = run.directory / FILE
        header = header_of(run.names)
        expected = None if run.position is None else run.position.get(FILE)
        kept = 0 if expected is None else self._cut(header, expected)
        self._checksum = _checksum(self._path, kept) if kept else 0
        flags = os.O_EXCL if run.position is None else 0 if kept else os.O_TRUNC
        with files.explained(self._path):
            files.check_no_link(self._path)
            opened = os.open(self._path, portable.APPEND | flags, 0o644)
            self._file = os.fdopen(opened, "a", newline="", encoding="utf-8")
        self._names, self._opened_once = tuple(header[len(_COUNTERS) :]), True
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

    def flush(self) -> None:
        if self._file is not None:
            with files.explained(self._path):
                self._file.flush()

    def position(self) -> dict[str, int]:
        file = self._opened()
        self.flush()
        return {self._path.name: os.fstat(file.fileno()).st_size}

    def checksums(self) -> dict[str, int]:
        return {self._path.name: self._checksum}

    def sync(self) -> None:
        if self._opened_once:  # by path: the logging thread may close the file meanwhile
            with files.explained(self._path):
                files.sync(self._path)
                files.sync(self._path.parent)  # for the name of a new file

    def close(self, failed: bool = False) -> None:
        if self._file is not None:
            with files.explained(self._path):
                self._file.close()
            self._file = None

    def _opened(self) -> IO[str]:
        if self._file is None:
            raise RuntimeError("CsvLogger: open(run) must be called before the first value.")
        return self._file

    def _write(self, rows: object) -> None:
        file, text = self._opened(), io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)  # type: ignore[arg-type]
        with files.explained(self._path):
            file.write(text.getvalue())
        self._checksum = google_crc32c.extend(self._checksum, text.getvalue().encode())

    def _means(self, values: Mapping[str, float]) -> list[str]:
        return [_float64(values[name]) if name in values else "" for name in self._names]

    def _cut(self, header: list[str], expected: int) -> int:
        """Removes the rows after a position. Returns the remaining bytes; 0 if the file is missing.

        Args:
            header: Columns of the run; columns that only the file has are added.
            expected: The position.
        """
        size = os.lstat(self._path).st_size if files.is_file(self._path) else None
        kept = 0 if size is None else _whole_lines(self._path, expected)
        if kept < expected:
            found = "is missing" if size is None else f"ends at byte {size}" if size < expected else "was changed"
            warnings.warn(
                f"{self._path} {found}, but the run was saved when it held {expected} bytes: "
                f"its rows from byte {kept} on are lost. Resuming without them.",
                stacklevel=3,
            )
        if kept:
            header[:] = merged_header(self._path, header)
            files.truncate(self._path, kept)
        return kept


def header_of(names: Sequence[str]) -> list[str]:
    """Returns the columns of a run that logs these values."""
    return [*_COUNTERS, *names]


def merged_header(path: Path, expected: list[str]) -> list[str]:
    """Returns the columns of a file that a run can continue: it may have more values of a split than are logged now.

    Earlier versions logged metrics also for the split whose step does not update them.

    Raises:
        ValueError: A column is new, or a split is gone; or the line is damaged.
    """
    try:
        with files.open_to_read(path) as file:
            line = file.readline(_LINE_BYTES).decode(errors="replace")
        found = next(csv.reader([line]), [])
    except csv.Error as error:
        raise files.DamagedFileError(f"{path} is damaged: its first line cannot be read ({error}).") from error
    splits = {name.split("/")[0] for name in expected}
    if [name for name in found if name in expected] == expected and {name.split("/")[0] for name in found} == splits:
        return found
    gone = [printable(name) for name in found if name not in expected]  # the file may come from somebody else
    new = [name for name in expected if name not in found]
    differs = [f"it has {', '.join(gone)}"] * bool(gone) + [f"it lacks {', '.join(new)}"] * bool(new)
    raise ValueError(
        f"{path} has other columns than this run logs: {' and '.join(differs) or 'the same in another order'}. "
        "Resume with the task, the data and the log_gradients that the run was started with, or give another run "
        "directory."
    )


def _whole_lines(path: Path, limit: int) -> int:
    """Returns the size of the complete lines in the first `limit` bytes of a file."""
    with files.open_to_read(path) as file:
        end = min(limit, os.fstat(file.fileno()).st_size)
        if end == 0:
            return 0  # an empty file cannot be mapped
        with mmap.mmap(file.fileno(), end, access=mmap.ACCESS_READ) as content:
            return content.rfind(b"\n") + 1


def warn_if_changed(path: Path, size: int, checksum: int) -> None:
    """Warns if the first bytes of a file have another checksum than when the run was saved."""
    if files.is_file(path) and path.stat().st_size >= size and _checksum(path, size) != checksum:
        warnings.warn(
            f"{path} was changed since the run was saved: its first {size} bytes have another checksum. Resuming with "
            "its rows as they are.",
            stacklevel=2,
        )


def _checksum(path: Path, size: int) -> int:
    """Returns the CRC-32C of the first bytes of a file."""
    checksum = 0
    with files.open_to_read(path) as file:
        while size and (content := file.read(min(size, 1 << 20))):
            checksum, size = google_crc32c.extend(checksum, content), size - len(content)
    return int(checksum)


def _float32(value: float) -> str:
    return f"{value:.9g}"  # enough digits to read the same float32 back


def _float64(value: float) -> str:
    return repr(float(value)).removesuffix(".0")  # the fewest digits that read the same float64 back
