"""What every logger does."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence


class Logger(abc.ABC):
    """Writes the values of a run. Steps and epochs are counted from 1: values after that many."""

    @abc.abstractmethod
    def open(self, names: Sequence[str], position: Mapping[str, int] | None = None, step: int = 0) -> None:
        """Called once, before anything else.

        Args:
            names: Every name that will be logged, such as `train/loss` and `val/accuracy`.
            position: What `position` gave when the run was saved that goes on now; it may name files of other
                loggers too. What was written after it is removed, and a file of this logger that it does not
                name is written anew. `None` begins a run: there is no file yet.
            step: Train steps done until then, over the whole run.

        Raises:
            FileExistsError: There is a file, and no position in it was given.
            ValueError: The file that is to be gone on with holds values of other names; nothing was changed.
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
    def log_validation(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Values of a validation inside an epoch.

        Args:
            epoch: The epoch it is inside of.
            step: Train steps done, over the whole run.
            values: The means over the validation split by name, such as `val/loss`.
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
    def log_images(self, step: int, images: Mapping[str, bytes]) -> None:
        """Pictures; a logger that cannot show them leaves them out.

        Args:
            step: Train steps done, over the whole run.
            images: PNG images by tag, such as `validation/confusion`.
        """

    @abc.abstractmethod
    def flush(self) -> None:
        """Makes everything so far visible to readers."""

    @abc.abstractmethod
    def position(self) -> dict[str, int]:
        """Makes everything so far visible to readers, and says where it ends.

        Returns:
            Sizes in bytes of all files of the run so far, by their names in the run directory.
        """

    @abc.abstractmethod
    def sync(self) -> None:
        """Waits until what is visible to readers is on the disk; another thread may go on logging meanwhile."""

    @abc.abstractmethod
    def close(self, failed: bool = False) -> None:
        """Flushes and lets go of the file.

        Args:
            failed: Whether the run ended in an error or diverged.
        """
