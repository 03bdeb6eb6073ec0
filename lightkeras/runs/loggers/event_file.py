"""A TensorBoard event file, written without TensorFlow.

TensorBoard's `EventFileWriter` imports TensorFlow if it is installed, and computes its checksums in Python, which
costs more than a small train step.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, final

from tensorboard.compat.proto import event_pb2, summary_pb2

from lightkeras.runs.loggers.tfrecord import frame
from lightkeras.system import files

SUFFIX = ".lightkeras"  # tells these files from event files of other writers
_NAME = re.compile(r"events\.out\.tfevents\.(\d{1,12})\.")
_OURS = re.compile(r"events\.out\.tfevents\.\d{1,12}\.[^/\x00]*" + re.escape(SUFFIX))


def is_ours(name: str) -> bool:
    """Whether a file name is that of an event file of this package."""
    return _OURS.fullmatch(name) is not None


@final
class EventFile:
    """An event file, open for writing.

    Args:
        folder: Folder of the file, whose name sorts after all event files there: TensorBoard reads files in that order.
        session_from: Train steps done at the start of the session; TensorBoard drops points of later steps. `None`
            starts no session, and no points are dropped.
        ending: Suffix of the name.
    """

    def __init__(self, folder: Path, session_from: int | None = None, ending: str = SUFFIX) -> None:
        started = time.time()
        seconds = max([int(started), *(1 + second for second in _seconds(folder))])
        name = f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}{ending}"
        self.path = folder / name
        with files.explained(self.path):
            self._file: BinaryIO = open(self.path, "xb")  # noqa: SIM115
        self.write([event_pb2.Event(wall_time=started, file_version="brain.Event:2")])
        if session_from is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self.write([event_pb2.Event(wall_time=started, step=session_from + 1, session_log=start)])

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def add(self, summary: summary_pb2.Summary, step: int = 0) -> None:
        self.write([event_pb2.Event(wall_time=time.time(), step=step, summary=summary)])

    def flush(self) -> None:
        with files.explained(self.path):
            self._file.flush()

    def close(self) -> None:
        with files.explained(self.path):
            self._file.close()

    def write(self, events: Iterable[event_pb2.Event]) -> None:
        framed = frame([event.SerializeToString() for event in events])
        with files.explained(self.path):
            self._file.write(framed)


def _seconds(folder: Path) -> list[int]:
    """Timestamps in the names of all event files of a folder."""
    names = (_NAME.match(path.name) for path in folder.glob("events.out.tfevents.*"))
    return [int(found[1]) for found in names if found is not None]


def replaced(folder: Path, name: str) -> EventFile:
    """Opens an event file in the place of the earlier one of that name in the folder.

    Args:
        folder: Folder of the file, which is created.
        name: Tells it from other event files of the folder.
    """
    ending = f".{name}{SUFFIX}"
    before = sorted(folder.glob(f"events.out.tfevents.*{ending}"))
    with files.explained(folder):
        files.make_folder(folder)
    file = EventFile(folder, ending=ending)
    remove(before)
    return file


def remove(paths: Iterable[Path]) -> None:
    """Removes event files."""
    for path in paths:
        with files.explained(path):
            path.unlink(missing_ok=True)
