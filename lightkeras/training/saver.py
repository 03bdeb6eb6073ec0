"""Saver: selects the checkpoints to keep, and writes them in a background thread.

The loop copies the values; the thread encodes them, computes checksums and waits for the disk. It writes one checkpoint
at a time, in order, so that the best epoch that `last` refers to is on the disk. A best epoch before the next
checkpoint is due waits in memory: a run that is killed before reaches the same epoch again, with the same bits.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from lightkeras.runs import checkpoint
from lightkeras.runs.checkpoint import Captured
from lightkeras.system.messages import check_whole
from lightkeras.training import decisions


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """When a run is saved, and which checkpoints are kept. `last`, the one before it, and `best` are always kept.

    Without any `every_...`, a run is saved after each epoch and every ten minutes, as long as saving takes at most
    2 % of its time.

    Args:
        every_steps: Train steps between checkpoints; `None` for no such period.
        every_minutes: Minutes between checkpoints; `None` for no such period.
        every_epochs: Epochs between checkpoints; `None` for no such period.
        keep: Number of best checkpoints to keep, ranked by `keep_by`.
        keep_by: Name of the epoch value that ranks checkpoints; `None` for the monitored value.
        keep_mode: Whether lower (`"min"`) or higher (`"max"`) is better; `None` infers it from the name.

    Raises:
        ValueError: A setting is out of its range.

    Examples:
        ```python
        import lightkeras as lk

        checkpoints = lk.Checkpoints(every_epochs=1, keep=2, keep_by="val/accuracy")  # and the last ones
        result = lk.Runner(max_epochs=3, checkpoints=checkpoints).fit(lk.testing.TwoMoons())
        print(sorted(path.name for path in (result.run_dir / "checkpoints").iterdir()))
        ```
    """

    every_steps: int | None = None
    every_minutes: float | None = None
    every_epochs: int | None = None
    keep: int = 1
    keep_by: str | None = None
    keep_mode: str | None = None

    def __post_init__(self) -> None:
        for name in ("every_steps", "every_epochs", "keep"):
            check_whole("Checkpoints", name, getattr(self, name), 1, optional=name != "keep")
        if self.every_minutes is not None and not 0 < self.every_minutes < float("inf"):
            raise ValueError(f"Checkpoints(every_minutes={self.every_minutes!r}): expected a number above 0.")
        if self.keep_mode not in (None, "min", "max"):
            raise ValueError(f"Checkpoints(keep_mode={self.keep_mode!r}): expected 'min', 'max' or None.")

    @property
    def automatic(self) -> bool:
        """Whether the cost of saving limits how often the run is saved."""
        return self.every_steps is None and self.every_minutes is None and self.every_epochs is None


@dataclasses.dataclass(frozen=True)
class Job:
    """A checkpoint to write. Its contents must not change.

    Args:
        name: Name of its folder.
        step: Train steps done.
        captured: Values of the variables.
        state: The rest of the run state.
        extra: Contents of further files by name.
        sync: Waits until the logs that it refers to are on the disk.
        saved: Called when it is on the disk.
    """

    name: str
    step: int
    captured: Captured
    state: Mapping[str, Any]
    extra: Mapping[str, bytes]
    sync: Callable[[], None]
    saved: Callable[[], None] = lambda: None


@final
class Saver:
    """The checkpoints of one run.

    Args:
        folder: The `checkpoints` folder.
        settings: When to save, and which checkpoints to keep.
        mode: `"min"` or `"max"`, of the value that ranks checkpoints.
        clock: Returns monotonic time in seconds.
        state_bytes: Size of a checkpoint in bytes, by which the cost of the first is estimated.
        writes: Whether anything is written; if not, it decides what one that writes decides.

    Attributes:
        agreed: Result of `timing` of the process that writes, for a run of several; `None` decides by the clock.
    """

    def __init__(
        self,
        folder: Path,
        settings: Checkpoints,
        mode: str,
        clock: Callable[[], float] = time.monotonic,
        state_bytes: int = 0,
        writes: bool = True,
    ) -> None:
        self._folder, self._settings, self._mode, self._clock = folder, settings, mode, clock
        self._started = self._saved_at = clock()
        self._spent, self._cost = 0.0, decisions.first_cost(state_bytes)  # seconds of all so far, and of the last
        self._is_large = self._cost > 0
        self._writes = writes
        self.agreed: tuple[bool, bool, bool] | None = None
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._writing: concurrent.futures.Future[float] | None = None
        self._waiting: Job | None = None
        self._names: set[str] = set()  # used in this process; some are pruned, or wait in memory
        self._previous: set[str] = set()  # the checkpoint before `last`, and those it refers to
        self.last: str | None = None
        self.last_step: int | None = None
        self.best: str | None = None
        self.top: list[tuple[float, str]] = []

    @property
    def spent(self) -> float:
        """Seconds spent on checkpoints so far, in the loop and in the background."""
        return self._spent

    @property
    def holds_large(self) -> bool:
        """Whether a large state is held, which waits in memory or is being written."""
        return self._holds_large() if self.agreed is None else self.agreed[2]

    def _holds_large(self) -> bool:
        writing = self._writing is not None and not self._writing.done()
        return self._is_large and (writing or self._waiting is not None)

    def restore(self, last: str, state: Mapping[str, Any]) -> None:
        """Resumes from a checkpoint: resets `best` and `last` to it, and removes later checkpoints."""
        self.last, self.last_step = last, state["step"]
        self.best = state["kept"]["best"]
        self.top = [(value, name) for value, name in state["kept"]["top"]]
        self._previous = {last, *self.kept()}
        if not self._writes:
            return
        if self.best is None:
            (self._folder / "best").unlink(missing_ok=True)
        else:
            checkpoint.point(self._folder, "best", self._folder / self.best)
        checkpoint.point(self._folder, "last", self._folder / last)
        # Earlier checkpoints stay in case this one gets damaged; the logs of later ones are cut off.
        paths = checkpoint.newest_first(self._folder)
        earlier = {path.name for path in paths if checkpoint.numbers(path) < checkpoint.numbers(self._folder / last)}
        checkpoint.prune(self._folder, self._previous | earlier)

    def kept(self) -> set[str]:
        """Names of the best checkpoints."""
        return {name for _, name in self.top} | ({self.best} - {None})  # type: ignore[operator]

    def record(self) -> dict[str, Any]:
        """References of a checkpoint to others, as JSON values."""
        return {"best": self.best, "top": [list(item) for item in self.top]}

    def is_due(self, step: int, epoch_ended: int | None) -> bool:
        """Whether to save now.

        Args:
            step: Train steps done.
            epoch_ended: Number of the epoch that has just ended, from 1; `None` inside an epoch.
        """
        is_old, can_afford, _ = self.timing() if self.agreed is None else self.agreed
        if self._settings.automatic:
            return (epoch_ended is not None or is_old) and can_afford
        return (
            decisions.is_multiple(step, self._settings.every_steps)
            or (epoch_ended is not None and decisions.is_multiple(epoch_ended, self._settings.every_epochs))
            or is_old
        )

    def timing(self) -> tuple[bool, bool, bool]:
        """What depends on the clock: whether the last checkpoint is old, whether another one is affordable, and whether
        a large one is held."""
        now, minutes = self._clock(), self._settings.every_minutes
        limit = decisions.MAX_SECONDS_UNSAVED if self._settings.automatic else 60 * (minutes or float("inf"))
        can_afford = decisions.can_afford(self._spent, self._cost, now - self._started)
        return now - self._saved_at >= limit, can_afford, self._holds_large()

    def is_among_best(self, value: float | None) -> bool:
        """Whether a checkpoint with this value would be kept; false for `None`."""
        return value is not None and (
            len(self.top) < self._settings.keep or decisions.is_better(value, self._worst()[0], self._mode)
        )

    def rank(self, name: str, improved: bool, value: float | None) -> None:
        """Updates the best checkpoints with one that is written or held next; a `value` of `None` is not ranked."""
        if improved:
            self.best = name
        if value is not None and self.is_among_best(value):
            self.top.append((value, name))
            if len(self.top) > self._settings.keep:
                self.top.remove(self._worst())

    def new_name(self, step: int) -> str:
        """Returns an unused name for a checkpoint."""
        name = checkpoint.free_name(self._folder, step, self._names)
        self._names.add(name)
        return name

    def hold(self, job: Job) -> None:
        """Keeps one of the best checkpoints in memory, until the next one is written or replaces it."""
        self._flush()
        self._waiting = job

    def write_held(self) -> bool:
        """Writes the checkpoint that is held in memory as `last`. Returns whether there is one."""
        job, self._waiting = self._waiting, None
        if job is None or job.name not in self.kept():
            return False
        self.write(job)
        return True

    def write(self, job: Job) -> None:
        """Writes a checkpoint as `last`, in the background.

        Raises:
            OSError: An earlier checkpoint could not be written.
        """
        self._flush()
        names = {job.name, *self.kept()}
        self._submit(job, self.best, names | self._previous)
        self._previous, self.last, self.last_step = names, job.name, job.step
        self._saved_at = self._clock()
        if self.agreed is not None:  # until the next exchange
            self.agreed = (False, *self.agreed[1:])

    def add_cost(self, seconds: float) -> None:
        """Adds time that the loop spent on a checkpoint, in seconds."""
        self._spent += seconds

    def finish(self, best: Job | None = None) -> None:
        """Writes the checkpoint held in memory, and waits for the disk.

        Args:
            best: A checkpoint that becomes `best` and not `last`; no other one is removed. `None` for none.

        Raises:
            OSError: A checkpoint could not be written.
        """
        self._flush()
        if best is not None:
            self._submit(best, best.name, None)
        self._join()

    def close(self) -> None:
        """Ends the thread, after its last checkpoint."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting.name in self.kept():
            self._submit(waiting, waiting.name if waiting.name == self.best else None, None)

    def _submit(self, job: Job, best: str | None, kept: set[str] | None) -> None:
        if not self._writes:
            return
        self._join()
        if self._thread is None:
            self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="lightkeras-checkpoint")
        self._writing = self._thread.submit(self._write, job, best, kept)

    def _join(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            self._cost = writing.result()
            self._spent += self._cost

    def _write(self, job: Job, best: str | None, kept: set[str] | None) -> float:
        """Writes a checkpoint, then updates `best` and `last`, then removes checkpoints that nothing refers to."""
        began = self._clock()
        job.sync()
        path = self._folder / job.name
        checkpoint.save(path, job.step, job.captured, job.state, job.extra)
        if best is not None:
            checkpoint.point(self._folder, "best", self._folder / best)
        if kept is not None:
            checkpoint.point(self._folder, "last", path)
            job.saved()
            checkpoint.prune(self._folder, kept)
        return self._clock() - began

    def _worst(self) -> tuple[float, str]:
        choose = max if self._mode == "min" else min
        return choose(self.top, key=lambda item: item[0])
