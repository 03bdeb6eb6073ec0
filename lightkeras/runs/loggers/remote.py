"""Loggers that send values to a service, or to a store that cannot be cut.

A resumed run repeats the steps after its checkpoint, and what a service got stays there. Values are therefore written
to a file of the run directory, the outbox, which a resume cuts like `metrics.csv`. A thread sends what is before the
position of the last checkpoint on the disk; `close` sends the rest. Before a resumed run sends anything, it asks the
service for the last step of each name: what is there is not sent again, and what a killed process had not sent is sent.
No train step waits for the service, and values that could not be sent stay in the outbox until the run is resumed.
"""

from __future__ import annotations

import abc
import base64
import contextlib
import dataclasses
import importlib.util
import json
import os
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, final

from lightkeras.runs import formats
from lightkeras.runs.loggers.base import Logger, Run
from lightkeras.system import files, portable
from lightkeras.system.messages import check_whole

if TYPE_CHECKING:
    from lightkeras.runs.loggers.histogram import Histogram

BATCH_BYTES = 1 << 18
"""Bytes of the outbox that are sent at a time, about."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of the outbox.

    Args:
        kind: `"steps"`, whose values are lists, one float for each train step; `"values"`; `"epoch"`, with values of an
            epoch; `"text"`; `"images"`, whose values are PNG in base64; `"histograms"`, whose values are lists of the
            edges and of the counts.
        time: When it was logged, in seconds since 1970.
        step: Train step, the first one of `"steps"`.
        values: Values by name.
        epoch: The epoch of an `"epoch"`.
        every: Train steps between two of `"steps"`.
    """

    kind: str
    time: float
    step: int
    values: Mapping[str, Any]
    epoch: int = 0
    every: int = 1

    def rows(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Yields each step with its values."""
        if self.kind == "steps":
            for number, row in enumerate(zip(*self.values.values(), strict=True)):
                yield self.step + number * self.every, dict(zip(self.values, row, strict=True))
        else:
            yield self.step, dict(self.values)


class Remote(abc.ABC):
    """A run of a service, open for writing.

    Args:
        resumed: Whether it may have values of the run already.
    """

    def __init__(self, resumed: bool) -> None:
        self._resumed = resumed
        self._last: dict[str, int] = {}

    @abc.abstractmethod
    def last_step(self, name: str) -> int:
        """Asks the service for the last step of a name; -1 if it has none."""

    @abc.abstractmethod
    def send(self, entries: Iterable[Entry]) -> None:
        """Sends entries that are new, in order; entries of a call that raised are given again."""

    @abc.abstractmethod
    def send_artifacts(self, paths: Sequence[Path]) -> None:
        """Sends files and folders."""

    @abc.abstractmethod
    def close(self, failed: bool) -> None:
        """Ends the run."""

    @final
    def is_new(self, name: str, step: int) -> bool:
        """Whether the service has no value of this name at this step or after it."""
        if name not in self._last:
            self._last[name] = self.last_step(name) if self._resumed else -1
        return step > self._last[name]

    @final
    def sent(self, name: str, step: int) -> None:
        """Notes what the service has got."""
        self._last[name] = step


class RemoteLogger(Logger):
    """A logger that sends values to a service, in batches.

    Args:
        name: Names its files in the run directory.
        every_steps: Train steps between two that are logged.

    Raises:
        ValueError: `every_steps` is below 1.
    """

    def __init__(self, name: str, every_steps: int) -> None:
        check_whole(str(self), "every_steps", every_steps, 1)
        self._name, self._every_steps = name, every_steps
        self._path = Path()
        self._file: BinaryIO | None = None
        self._sender: _Sender | None = None

    @abc.abstractmethod
    def connect(self, run: Run, known: str | None) -> tuple[Remote, str]:
        """Begins a run of the service, or continues a known one.

        Args:
            run: The run.
            known: What an earlier call returned for this run; `None` begins one.

        Returns:
            The run of the service, and its id.
        """

    def open(self, run: Run) -> None:
        self._path = run.directory / f"{self._name}.outbox"
        self._open_file(run)
        try:
            remote = self._connected(run)
        except BaseException:
            self._opened().close()
            raise
        self._sender = _Sender(self._path, remote)
        self._sender.release(self._opened().tell())  # what a resume keeps is before a checkpoint on the disk

    def rewind(self, run: Run) -> None:
        if self._sender is not None:
            with self._sender.stopped():
                self._opened().close()
                self._open_file(run)
                self._sender.cut(self._opened().tell())

    def log_steps(self, epoch: int, first_step: int, values: Mapping[str, Sequence[float]]) -> None:
        first = -first_step % self._every_steps
        kept = {name: list(column[first :: self._every_steps]) for name, column in values.items()}
        if any(kept.values()):
            self._write("steps", first_step + first, kept, every=self._every_steps)

    def log_validation(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._write("values", step, values)

    def log_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._write("values", step, {name: value for name, value in values.items() if name.startswith("val/")})
        self._write("epoch", step, {f"epoch/{name}": value for name, value in values.items()}, epoch=epoch)

    def log_best(self, step: int, values: Mapping[str, float], again: bool = False) -> None:
        if not again:
            self._write("values", step, {f"best/{name}": value for name, value in values.items()})

    def log_images(self, step: int, images: Mapping[str, bytes]) -> None:
        self._write("images", step, {name: base64.b64encode(png).decode() for name, png in images.items()})

    def log_text(self, step: int, name: str, text: str) -> None:
        self._write("text", step, {name: text})

    def log_diagnostics(self, step: int, values: Mapping[str, float]) -> None:
        self._write("values", step, values)

    def log_measurements(self, step: int, values: Mapping[str, float]) -> None:
        self._write("values", step, values)

    def log_histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        plain = {name: [found.edges.tolist(), found.counts.tolist()] for name, found in histograms.items()}
        self._write("histograms", step, plain)

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        if self._sender is not None:
            self._sender.artifacts = list(paths)

    def flush(self) -> None:
        if self._file is not None:
            with files.explained(self._path):
                self._file.flush()
        if self._sender is not None:
            self._sender.warn(str(self))

    def position(self) -> dict[str, int]:
        file = self._opened()
        self.flush()
        return {self._path.name: file.tell()}

    def sync(self) -> None:
        with files.explained(self._path):
            files.sync(self._path)

    def saved(self, position: Mapping[str, int]) -> None:
        if self._sender is not None:
            self._sender.release(position.get(self._path.name, 0))

    def close(self, failed: bool = False) -> None:
        file, self._file = self._file, None
        sender, self._sender = self._sender, None
        if file is not None:
            with files.explained(self._path):
                file.close()
        if sender is not None:
            sender.finish(self._path.stat().st_size, failed)

    def _open_file(self, run: Run) -> None:
        size = 0 if run.position is None else run.position.get(self._path.name, 0)
        if run.position is not None and files.is_file(self._path):
            size = min(size, self._path.stat().st_size)
            files.truncate(self._path, size)
        with files.explained(self._path):
            files.check_no_link(self._path)
            flags = portable.APPEND | (os.O_EXCL if run.position is None else 0)
            self._file = os.fdopen(os.open(self._path, flags, 0o644), "ab")

    def _connected(self, run: Run) -> Remote:
        """Connects, and remembers the run of the service before anything is sent to it."""
        path = run.directory / f"{self._name}.run.json"
        files.check_no_link(path)
        known = files.read_json(path, formats.RemoteRun)["id"] if path.exists() and run.position is not None else None
        remote, identity = self.connect(run, known)
        if identity != known:
            files.write_json(path, {"id": identity})
        return remote

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise RuntimeError(f"{self}: open(run) must be called before the first value.")
        return self._file

    def _write(self, kind: str, step: int, values: Mapping[str, Any], **more: int) -> None:
        if values:
            line = json.dumps({"kind": kind, "time": time.time(), "step": step, "values": dict(values), **more})
            with files.explained(self._path):
                self._opened().write(line.encode() + b"\n")


@final
class _Sender:
    """A thread that sends the outbox up to where it is released.

    Args:
        path: The outbox.
        remote: Where it is sent.
    """

    def __init__(self, path: Path, remote: Remote) -> None:
        self._path, self._remote = path, remote
        self.artifacts: list[Path] = []
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._sent = self._released = 0  # bytes of the outbox
        self._ending = self._failed = False
        self._problem: Exception | None = None
        self._warned = False
        self._thread = threading.Thread(target=self._work, name=f"lightkeras-{path.stem}", daemon=True)
        self._thread.start()

    def release(self, position: int) -> None:
        """Sends what is before a position, soon; also what could not be sent before."""
        with self._changed:
            self._released, self._problem = max(self._released, position), None
            self._changed.notify()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Sends nothing for a while."""
        with self._sending:
            yield

    def cut(self, size: int) -> None:
        """Continues at the new end of an outbox that was cut; only while stopped."""
        with self._changed:
            self._sent, self._released = min(self._sent, size), min(self._released, size)

    def warn(self, name: str) -> None:
        """Warns once if values could not be sent."""
        if self._problem is not None and not self._warned:
            self._warned = True
            warnings.warn(
                f"{name} could not send values: {_reason(self._problem)}. They are kept in {self._path}; the next "
                "checkpoint tries again.",
                stacklevel=5,
            )

    def finish(self, size: int, failed: bool) -> None:
        """Sends everything and ends the run.

        Raises:
            ConnectionError: Something could not be sent.
        """
        with self._changed:
            self._released, self._ending, self._failed, self._problem = size, True, failed, None
            self._changed.notify()
        self._thread.join()
        if self._problem is not None:
            left = size - self._sent
            kept = f"{left:,} bytes are left in {self._path}, and are sent when the run is resumed" if left else ""
            raise ConnectionError(f"{_reason(self._problem)}. {kept}".strip()) from self._problem

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._ending and (self._problem is not None or self._sent >= self._released):
                    self._changed.wait()
                if self._ending and self._sent >= self._released:
                    break
            try:
                with self._sending:
                    self._send_next()
            except Exception as error:  # of any kind: it comes from the service
                self._problem = error
                if self._ending:
                    break
        try:
            if self._problem is None:
                self._remote.send_artifacts(self.artifacts)
        except Exception as error:
            self._problem = error
        try:
            self._remote.close(self._failed)
        except Exception as error:
            self._problem = self._problem or error

    def _send_next(self) -> None:
        with files.open_to_read(self._path) as file:
            file.seek(self._sent)
            content = file.read(min(BATCH_BYTES, self._released - self._sent))
            if not content.endswith(b"\n"):
                content += file.readline()
        if content:
            self._remote.send(_entries(content, self._path, self._sent))
        self._sent += len(content)
        if not content:
            raise files.DamagedFileError(f"{self._path} ends at byte {self._sent}: expected {self._released} bytes.")


def _entries(content: bytes, path: Path, at: int) -> list[Entry]:
    try:
        return [Entry(**json.loads(line)) for line in content.splitlines()]
    except (ValueError, TypeError) as error:
        raise files.DamagedFileError(f"{path} is damaged after byte {at}: {error}.") from error


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".")


def require(package: str, logger: str) -> None:
    """Raises an ImportError with what to install if a package is missing."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f"lk.loggers.{logger} needs the package {package}, which is not installed. Install it with: "
            f'pip install "lightkeras[{package}]"'
        )
