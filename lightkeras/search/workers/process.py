"""The worker process: receives runs over a pipe, and sends their progress.

    parent                          worker
    summarize(...)             ->
                               <-   summary(names, ...)  or  raised(error)
    job                        ->
                               <-   alive                    heartbeat, at most once a second
                               <-   epoch(number, value)     then waits for the answer
    answer(reason to stop, or None) ->
                               <-   ended(outcome)  or  lost(reason)  or  full(error)  or  interrupted

Keras, its backend and the task's data are loaded once. A worker ends when its pipe is closed, when its parent ends, and
after SIGTERM, when it has saved its run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import os
import pickle
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from lightkeras.system import heartbeat, locks, portable, trust
from lightkeras.system.messages import raised_by_us

if TYPE_CHECKING:  # imported after the worker has answered, because it takes seconds
    from lightkeras.data.lookup import Lookup
    from lightkeras.search.trial_run import Job
    from lightkeras.task import Task

ALIVE_EVERY = 1.0  # seconds between heartbeats
SHARE_IT = "Give a run_dir on a file system that all nodes share, under the same path."


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a worker needs to start.

    Args:
        task: The task's class, pickled: its module and name, which the worker imports.
        module: Name of the task's module.
        lookup: Where data and modules are found.
        output: File for the output outside of runs; set by the launcher.
        using: Lock file that all workers hold together from their first run to their end.
        token: Random content of that file, which tells it from a file of the same path on another machine.
        untrusted: What only a run directory names; `None` for nothing.
    """

    task: bytes
    module: str
    lookup: Lookup | None
    output: Path | None
    using: Path | None
    token: str
    untrusted: trust.Untrusted | None = None

    def mark(self) -> None:
        """Writes the token to `using`, when the directory of the search exists."""
        if self.using is not None:
            self.using.write_text(self.token)  # in place, because others may hold its lock

    def sees_directory(self) -> bool:
        """Returns True if `using` on this machine is the file that the search wrote."""
        try:
            return self.using is None or self.using.read_text() == self.token
        except OSError:
            return False


def main(connection: Connection, setup: Setup) -> None:
    """Runs the worker until its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the search, which sends SIGTERM
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # the last lines of a process that dies must be in the file
    trust.distrust(setup.untrusted)
    _end_with_parent()
    _offer_to_the_kernel()
    with (
        contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError),
        output_to(setup.output or Path(os.devnull)),
    ):
        _Worker(connection, setup).work()


@final
class _Worker:
    def __init__(self, connection: Connection, setup: Setup) -> None:
        self._connection, self._setup = connection, setup
        self._sending = threading.Lock()  # any thread may send a heartbeat
        self._alive_at = 0.0
        self._holds = False

    def work(self) -> None:
        from lightkeras.data import reuse

        reuse.enable()
        heartbeat.listen(self._alive)
        while True:
            kind, content = self._connection.recv()
            reusable = self._summarize(content) if kind == "summarize" else self._run(content)
            if not reusable:
                break

    def _summarize(self, asked: tuple[Any, ...]) -> bool:
        from lightkeras.search import trial_run

        try:
            found = trial_run.summarize_task(self._task(), self._setup.lookup, *asked)
        except Exception as error:
            self._send("raised", _portable(error))
        else:
            self._send("summary", found)
        return True

    def _run(self, job: Job) -> bool:
        """Does a run. Returns False if this process must be replaced."""
        from lightkeras.runner import Interrupted
        from lightkeras.search import trial_run

        self._alive()  # the slow imports are done
        self._keep_imports()
        if not self._holds and self._setup.using is not None:
            if not self._setup.sees_directory():
                self._send("full", f"{platform.node()} cannot see {self._setup.using.parent}. {SHARE_IT}")
                return True
            locks.hold_shared(self._setup.using)  # until this process ends
            self._holds = True
        try:
            trial_run.prepare(job)
            with output_to(job.run_dir / "output.txt"):
                outcome = trial_run.run(job, self._task(), self._setup.lookup, self._report)
        except Interrupted:
            self._send("interrupted", None)
            return False
        except trial_run.OutOfMemoryError as error:
            self._send("lost", f"ran out of memory ({error})")
            return False
        except OSError as error:
            self._send("full", str(error))
            return True
        self._send("ended", outcome)
        return True

    def _keep_imports(self) -> None:
        """Exempts imported modules from garbage collection, before the first run.

        Otherwise `clear_session` between two runs visits them: 0.3 s with Keras and a backend.
        """
        if not gc.get_freeze_count():
            gc.collect()
            gc.freeze()

    def _task(self) -> type[Task]:
        found: type[Task] = pickle.loads(self._setup.task)  # only a class's name, from our own parent
        return found

    def _report(self, epoch: int, value: float) -> str | None:
        self._send("epoch", (epoch, value))
        _, answer = self._connection.recv()
        why: str | None = answer
        return why

    def _alive(self) -> None:
        now = time.monotonic()
        if now - self._alive_at >= ALIVE_EVERY:
            self._alive_at = now
            self._send("alive", None)

    def _send(self, kind: str, content: Any) -> None:
        with self._sending:
            self._connection.send((kind, content))


def _portable(error: Exception) -> Exception:
    """Returns an error that can be pickled. The traceback is added as a note unless lightkeras raised it."""
    if not raised_by_us(error):
        error.add_note(f"In the worker: {''.join(traceback.format_exception(error)).strip()}")
    try:
        copy = pickle.loads(pickle.dumps(error))
        if str(copy) == str(error):
            return error
    except Exception as problem:  # pickling runs the error's own code, which may raise anything
        error.add_note(f"({type(error).__name__} cannot be pickled: {problem})")
    replacement = RuntimeError(f"{type(error).__name__}: {error}")
    for note in getattr(error, "__notes__", ()):
        replacement.add_note(note)
    return replacement


def _end_with_parent() -> None:
    """Kills this process when its parent has ended, because its run would keep the directory locked."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), portable.KILL)

    threading.Thread(target=watch, name="lightkeras-parent", daemon=True).start()


def _offer_to_the_kernel() -> None:
    """Makes the kernel kill this process rather than the search when memory runs out."""
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("800")


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Redirects the output of this process, also of native code, to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _flush()
    before = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)
    try:
        yield
    finally:
        _flush()
        for number, old in zip((1, 2), before, strict=True):
            os.dup2(old, number)
            os.close(old)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
