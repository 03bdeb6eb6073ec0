"""File locks of the kernel (`flock`; on Windows those of portalocker), which end with their process however it ends.

A lock file is never removed: another process might be about to lock it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lightkeras.system import environment, files, portable

_POLL_SECONDS = 0.1


class RunLockedError(OSError):
    """Another process, or another runner in this process, is using the run directory.

    Examples:
        ```python
        import lightkeras as lk

        try:
            lk.Runner(max_epochs=1, run_dir="runs/moons").fit(lk.testing.TwoMoons(), resume=True)
        except lk.RunLockedError:
            print("Another process trains it already.")
        ```
    """


_held: set[io.FileIO] = set()


def _close_in_child() -> None:
    # A forked child shares the lock, and would hold it after its parent has ended. Closing the child's copy does not
    # release the parent's. (Started programs do not inherit the descriptor.)
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def exclusive_lock(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[io.FileIO]:
    """Holds the lock of a file alone. The context value is the open file; it is closed in forked children.

    Args:
        path: The lock file; its folder must exist.
        on_wait: Called if the lock is held by someone else, before waiting for it. `None`: does not wait, but raises
            `RunLockedError`.

    Raises:
        RunLockedError: Someone else holds the lock, and `on_wait` is `None`.
        OSError: The file cannot be opened, or its file system has no locks.
    """
    with files.explained(path):
        file = io.FileIO(_opened(path), "r+")
    _held.add(file)
    try:
        try:
            portable.lock(file.fileno())
        except BlockingIOError as error:
            if on_wait is None:
                raise RunLockedError(_refusal(path)) from error
            on_wait()
            portable.lock(file.fileno(), wait=True)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{path} cannot be locked: {error.strerror}. The file system must have locks (flock), "
                "or two processes could mix their files: give a directory on another one",
            ) from error
        yield file
    finally:
        _held.discard(file)
        file.close()


@contextlib.contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Holds `run.lock`, which names its holder, during a run; a RunLockedError if another run holds it."""
    with exclusive_lock(path) as file:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": environment.now()}
        _rewrite(file, path, json.dumps(holder).encode())
        try:
            yield
        except BaseException as error:
            try:
                _rewrite(file, path, b"")
            except OSError as second:
                error.add_note(str(second))  # the user must see why the run ended
            raise
        _rewrite(file, path, b"")


@contextlib.contextmanager
def waiting_lock(path: Path, seconds: float) -> Iterator[None]:
    """Like `run_lock`, but waits for another holder.

    Args:
        path: The lock file.
        seconds: Timeout.

    Raises:
        RunLockedError: Another process still holds the lock.
        OSError: The file cannot be written.
    """
    until = time.monotonic() + seconds
    while True:
        wait_until_free(path, max(0.0, until - time.monotonic()))
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(run_lock(path))
                held = stack.pop_all()
        except RunLockedError:
            if time.monotonic() >= until:
                raise
            continue
        with held:
            yield
        return


def hold_shared(path: Path) -> int:
    """Holds the lock of a file together with others; ends when the returned descriptor is closed."""
    descriptor = _opened(path)
    portable.lock(descriptor, shared=True, wait=True)
    return descriptor


def check_free(path: Path) -> None:
    """Raises a RunLockedError if someone holds a `run_lock`, which need not exist; changes nothing."""
    try:
        with files.open_to_read(path) as file:
            portable.lock(file.fileno(), shared=True)
    except BlockingIOError as error:
        raise RunLockedError(_refusal(path)) from error
    except (OSError, files.DamagedFileError):  # missing or not readable: `run_lock` raises the error
        return


def wait_until_free(path: Path, seconds: float) -> bool:
    """Waits until nobody holds a `run_lock`; False if `seconds` have passed. Changes nothing."""
    until = time.monotonic() + seconds
    while True:
        try:
            check_free(path)
        except RunLockedError:
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


def _opened(path: Path) -> int:
    """Opens or creates a lock file for writing; does not follow a link, and does not wait for a pipe.

    Raises:
        LinkError: It is a link.
        OSError: It cannot be opened, or is not a file.
    """
    files.check_no_link(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | portable.NO_FOLLOW | portable.PLAIN, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path} is not a file; remove it")
    return descriptor


def _rewrite(file: io.FileIO, path: Path, content: bytes) -> None:
    if file.closed:  # in a forked child
        return
    with files.explained(path):
        os.ftruncate(file.fileno(), 0)
        file.write(content)


@dataclasses.dataclass
class _Holder:
    pid: int
    host: str
    started: str


def _refusal(path: Path) -> str:
    try:
        holder = files.read_json(path, _Holder)
        who = f"process {holder['pid']} on {holder['host']}, since {holder['started']}"
    except (ValueError, OSError):
        who = "another process, which has not written its id yet"
    return (
        f"{path.parent} is in use by another run ({who}). Two runs would mix their files: "
        "wait until that one has ended, or end it, or give another run directory."
    )
