"""Recovery: handles a loss or a variable that is not finite.

alarm = recovery.watch()             # between two calls: checks and snapshots, at most 1 % of the time
stream = recovery.recover(alarm)     # finds the broken step, writes it to RUN/broken, restores the state before it
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import final

from lightkeras.engine.stream import Stream
from lightkeras.training.divergence.broken_step import write_bundle
from lightkeras.training.divergence.locate import LocatedStep, locate
from lightkeras.training.divergence.watchdog import Alarm, Position, Watchdog
from lightkeras.training.recorder import Recorder
from lightkeras.training.stepper import Stepper, bound_engine


@final
class Recovery:
    """Watches the variables of a run, and finds the step that broke it.

    Args:
        stepper: The train step over the train split; its `stream` is replaced where a batch is skipped.
        recorder: The recorder: its run state is set back to the broken step, and what was logged from there removed.
        folder: Folder of the broken steps, `RUN/broken`.
        source: Source of the run's data, see `DataModule.source`.
        skip_broken: Batches that may be skipped.
        clock: Returns monotonic time in seconds.

    Attributes:
        agreed: Result of `timing` of the process that writes, for a run of several; `None` decides by the clock.
    """

    def __init__(
        self,
        stepper: Stepper,
        recorder: Recorder,
        folder: Path,
        source: str,
        skip_broken: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task, self._stepper, self._state, self._recorder = stepper.task, stepper, recorder.state, recorder
        self._folder, self._source, self._skip_broken, self._clock = folder, source, skip_broken, clock
        self.agreed: tuple[bool, bool, bool] | None = None
        self.forget()

    def timing(self) -> tuple[bool, bool, bool]:
        """See `Watchdog.timing`."""
        return self._watchdog.timing()

    def forget(self) -> None:
        """Drops the snapshot: one taken before the steps were retraced does not fit them."""
        self._watchdog = Watchdog(self._task, bound_engine(self._task), self._clock)

    def check(self) -> Alarm | None:
        """Checks all variables now, before something depends on them."""
        return self._watchdog.check(self._state.step)

    def watch(self, epoch_begins: bool = False, takes: bool | None = None) -> Alarm | None:
        """Checks the variables and takes a snapshot, each if it is due; at an epoch's start, after its callbacks.

        `takes` decides whether to take a snapshot; `None` takes one if it is due.
        """
        before = self._watchdog.snapshot
        if epoch_begins and self._skip_broken:
            # The run may continue from this snapshot: it must not be from before a callback changed something, or
            # from before the order of the epoch was drawn.
            alarm = self.check()
            if alarm is None:
                self._keep_snapshot()
        else:
            alarm = self._watchdog.watch(*self._now(), epoch_begins, takes, self.agreed)
        if self._watchdog.snapshot is not before:
            self._recorder.mark()
        return alarm

    def follow(self) -> None:
        """Takes a snapshot inside an epoch, of a checked state that a checkpoint has just captured: they share it."""
        self._keep_snapshot()
        self._recorder.mark()

    def recover(self, alarm: Alarm) -> Stream | None:
        """Finds the broken step, writes it to `RUN/broken`, and restores the state before it.

        Returns:
            The batches after the broken one, if it may be skipped; `None` if the run has diverged.
        """
        snapshot, state = self._watchdog.snapshot, self._state
        if snapshot is None:
            raise RuntimeError("No snapshot was taken before the first step: watch() comes before it.")
        found = locate(self._task, self._stepper, snapshot, alarm, unwatched=self._watchdog.unwatched)
        kept = self._write(found)
        skips = found.repeated and found.broken.epoch == state.epochs + 1 and len(state.skipped) < self._skip_broken
        if not skips or found.stream is None:
            state.diverged, state.stop_reason = True, f"{found.broken}{kept}"
            self._stepper.close()
            return None
        state.skipped.append(found.broken.step)
        self._recorder.bar.print_line(
            f"{found.broken}{kept}. Its batch is skipped, {len(state.skipped)} of {self._skip_broken}."
        )
        self._recorder.log_again(found.broken.step, found.logs)
        state.step, state.batches_done = found.broken.step, found.broken.batch
        # Steps rerun from an earlier snapshot would reach the skipped batch and break there again.
        self._keep_snapshot()
        self._recorder.mark()
        return found.stream

    def _now(self) -> tuple[Position, Stream, dict[str, object], dict[str, object]]:
        if self._stepper.stream is None:
            raise RuntimeError("The train split is not open: watch() comes after the epoch has begun.")
        position = Position(self._state.step, self._state.epochs, self._state.batches_done)
        return position, self._stepper.stream, self._stepper.state(), self._stepper.random

    def _keep_snapshot(self) -> None:
        self._watchdog.take_snapshot(*self._now())

    def _write(self, found: LocatedStep) -> str:
        try:
            path = write_bundle(self._folder, self._task, found, seed=self._stepper.seed, source=self._source)
        except OSError as error:  # the divergence itself is what must be reported
            return f" ({error})"
        return f" (kept in {path})"
