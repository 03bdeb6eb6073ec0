"""Tracebacks that end in the user's code: frames of lightkeras, Keras and the backends are left out."""

from __future__ import annotations

import os
import sys
import sysconfig
import types
from pathlib import Path
from typing import final

from lightkeras.system.messages import RAISED_BY_US, raised_by_us

_HIDDEN = ("lightkeras", "keras", "tensorflow", "jax", "jaxlib", "torch", "optree", "tensorflow_hub")
_NOTE = "Frames of lightkeras, Keras and the backend are hidden; LIGHTKERAS_FULL_TRACEBACK=1 shows them."


def is_of_library(file: str) -> bool:
    """Whether a source file is of lightkeras, Keras, a backend, or Python itself."""
    found = [str(sys.modules[name].__file__) for name in _HIDDEN if name in sys.modules]
    roots = [*(os.path.dirname(path) for path in found), sysconfig.get_path("stdlib")]
    return any(Path(file).is_relative_to(root) for root in roots)


@final
class FoldedTraceback:
    """Leaves frames of libraries out of the traceback of an error that came through the user's code inside.

    An error without a frame of the user is left as it is: it may be a fault of lightkeras. The environment variable
    `LIGHTKERAS_FULL_TRACEBACK=1` leaves all as they are. This is a class and not a generator: `contextlib` would put
    the traceback back.
    """

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or os.environ.get("LIGHTKERAS_FULL_TRACEBACK") == "1":
            return
        if _fold_chain(error) and _NOTE not in getattr(error, "__notes__", ()):
            error.add_note(_NOTE)


def _fold_chain(error: BaseException) -> bool:
    """Folds an error and what caused it; returns whether anything was left out."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    # Where no frame of the user follows ours anywhere in the chain, ours are what there is to see.
    if not any(_frames_of_user(found.__traceback__) for found in chain):
        return False
    hidden = [_fold(found) for found in chain]
    return any(hidden)


def _fold(error: BaseException) -> bool:
    if raised_by_us(error):
        setattr(error, RAISED_BY_US, True)
    frames = _frames(error.__traceback__)
    kept = [frame for frame in frames if not _is_hidden(frame)]
    # The first frame may be one of ours: it is where the user's call ended, and the traceback must have one.
    kept = kept or frames[:1]
    folded: types.TracebackType | None = None
    for frame in reversed(kept):
        folded = types.TracebackType(folded, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    error.__traceback__ = folded
    return len(kept) < len(frames)


def _frames(traceback: types.TracebackType | None) -> list[types.TracebackType]:
    found = []
    while traceback is not None:
        found.append(traceback)
        traceback = traceback.tb_next
    return found


def _frames_of_user(traceback: types.TracebackType | None) -> list[types.TracebackType]:
    return [frame for frame in _frames(traceback) if not _is_hidden(frame)]


def _is_hidden(frame: types.TracebackType) -> bool:
    return str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0] in _HIDDEN
