"""One run at a time in a run directory, also where processes are killed."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, final

from lightkeras.system import files

_LOOK_EVERY = 0.1  # seconds


class RunLockedError(OSError):
    """Another process, or another runner of this one, is at work in the run directory."""


@final
class RunLock:
    """Holds `run.lock` while a run goes on; a context manager.

    The lock is the kernel's (`flock`) and not the file: it ends with the process, however that ends, so that no lock
    is ever left over. The file says who holds it; it is empty when nobody does, and it is never removed, because
    another process might be about to lock it.

    Args:
        path: The file; its folder must be there.

    Raises:
        RunLockedError: On entering: somebody else holds it.
        OSError: On entering: the file cannot be written, or its file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        if self._descriptor is not None:
            raise RuntimeError(f"{self._path} is held by this lock already. Make another RunLock.")
        with files.explained(self._path):
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        _HELD.add(self)
        try:
            self._lock(self._descriptor)
            with files.explained(self._path):
                _rewrite(self._descriptor, json.dumps(_holder()).encode())
        except BaseException:
            self._let_go()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None = None, error: BaseException | None = None, *_: object) -> None:
        if self._descriptor is None:  # a child that was forked meanwhile comes out here, too
            return
        try:
            with files.explained(self._path):
                _rewrite(self._descriptor, b"")  # while it is still ours to write
        except OSError as second:
            if error is None:
                raise
            error.add_note(str(second))  # what ended the run is what must be told
        finally:
            self._let_go()

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunLockedError(_refusal(self._path)) from error
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self._path} cannot be locked: {error.strerror}. The file system must have locks (flock), "
                "or two runs could mix their files: give a run directory on another one",
            ) from error

    def _let_go(self) -> None:
        _HELD.discard(self)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def waiting_lock(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds a lock alone, after whoever holds it now.

    Args:
        path: The file; its folder must be there. It is made, and never removed.
        on_wait: Called if somebody else holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _try(descriptor, fcntl.LOCK_EX):
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Holds a lock alone if nobody holds it; gives whether it does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _try(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def hold_shared(path: Path) -> int:
    """Holds a lock together with others who do, until the descriptor that is returned is closed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_free(path: Path) -> None:
    """Refuses what a `RunLock` would refuse now; changes nothing.

    Args:
        path: The file; it need not be there.

    Raises:
        RunLockedError: Somebody holds it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # not there, or not to be read: for whoever locks it to say
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunLockedError(_refusal(path)) from error
    except OSError:
        return
    finally:
        os.close(descriptor)


def wait_until_free(path: Path, seconds: float) -> bool:
    """Waits until nobody holds a `RunLock`; changes nothing.

    Args:
        path: The file; it need not be there.
        seconds: How long at most.

    Returns:
        Whether it is free.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            check_free(path)
        except RunLockedError:
            if time.monotonic() >= until:
                return False
            time.sleep(_LOOK_EVERY)
        else:
            return True


_HELD: set[RunLock] = set()


def _let_go_in_child() -> None:
    # A forked child shares the lock: one that outlives its parent would hold it. Closing its copy leaves the
    # parent's as it is. (Programs that are started do not get the descriptor.)
    for lock in list(_HELD):
        lock._let_go()


os.register_at_fork(after_in_child=_let_go_in_child)


def _holder() -> dict[str, Any]:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": started}


def _rewrite(descriptor: int, content: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)


def _refusal(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        who = f"process {holder['pid']} on {holder['host']}, since {holder['started']}"
    except (ValueError, KeyError, TypeError):
        who = "another process, which has not written down yet who it is"
    return (
        f"{path.parent} is in use by another run ({who}). Two runs would mix their files: "
        "wait until that one has ended, or end it, or give another run directory."
    )
