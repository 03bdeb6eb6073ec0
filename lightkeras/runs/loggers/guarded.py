"""A logger whose errors do not end the run."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, final

from lightkeras.runs.loggers.base import Logger, Run

if TYPE_CHECKING:
    from lightkeras.runs.loggers.histogram import Histogram

T = TypeVar("T")


@final
class Guarded(Logger):
    """Passes calls on to a logger, until one raises: that is warned of once, and the logger is not called again.

    What `open` raises is not caught: the run has not begun.

    Args:
        logger: The logger.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger, self._opened, self._closed, self._warned = logger, False, False, False
        self._main = threading.get_ident()
        self._position: dict[str, int] = {}
        self.problem: str | None = None

    def __str__(self) -> str:
        return type(self._logger).__name__

    def open(self, run: Run) -> None:
        self._main = threading.get_ident()
        self._logger.open(run)
        self._opened = True

    def rewind(self, run: Run) -> None:
        self._call("rewind", lambda: self._logger.rewind(run), None)

    def log_steps(self, epoch: int, first_step: int, values: Mapping[str, Sequence[float]]) -> None:
        self._call("log_steps", lambda: self._logger.log_steps(epoch, first_step, values), None)

    def log_validation(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._call("log_validation", lambda: self._logger.log_validation(epoch, step, values), None)

    def log_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._call("log_epoch", lambda: self._logger.log_epoch(epoch, step, values), None)

    def log_best(self, step: int, values: Mapping[str, float], again: bool = False) -> None:
        self._call("log_best", lambda: self._logger.log_best(step, values, again), None)

    def log_images(self, step: int, images: Mapping[str, bytes]) -> None:
        self._call("log_images", lambda: self._logger.log_images(step, images), None)

    def log_text(self, step: int, name: str, text: str) -> None:
        self._call("log_text", lambda: self._logger.log_text(step, name, text), None)

    def log_diagnostics(self, step: int, values: Mapping[str, float]) -> None:
        self._call("log_diagnostics", lambda: self._logger.log_diagnostics(step, values), None)

    def log_measurements(self, step: int, values: Mapping[str, float]) -> None:
        self._call("log_measurements", lambda: self._logger.log_measurements(step, values), None)

    def log_histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        self._call("log_histograms", lambda: self._logger.log_histograms(step, histograms), None)

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        self._call("log_artifacts", lambda: self._logger.log_artifacts(paths), None)

    def flush(self) -> None:
        self._call("flush", self._logger.flush, None)

    def position(self) -> dict[str, int]:
        """The position, the last one before an error: a resume continues the logger from there."""
        self._position = self._call("position", self._logger.position, self._position)
        return self._position

    def checksums(self) -> dict[str, int]:
        return self._call("checksums", self._logger.checksums, {})

    def sync(self) -> None:
        self._call("sync", self._logger.sync, None)

    def saved(self, position: Mapping[str, int]) -> None:
        self._call("saved", lambda: self._logger.saved(position), None)

    def close(self, failed: bool = False) -> None:
        """Closes the logger, once, also after an error."""
        if not self._opened or self._closed:
            return
        self._closed = True
        before, self.problem = self.problem, None
        self._call("close", lambda: self._logger.close(failed), None)
        self.problem = before or self.problem

    def _call(self, method: str, call: Callable[[], T], otherwise: T) -> T:
        """Returns what the call returns, or `otherwise` if it, or an earlier one, raised."""
        found = otherwise
        if self.problem is None:
            try:
                found = call()
            except Exception as error:  # whatever it is, it must not end the training
                self.problem = f"{method} raised {type(error).__name__}: {error}"
        if self.problem is not None and not self._warned and threading.get_ident() == self._main:
            self._warned = True  # not in another thread, where a warning that is an error would end a checkpoint
            warnings.warn(
                f"{self}: {self.problem}. Training continues, and this logger is not called again.", stacklevel=4
            )
        return found
