"""What Windows and macOS lack of Linux, in one place: flags of files, locks, signals and the number of cores.

No machine with Windows or macOS tests this: tests take the names away that those systems do not have.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)
"""Does not wait for the other end of a pipe."""
PLAIN: int = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)
"""Not open in programs that this one starts; no line ends are changed."""
APPEND: int = os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_FOLLOW | PLAIN
"""Writes at the end of a file that may be new."""
KILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)
"""Ends a process at once; on Windows, SIGTERM does."""
HANG_UP: tuple[int, ...] = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
"""The signal of a terminal that closes, where there is one."""


def lock(descriptor: int, shared: bool = False, wait: bool = False) -> None:
    """Locks an open file until it is closed.

    Raises:
        BlockingIOError: Someone else holds the lock, and this does not `wait`.
        OSError: The file system has no locks.
    """
    if fcntl is not None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
        return
    import portalocker

    flags = portalocker.LockFlags.SHARED if shared else portalocker.LockFlags.EXCLUSIVE
    try:
        portalocker.lock(descriptor, flags if wait else flags | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked as error:
        raise BlockingIOError(str(error)) from error
    except portalocker.LockException as error:
        raise OSError(str(error)) from error


def sync(path: Path) -> None:
    """Fsyncs a file, or the names in a folder, so that they survive a power failure; Windows has that for files."""
    writes = os.name == "nt"
    if writes and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if writes else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cores() -> int:
    """Cores that this process may use; on systems other than Linux, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def stop_signals_held() -> Iterator[None]:
    """Context in which SIGINT and SIGTERM wait, also in processes that are started; does nothing on Windows."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting a process would start it, and unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
