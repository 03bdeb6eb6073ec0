"""What every logger does."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence


class Logger(abc.ABC):
    """Writes the values of a run. Steps and epochs are counted from 1: values after that many."""

    @abc.abstractmethod
    def open(self, names: Sequence[str]) -> None:
        """Called once, before anything else.

        Args:
            names: Every name that will be logged, such as `train/loss` and `val/accuracy`.
        """

    @abc.abstractmethod
    def log_steps(self, epoch: int, first_step: int, values: Mapping[str, Sequence[float]]) -> None:
        """Values of consecutive train steps.

        Args:
            epoch: The epoch they belong to.
            first_step: Number of the first of them, over the whole run.
            values: One value per step, by name.
        """

    @abc.abstractmethod
    def log_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Values of a finished epoch.

        Args:
            epoch: The epoch.
            step: Train steps done, over the whole run.
            values: The epoch's values by name.
        """

    @abc.abstractmethod
    def flush(self) -> None:
        """Makes everything so far visible to readers."""

    @abc.abstractmethod
    def close(self, failed: bool = False) -> None:
        """Flushes and lets go of the file.

        Args:
            failed: Whether the run ended in an error or diverged.
        """
