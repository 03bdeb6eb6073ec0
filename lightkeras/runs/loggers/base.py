"""The interface of loggers."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightkeras.runs.loggers.histogram import Histogram


@dataclasses.dataclass(frozen=True)
class Run:
    """The run that a logger writes.

    Args:
        directory: The run directory, which exists and is locked.
        names: Every name that steps, validations and epochs log, such as `train/loss` and `val/accuracy`.
        position: What `Logger.position` returned when the checkpoint to resume from was saved, for all loggers of the
            run together. It is empty if the run starts again because it has no checkpoint, so files of a logger may
            exist that it does not name. `None` starts a run, which has no files yet.
        step: Train steps done before, over the whole run.
        hparams: The hyperparameters that take effect, by name.
        config: The configuration, as `config.json` records it: plain data.
        search: Directory of the search that the run is a part of; `None` for a run by itself.

    Examples:
        >>> run = Run(Path("runs/moons"), names=["train/loss", "val/loss"], hparams={"units": 64})
        >>> run.name, run.position is None  # a new run
        ('moons', True)
    """

    directory: Path
    names: Sequence[str] = ()
    position: Mapping[str, int] | None = None
    step: int = 0
    hparams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    search: Path | None = None

    @property
    def name(self) -> str:
        """A name for people: the last folder of the directory, in a search with the folder of its trials."""
        return "/".join(self.directory.absolute().parts[-2 if self.search else -1 :])


class Logger(abc.ABC):
    """Writes the values of a run to one place. Steps and epochs are counted from 1.

    A logger of its own extends this class and is given to `Runner(loggers=[...])`. The constructor takes the logger's
    own settings; everything about the run comes with `open`. Methods that a logger does not need may be left out,
    except for the abstract ones. They are called between two compiled calls of train steps, so they should be fast:
    collect values, and write many at a time.

    An error that `open` raises before the first step ends the run. Any other error is warned of once and listed in
    `result.json` and the report; the logger is not called again, and training continues.

    Examples:
        ```python
        import lightkeras as lk


        class Printed(lk.loggers.Logger):
            def open(self, run):
                print("Values of", run.name)

            def log_steps(self, epoch, first_step, values):
                pass

            def log_epoch(self, epoch, step, values):
                print(epoch, step, values)

            def close(self, failed=False):
                pass


        lk.Runner(max_epochs=2, loggers=[Printed()]).fit(lk.testing.TwoMoons())
        ```
    """

    def __str__(self) -> str:
        return type(self).__name__

    @abc.abstractmethod
    def open(self, run: Run) -> None:
        """Opens the logger; called before the other methods.

        Args:
            run: The run. Content after `run.position` is to be removed, so that every value is logged once.

        Raises:
            FileExistsError: A file exists, and `run.position` is `None`.
            ValueError: The file of the run to resume has values of other names; nothing was changed.
        """

    @abc.abstractmethod
    def log_steps(self, epoch: int, first_step: int, values: Mapping[str, Sequence[float]]) -> None:
        """Logs values of consecutive train steps.

        Args:
            epoch: Number of the epoch.
            first_step: Number of the first of the steps, over the whole run.
            values: One float for each step, by name.
        """

    @abc.abstractmethod
    def log_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Logs the means of a finished epoch, such as `train/loss` and `val/loss`; `step` counts over the whole run."""

    @abc.abstractmethod
    def close(self, failed: bool = False) -> None:
        """Ends the logging; `failed` if the run ended in an error or diverged."""

    # The methods from here on may be left out.

    def rewind(self, run: Run) -> None:
        """Removes what was logged after `run.position`, because a batch is skipped (`Runner(skip_broken=...)`)."""
        self.close()
        self.open(run)

    def log_validation(self, epoch: int, step: int, values: Mapping[str, float]) -> None:  # noqa: B027
        """Logs the means of a validation inside an epoch, such as `val/loss`; `step` counts over the whole run."""

    def log_best(self, step: int, values: Mapping[str, float], again: bool = False) -> None:  # noqa: B027
        """Logs values of the best epoch so far, such as `val/loss`.

        Args:
            step: Train steps at the epoch's end.
            values: The values by name.
            again: Whether the run is resumed and has logged them before.
        """

    def log_images(self, step: int, images: Mapping[str, bytes]) -> None:  # noqa: B027
        """Logs PNG images by tag, such as `validation/confusion`: the figures of the task."""

    def log_text(self, step: int, name: str, text: str) -> None:  # noqa: B027
        """Logs a text in Markdown."""

    def log_diagnostics(self, step: int, values: Mapping[str, float]) -> None:  # noqa: B027
        """Logs values of the training by tag, such as `run/learning_rate`."""

    def log_measurements(self, step: int, values: Mapping[str, float]) -> None:  # noqa: B027
        """Logs values that depend on the machine and on when they were taken, such as `run/memory_gb`."""

    def log_histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:  # noqa: B027
        """Logs histograms by tag, such as `weights/dense/kernel`."""

    def log_artifacts(self, paths: Sequence[Path]) -> None:  # noqa: B027
        """Logs files and folders that the finished run has written: `model.keras`, `result.json`, `figures`, ..."""

    def flush(self) -> None:  # noqa: B027
        """Makes all values so far visible to readers of the files."""

    def position(self) -> dict[str, int]:
        """Flushes, and returns where a resume continues: sizes in bytes of the logger's files, by name.

        A checkpoint records it, and `open` gets it back. Names are those of files in the run directory, so that no two
        loggers have the same.
        """
        return {}

    def checksums(self) -> dict[str, int]:
        """CRC-32C of the content up to `position`, by name of the file; of files that do not hold checksums."""
        return {}

    def sync(self) -> None:  # noqa: B027
        """Fsyncs the flushed content, before a checkpoint that records its position; called by another thread."""

    def saved(self, position: Mapping[str, int]) -> None:  # noqa: B027
        """Called when a checkpoint with this position is on the disk, by another thread: a resume keeps what is before
        the position."""
