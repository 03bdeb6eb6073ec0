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
    # The collection would close files that only cycles hold, and so write what they have buffered.
    for found in gc.get_objects():
        if type(found) in _BUFFERED:
            with contextlib.suppress(
                Exception
            ):  # closed, or detached, or its disk is full, as Python's own end ignores
                found.flush()
    gc.freeze()
