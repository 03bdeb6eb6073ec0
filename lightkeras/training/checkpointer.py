"""Checkpointer: saves the run state when it is due, and restores it from a checkpoint."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, final

import safetensors.numpy

from lightkeras.runs import checkpoint
from lightkeras.runs.checkpoint import Checkpoint
from lightkeras.system import random_states
from lightkeras.system.variables import check_values, write_variables
from lightkeras.training import freezing
from lightkeras.training.callbacks.bridge import CallbackBridge
from lightkeras.training.freezing import TracedSteps
from lightkeras.training.recorder import Recorder
from lightkeras.training.saver import Job, Saver
from lightkeras.training.stepper import bound_engine
from lightkeras.training.timing import counted

FEED, CALLBACKS = "feed.bin", "callbacks.safetensors"  # files of a checkpoint


@final
class Checkpointer:
    """Saves and restores the state of a run; the value `counts_by`, if any, ranks the checkpoints."""

    def __init__(
        self,
        traced: TracedSteps,
        bridge: CallbackBridge,
        recorder: Recorder,
        saver: Saver,
        counts_by: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task, self._traced, self._bridge = traced.task, traced, bridge
        self._recorder, self._saver, self._counts_by, self._clock = recorder, saver, counts_by, clock
        self._state, self.ledger = recorder.state, recorder.ledger
        self._saved: tuple[int, int, int] | None = None  # position of the last checkpoint
        self._held: tuple[int, int, int] | None = None  # position of the last one that was held in memory
        self._captured: dict[str, Job] = {}  # since the last step

    @property
    def is_saved(self) -> bool:
        """Whether the last checkpoint holds the current state."""
        return self._saved == self._state.position

    @property
    def best(self) -> str | None:
        """Name of the best checkpoint so far; `None` before the first."""
        return self._saver.best

    @property
    def is_captured(self) -> bool:
        """Whether a checkpoint was captured after the last step."""
        return bool(self._captured)

    @property
    def takes_snapshot(self) -> bool | None:
        """Whether to take a snapshot of the state too, so that only one copy of it is held; `None` if it may be.

        One of the state that was just captured shares its values. While another large one waits or is written, a
        snapshot would be a second copy.
        """
        return True if self.is_captured else False if self._saver.holds_large else None

    @property
    def captured_best(self) -> Job | None:
        """The best checkpoint, if it was captured after the last step."""
        return self._captured.get(self._saver.best or "")

    def forget_captured(self) -> None:
        """Forgets what was captured before the steps that have just run: its memory is free once it is written."""
        self._captured.clear()

    def is_due(self) -> bool:
        """Whether a checkpoint is due inside an epoch."""
        return self._saver.is_due(self._state.step, None)

    def check(self, resumed: Checkpoint) -> None:
        """Checks that `restore` would accept a checkpoint, and changes nothing.

        Raises:
            CheckpointError: The checkpoint does not fit the task.
        """
        task, frozen = self._task, resumed.state.get("frozen")
        before = freezing.record(task, freezing.flags_of(task))
        differs = frozen is not None and _differs(before, frozen)
        held = bound_engine(task).hold(task.variables()) if differs else None
        try:
            if held is not None:
                freezing.restore(task, frozen)
            with checkpoint.naming(resumed.path):
                check_values(task.variables(), resumed.arrays)
        finally:
            if held is not None:
                freezing.restore(task, before)
                write_variables(task.variables(), held.arrays)

    def restore(self, resumed: Checkpoint) -> None:
        """Restores the run state, and calls the callbacks' hooks that begin training and, inside an epoch, the epoch.

        Raises:
            CheckpointError: The checkpoint does not fit the task.
        """
        saved, state, stepper = resumed.state, self._state, self._traced.train_stepper
        with checkpoint.decoding(resumed.path):
            state.restore(saved)
            extra = resumed.extra.get(CALLBACKS)
            arrays = {} if extra is None else checkpoint.arrays_of(extra, resumed.path / CALLBACKS)
        # The hooks come first: the checkpoint overwrites their changes to the variables.
        with checkpoint.naming(resumed.path):
            self._bridge.begin_train((saved["callbacks"], arrays), state.epochs if state.batches_done else None)
        frozen = saved.get("frozen")
        # The hooks may have set flags that the steps were not traced with, and that the checkpoint sets too.
        if freezing.restore(self._task, frozen) or self._traced.change() is not None:
            with self.ledger.part("compilation"):
                self._traced.trace_anew("the layers that were frozen when the run was saved")
        write_variables(self._task.variables(), resumed.arrays)
        if frozen is not None:  # the next epoch notices flags that a callback set since the steps were traced
            freezing.set_flags(self._task, freezing.flags_from(frozen["now"]))
        self._saver.restore(resumed.path.name, saved)
        self._saved = state.position
        stepper.skip_epochs(state.epochs, saved["means"])
        drawn = state.opened_to_draw  # of the first set alone
        for number, held_out in enumerate(self._traced.validation_steppers.values()):
            held_out.skip_epochs(state.validations + (0 if number else drawn))
        stepper.random = saved["random"]
        with checkpoint.decoding(resumed.path):
            random_states.write(stepper.random)
        if state.batches_done or (stepper.continues and "continued" in saved["means"]):
            begun = state.batches_done > 0
            if begun:
                stepper.feed.begin_pass()
            feed = resumed.extra.get(FEED)
            stepper.resume(state.epochs, state.batches_done, saved["means"], feed, begun)

    @counted("checkpoint")
    def save(
        self,
        *,
        improved: bool = False,
        values: Mapping[str, float] | None = None,
        epoch_ended: int | None = None,
        always: bool = False,
    ) -> None:
        """Saves the run state if a checkpoint is due, or if it is among the best.

        Args:
            improved: Whether it is the best so far.
            values: Epoch values by name, one of which ranks the checkpoint; `None` leaves it out of the ranking.
            epoch_ended: Number of the epoch that has just ended, from 1; `None` inside an epoch.
            always: Whether to save although no checkpoint is due.
        """
        value = (values or {}).get(self._counts_by or "")
        due = always or self._saver.is_due(self._state.step, epoch_ended)
        if not (due or improved or self._saver.is_among_best(value)):
            return
        if always and self._held == self._state.position and self._saver.write_held():  # the best is the last
            self._saved = self._held
            return
        began = self._clock()
        job = self._job(improved, value)
        self._saver.add_cost(self._clock() - began)
        if due:
            self._saver.write(job)
            self._saved = self._state.position
        else:
            self._saver.hold(job)
            self._held = self._state.position

    @counted("checkpoint")
    def save_best(self, values: Mapping[str, float]) -> None:
        """Saves the weights as the best, without changing the state that a resume continues from."""
        self._saver.finish(best=self._job(True, values.get(self._counts_by or ""), beside=True))

    def finish(self) -> None:
        """Waits until all checkpoints are on the disk.

        Raises:
            OSError: One could not be written.
        """
        self._saver.finish()

    def close(self) -> None:
        """Ends the thread that writes, after its last checkpoint."""
        self._saver.close()

    def _job(self, improved: bool, value: float | None, beside: bool = False) -> Job:
        """A copy of the run state; `beside` if a resume must not continue from it."""
        stepper, inside = self._traced.train_stepper, self._state.batches_done > 0
        name = self._saver.new_name(self._state.step)
        self._saver.rank(name, improved, value)
        records, arrays = self._bridge.state()
        state = {
            **self._state.to_json(),
            "means": stepper.state(),
            "random": stepper.random if inside else random_states.read(),
            "logs": self._recorder.positions(),
            "checksums": self._recorder.checksums(),
            "callbacks": records,
            "kept": self._saver.record(),
            "frozen": self._traced.record(),
            "beside": beside,
        }
        feed = stepper.stream.state() if stepper.stream is not None else None
        extra = {} if feed is None else {FEED: feed}
        extra |= {CALLBACKS: safetensors.numpy.save(arrays)} if arrays else {}
        captured = checkpoint.capture(bound_engine(self._task).hold(self._task.variables()))
        saved = functools.partial(self._recorder.saved, state["logs"])
        job = self._captured[name] = Job(name, self._state.step, captured, state, extra, self._recorder.sync, saved)
        return job


def _differs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return any(one[name] != other.get(name) for name in ("layers", "variables", "optimizers"))
