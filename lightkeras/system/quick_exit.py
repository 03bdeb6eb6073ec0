"""Ends a program without a last collection of reference cycles, which takes over a second after TensorFlow has run."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import stat
import sys
from typing import Any

_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def exit_quickly() -> None:
    """Leaves the collection out when this process ends, after the functions that are registered from here on.

    Python collects as ever if a file is open that only its `close` completes, such as a `gzip` or `zipfile` archive.
    """
    atexit.unregister(_freeze)
    atexit.register(_freeze)


def _freeze() -> None:
    # Files that only cycles hold are closed by the collection, or not at all: what they have buffered is written now.
    gc.unfreeze()  # `get_objects` leaves frozen ones out
    objects = gc.get_objects()
    kinds = {kind for kind in {*map(type, objects)} if kind in _BUFFERED or _is_archive(kind)}
    files = [found for found in objects if type(found) in kinds]
    for found in files:
        if type(found) in _BUFFERED:
            with contextlib.suppress(Exception):  # closed, or the disk is full: Python's own end ignores it too
                if stat.S_ISREG(os.fstat(found.fileno()).st_mode):  # a pipe may wait for its reader for ever
                    found.flush()
    if not any(_is_written(found) for found in files if type(found) not in _BUFFERED):
        gc.freeze()


def _is_archive(kind: type) -> bool:
    """Whether a class is a `ZipFile`, or a file that is written in Python, such as `GzipFile`."""
    zipfile = sys.modules.get("zipfile")
    return io.IOBase in kind.__mro__ or (zipfile is not None and zipfile.ZipFile in kind.__mro__)


def _is_written(file: Any) -> bool:
    """Whether a file is open for writing."""
    with contextlib.suppress(Exception):
        return not file.closed and file.writable() if isinstance(file, io.IOBase) else file.fp and file.mode != "r"
    return False
