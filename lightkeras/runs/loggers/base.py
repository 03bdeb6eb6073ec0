"""The interface of loggers."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

from lightkeras.runs.loggers.summaries import Histogram


class Logger(abc.ABC):
    """Writes the values of a run. Steps and epochs are counted from 1."""

    @abc.abstractmethod
    def open(self, names: Sequence[str], position: Mapping[str, int] | None = None, step: int = 0) -> None:
        """Opens the files; called once, before the other methods.

        Args:
            names: Every name that will be logged, such as `train/loss` and `val/accuracy`.
            position: What `position` returned when the checkpoint to resume from was saved. It may name files of other
                loggers. Later content is removed, so that every row and point exists once, and a file of this logger
                that it does not name is rewritten. `None` starts a run, which has no files yet.
            step: Train steps done before, over the whole run.

        Raises:
            FileExistsError: A file exists, and `position` is `None`.
            ValueError: The file of the run to resume has values of other names; nothing was changed.
        """

    @abc.abstractmethod
    def log_steps(self, epoch: int, first_step: int, values: Mapping[str, Sequence[float]]) -> None:
        """Logs values of consecutive train steps by name; `first_step` counts over the whole run."""

    @abc.abstractmethod
    def log_validation(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Logs the means of a validation inside an epoch, such as `val/loss`; `step` counts over the whole run."""

    @abc.abstractmethod
    def log_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Logs values of a finished epoch; `step` counts over the whole run."""

    @abc.abstractmethod
    def log_best(self, step: int, values: Mapping[str, float], again: bool = False) -> None:
        """Logs values of the best epoch so far, such as `val/loss`.

        Args:
            step: Train steps at the epoch's end.
            values: The values by name.
            again: Whether the run is resumed and has logged them before: they are in its files already.
        """

    @abc.abstractmethod
    def log_images(self, step: int, images: Mapping[str, bytes]) -> None:
        """Logs PNG images by tag, such as `validation/confusion`; loggers of numbers ignore them."""

    @abc.abstractmethod
    def log_text(self, step: int, name: str, text: str) -> None:
        """Logs a text in Markdown; loggers of numbers ignore it."""

    @abc.abstractmethod
    def log_diagnostics(self, step: int, values: Mapping[str, float]) -> None:
        """Logs values of the training by tag, such as `run/learning_rate`."""

    @abc.abstractmethod
    def log_measurements(self, step: int, values: Mapping[str, float]) -> None:
        """Logs values that depend on the machine and on when they were taken, such as `run/memory_gb`."""

    @abc.abstractmethod
    def log_histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        """Logs histograms by tag, such as `weights/dense/kernel`; loggers of numbers ignore them."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Makes all values so far visible to readers of the files."""

    @abc.abstractmethod
    def position(self) -> dict[str, int]:
        """Flushes, and returns the sizes in bytes of all files of the run so far, by their names in the directory."""

    @abc.abstractmethod
    def sync(self) -> None:
        """Fsyncs the flushed content; another thread may log meanwhile."""

    @abc.abstractmethod
    def close(self, failed: bool = False) -> None:
        """Flushes and closes the files; `failed` if the run ended in an error or diverged."""
