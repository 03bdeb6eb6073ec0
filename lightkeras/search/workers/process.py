"""A process that works for a search: it is handed runs over a pipe, and tells how they go.

    parent                          worker
    look(...)                  ->
                               <-   looked(names, ...)  or  raised(error)
    job                        ->
                               <-   alive                    at each step of the work, at most once a second
                               <-   epoch(number, value)     and waits for the answer
    answer(why to stop, or None) ->
                               <-   ended(outcome)  or  lost(reason)  or  full(error)  or  interrupted

Keras, its backend and the task's data are loaded once, and stay. A worker ends when its pipe does, with its parent
however that ends, after as many runs as it was told, and by SIGTERM, upon which a run saves its state.
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

from lightkeras.system import heartbeat, locks
from lightkeras.system.messages import raised_by_us

if TYPE_CHECKING:  # imported by the worker when it has told that it is there
    from lightkeras.data.lookup import Lookup
    from lightkeras.search.trial_run import Job
    from lightkeras.task import Task

ALIVE_EVERY = 1.0  # seconds, at most so often
SHARE_IT = "Give a run_dir on a file system that all nodes of the cluster share, under the same path."


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a worker is started with.

    Args:
        task: The task's class, pickled: its module and name, which the worker imports.
        module: Name of that module.
        lookup: Where data and modules are looked for.
        output: File that gets what the process says while it does no run; the launcher names one.
        using: File that it holds from its first run on, together with the other workers, as long as it lives.
        token: What is in that file, and in no other of that path.
    """

    task: bytes
    module: str
    lookup: Lookup | None
    output: Path | None
    using: Path | None
    token: str

    def mark(self) -> None:
        """Writes `using`, when the directory of the search is there."""
        if self.using is not None:
            self.using.write_text(self.token)  # in place: others may hold it

    def sees_directory(self) -> bool:
        """Whether `using` is, on this machine, the file that the search wrote."""
        try:
            return self.using is None or self.using.read_text() == self.token
        except OSError:
            return False


def main(connection: Connection, setup: Setup) -> None:
    """Works until there is no more to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the search, which tells its workers
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # the last words of a process that dies are to be read
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
        self._sending = threading.Lock()  # signs of life come from any thread
        self._alive_at = 0.0
        self._holds = False

    def work(self) -> None:
        from lightkeras.data import reuse

        reuse.enable()
        heartbeat.listen(self._alive)
        while True:
            kind, content = self._connection.recv()
            goes_on = self._look(*content) if kind == "look" else self._run(content)
            if not goes_on:
                break

    def _look(self, values: dict[str, Any], runner: Any) -> bool:
        from lightkeras.search import trial_run

        try:
            found = trial_run.look(self._task(), self._setup.lookup, values, runner)
        except Exception as error:
            self._send("raised", _portable(error))
        else:
            self._send("looked", found)
        return True

    def _run(self, job: Job) -> bool:
        """Does a run. Returns whether this process can do another."""
        from lightkeras.runner import Interrupted
        from lightkeras.search import trial_run

        self._alive()  # all that takes long to import is there
        self._keep_imports()
        if not self._holds and self._setup.using is not None:
            if not self._setup.sees_directory():
                self._send("full", f"{platform.node()} does not see {self._setup.using.parent}. {SHARE_IT}")
                return True
            locks.hold_shared(self._setup.using)  # until this process ends, however it does
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
        """Tells Python, before the first run, that what is there stays.

        Collecting garbage between two runs looks at all that is not known to stay: with Keras and a backend 0.3 s.
        """
        if not gc.get_freeze_count():
            gc.collect()
            gc.freeze()

    def _task(self) -> type[Task]:
        found: type[Task] = pickle.loads(self._setup.task)  # the name that the search gave this process
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
    """The error, as one that can be sent, with the traceback as a note where it is none of ours."""
    if not raised_by_us(error):
        error.add_note(f"In the worker: {''.join(traceback.format_exception(error)).strip()}")
    try:
        copy = pickle.loads(pickle.dumps(error))
        if str(copy) == str(error):
            return error
    except Exception as problem:  # whatever an error's class makes of being copied: it is told all the same
        error.add_note(f"({type(error).__name__} cannot be sent as it is: {problem})")
    told = RuntimeError(f"{type(error).__name__}: {error}")
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    return told


def _end_with_parent() -> None:
    """Ends this process when its parent has ended: a run that nobody waits for would hold its directory."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="lightkeras-parent", daemon=True).start()


def _offer_to_the_kernel() -> None:
    """Lets the kernel end this process rather than the search, where memory runs out."""
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("800")


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """With all that this process says, also from below Python, in a file."""
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
