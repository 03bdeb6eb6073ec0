"""Ends a program without a last collection of reference cycles, which takes over a second after TensorFlow has run."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io

_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def exit_quickly() -> None:
    """Leaves the collection out when this process ends, after the functions that are registered from here on."""
    atexit.unregister(_freeze)
    atexit.register(_freeze)


def _freeze() -> None:
    # Files that only cycles hold are closed by the collection, or not at all: what they have buffered is written now.
    gc.unfreeze()  # `get_objects` leaves frozen ones out
    for found in gc.get_objects():
        if type(found) in _BUFFERED:
            with contextlib.suppress(Exception):  # closed, or the disk is full: Python's own end ignores it too
                found.flush()
    gc.freeze()
