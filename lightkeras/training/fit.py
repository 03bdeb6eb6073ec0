"""Fit: the parts of one training run, and the work between two calls of the compiled step.

The loop is in `runner.py`. `RunState` holds the progress of the run; the recorder logs, the recovery handles NaN, the
checkpointer saves.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, final

from lightkeras import hparams
from lightkeras.engine.base import StepLogs
from lightkeras.engine.optimizer_state import finalize
from lightkeras.engine.stream import Stream
from lightkeras.runs.checkpoint import Checkpoint
from lightkeras.runs.directory import RunDirectory, search_of
from lightkeras.runs.loggers import Logger, Run
from lightkeras.runs.loggers.csv import CsvLogger
from lightkeras.runs.results import Best, FitResult
from lightkeras.system import display, random_states
from lightkeras.system.display import phase
from lightkeras.system.signals import StopSignals
from lightkeras.system.value_names import within
from lightkeras.training import decisions
from lightkeras.training.agreement import Agreement
from lightkeras.training.callbacks.bridge import CallbackBridge
from lightkeras.training.checkpointer import Checkpointer
from lightkeras.training.diagnostics import Diagnostics
from lightkeras.training.divergence.recovery import Recovery
from lightkeras.training.divergence.watchdog import Alarm
from lightkeras.training.freezing import TracedSteps
from lightkeras.training.media import Media
from lightkeras.training.pictures import Pictures, SplitPictures
from lightkeras.training.profiler import Profiler
from lightkeras.training.progress_bar import ProgressBar
from lightkeras.training.recorder import Recorder
from lightkeras.training.run_state import RunState
from lightkeras.training.saver import Saver
from lightkeras.training.settings import Settings
from lightkeras.training.space import state_bytes
from lightkeras.training.stepper import bound_engine
from lightkeras.training.timing import TimeLedger, counted
from lightkeras.training.tracing import check_monitor


@final
class Fit:
    """One training run.

    Args:
        settings: Settings of the runner.
        traced: The traced steps; the optimizers of their task are built.
        directory: The run directory.
        facts: Entries that `config.json` and `result.json` share.
        ledger: Counts the time.
        clock: Returns monotonic time in seconds.

    Raises:
        ValueError: No epoch logs the value that is monitored, or that ranks checkpoints.
    """

    def __init__(
        self,
        settings: Settings,
        traced: TracedSteps,
        directory: RunDirectory,
        facts: Mapping[str, Any],
        ledger: TimeLedger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.task = task = traced.task
        self.settings, self.traced, self.ledger = settings, traced, ledger
        self.facts, self.directory, self.world = facts, directory, bound_engine(task).world
        self.train_stepper, self.validation_steppers = traced.train_stepper, traced.validation_steppers
        self.clock, self.started = clock, clock()
        self.signals = StopSignals()
        self.monitor, mode = _monitor(settings, traced)
        steps = self.train_stepper.steps
        epochs = decisions.expected_epochs(settings.epoch_limit, settings.max_steps, steps)
        callbacks = [*settings.callbacks, *task.build_callbacks()]
        self.bridge = CallbackBridge(callbacks, task.model_of_callbacks(traced.optimizers[0][0]), epochs, steps)
        self.bridge.check_monitors(traced.names)
        self.bridge.check_rates()
        self.bridge.warn_of_patience(settings.patience, self.monitor)
        self.state = RunState(decisions.Patience(mode))
        limited = settings.epoch_limit is not None or settings.max_steps is not None  # and not by time alone
        bar = ProgressBar(epochs if limited else None, steps, display.current(), monitor=self.monitor)
        self.recorder = Recorder(traced.names, self.state, bar, ledger, keeps_rows=settings.skip_broken > 0)
        self.recovery = Recovery(
            self.train_stepper, self.recorder, directory.broken, str(facts["source"]), settings.skip_broken, clock
        )
        split = "validation" if self.validation_steppers else "train"
        drawn = next(iter(self.validation_steppers.values()), self.train_stepper)
        drawing = SplitPictures(task, drawn.feed, split, drawn.limit) if settings.pictures else None
        self.pictures = Pictures(drawing, directory, self.recorder, self.monitor)
        self.diagnostics = Diagnostics(traced, self.recorder, settings.log_gradients == "histogram", clock)
        self.profiler = Profiler(traced, self.recorder, directory, settings.profile)
        keep = settings.checkpoints
        keep_mode = keep.keep_mode or (decisions.infer_mode(keep.keep_by) if keep.keep_by else mode)
        saver = Saver(
            directory.checkpoints, keep, keep_mode, clock, state_bytes(task.variables()), self.world.is_writer
        )
        self.checkpointer = Checkpointer(traced, self.bridge, self.recorder, saver, keep.keep_by or self.monitor, clock)
        self.agreement = Agreement(
            self.world,
            self.signals,
            self.bridge,
            saver,
            self.recovery,
            lambda: clock() - self.started,
            self.train_stepper.calls,
        )

    @property
    def interrupted(self) -> str | None:
        """The signal that asked the run to stop; `None` if none did."""
        return self.agreement.signal

    @property
    def leaves_epoch(self) -> bool:
        """Whether a callback asked to stop inside an epoch.

        As in Keras's `fit`, at least one batch is trained, then the epoch ends with its validation and its hooks; also
        after a resume.
        """
        return bool(self.state.batches_done and self.agreement.asked_to_stop)

    # ------------------------------------------------------------------ begin and end

    @contextlib.contextmanager
    def opened(
        self, config: Mapping[str, Any], resumed: Checkpoint | None, restart: bool, until: ExitStack | None = None
    ) -> Iterator[None]:
        """Opens the loggers, shows the progress bar, and handles signals between two calls.

        `restart` is true if logs of a run without a checkpoint may exist: they are overwritten. The loggers of the user
        are closed by `until`.
        """
        run = _logged(self, config, resumed, restart)
        from lightkeras.runs.loggers.tensorboard import TensorBoardLogger  # loads TensorBoard's formats

        own: list[Logger] = [CsvLogger(), TensorBoardLogger()] if self.world.is_writer else []
        del resumed  # its arrays are as large as the state
        with ExitStack() as stack:
            stack.callback(self._leave_data)
            stack.callback(self.checkpointer.close)
            stack.enter_context(self.recorder.opened(own, run, self.settings.loggers, until))
            stack.enter_context(self.task.media_logged(Media(self.recorder, type(self.task).__name__)))
            stack.enter_context(self.signals)
            yield

    @counted("start")
    def begin(self, resumed: Checkpoint | None) -> None:
        """Calls the callbacks' `on_train_begin`, and restores the run state from a checkpoint if one is given."""
        self.profiler.begin()
        if resumed is None:
            with self.ledger.part("callbacks"):
                self.bridge.begin_train()
            self.agreement.update()
            return
        with phase("restoring the checkpoint"):
            self.checkpointer.restore(resumed)
        self.recorder.log_best(self.monitor, again=True)
        self.recorder.bar.resume_at(self.state.step)
        for name, attributes in self.bridge.not_saved().items():
            self.recorder.bar.print_line(f"{name}: {', '.join(attributes)} could not be saved, and are reset.")
        self.agreement.update()

    @counted("data")
    def open_epoch(self) -> Stream:
        """Opens the train split at the start of an epoch; inside a resumed epoch it is open already."""
        stepper = self.train_stepper
        if self.state.batches_done and stepper.stream is not None:
            return stepper.stream
        stepper.reset()
        with self.ledger.part("callbacks"):
            self.bridge.hooks.on_epoch_begin(self.state.epochs)
        self._notice_frozen()  # before the stream is opened, because it may use the trace
        stepper.random = random_states.read()
        stepper.feed.begin_pass()
        return stepper.begin(self.state.epochs)

    @counted("data")
    def close_epoch(self) -> None:
        """Ends the reading of the train split, and calls its own `on_epoch_end`: its last batch was trained on."""
        if not self.train_stepper.continues:
            self.train_stepper.close()
        self.train_stepper.feed.end_pass()

    def _leave_data(self) -> None:
        """Ends the reading of the train split where the run ends."""
        self.train_stepper.close()
        self.train_stepper.feed.end_pass(completed=False)

    def _notice_frozen(self) -> None:
        """Traces the steps again if layers were frozen or unfrozen."""
        change = self.traced.change()
        if change is None:
            return
        cause = f"{change} before epoch {self.state.epochs + 1}"
        with self.ledger.part("compilation"), phase("tracing the steps again"):
            self.traced.trace_anew(cause)
        self.recovery.forget()
        self.recorder.bar.print_line(
            f"{cause}: {self.traced.learning} variables learn now; the steps are traced again."
        )

    @counted("checkpoint")
    def finish(self) -> None:
        """Saves the final state, unless it is saved already or not finite, in the background."""
        with phase("saving the last checkpoint"):
            if not self.state.diverged and not self.checkpointer.is_saved:
                alarm = self.recovery.check()
                if alarm is None or self.recovery.recover(alarm) is not None:
                    self.checkpointer.save(always=True)
            self.recovery.forget()  # nothing can break any more: the memory of its snapshot is free

    @counted("callbacks")
    def end_train(self) -> None:
        """Finalizes the optimizers and calls the callbacks' `on_train_end`, as Keras does."""
        for optimizer, learned in self.traced.optimizers:
            finalize(optimizer, learned)
        self.bridge.end_train({name: values[-1] for name, values in self.state.history.items()})

    # ------------------------------------------------------------------ values

    def log_steps(self, logs: StepLogs, seconds: float) -> None:
        """Logs train steps that were counted, and took `seconds`, with the batch hooks of callbacks."""
        self.ledger.move(in_hooks := self.bridge.train_batches.take_seconds(), "compute", "callbacks")
        seconds -= in_hooks
        self.profiler.count_call(logs, seconds)
        self.recorder.log_steps(logs)
        self.checkpointer.forget_captured()
        with self.ledger.part("logging"):
            self.diagnostics.count(logs, seconds)
            self.recorder.bar.advance(self.state.epochs + 1, logs.steps, seconds, self.train_stepper.means())

    def add_validation(self, found: Mapping[str, float]) -> None:
        """Counts a validation of all sets and keeps its values, such as `val/loss`."""
        self.profiler.count_validation()
        self.state.validations += 1
        self.state.validated = (self.state.step, dict(found))

    def add_epoch(self, values: Mapping[str, float]) -> None:
        """Counts an epoch that has ended, and logs its values."""
        self.train_stepper.end_epoch(self.state.batches_done)
        self.state.epochs, self.state.batches_done = self.state.epochs + 1, 0
        self.recorder.log_epoch(values)
        with self.ledger.part("logging"):
            self.diagnostics.end_epoch()

    def values(self) -> dict[str, float]:
        """Means of the epoch so far, with the values of the validation if the current weights were validated."""
        values = {f"train/{name}": value for name, value in self.train_stepper.values().items()}
        validated = self.state.validated
        return values | (dict(validated[1]) if validated is not None and self.state.validated_now else {})

    def judge(self, epoch: int, values: Mapping[str, float]) -> bool:
        """Updates the patience counter and the best epoch; returns whether the monitored value improved.

        Without a best checkpoint every value counts as an improvement.
        """
        if self.monitor is None:
            return True
        state, value = self.state, values[self.monitor]
        improved = decisions.is_better(value, state.patience.best, state.patience.mode)
        state.patience = state.patience.after(value, self.settings.stopping.min_delta)
        state.not_finite = None if math.isfinite(value) else value
        if improved:
            state.best = Best(epoch, state.step, value, dict(values))
            self.recorder.log_best(self.monitor)
        return improved or self.checkpointer.best is None

    @counted("watch")
    def watch(self, epoch_begins: bool = False) -> Alarm | None:
        """Checks the variables if that is due; see `Recovery.watch`."""
        return self.recovery.watch(epoch_begins, self.checkpointer.takes_snapshot)

    def result(self) -> FitResult:
        """The result of the run."""
        state = self.state
        return FitResult(
            run_dir=self.directory.path,
            epochs=state.epochs,
            steps=state.step,
            stop_reason=state.stop_reason or f"{self.interrupted} received",
            monitor=self.monitor,
            best=state.best,
            history={name: tuple(values) for name, values in state.history.items()},
            wall_s=self.clock() - self.started,
            diverged=state.diverged,
            interrupted=self.interrupted,
            skipped=tuple(state.skipped),
        )


def _logged(fit: Fit, config: Mapping[str, Any], resumed: Checkpoint | None, restart: bool) -> Run:
    """The run, as its loggers see it."""
    position = None if resumed is None else resumed.state["logs"]
    return Run(
        directory=fit.directory.path,
        names=fit.recorder.names,
        position={} if position is None and restart else position,
        step=0 if resumed is None else resumed.state["step"],
        hparams=hparams.active(fit.task.hp),
        config=config,
        search=search_of(fit.directory.path),
    )


def _monitor(settings: Settings, traced: TracedSteps) -> tuple[str | None, str]:
    """The monitored value, `None` without one, and whether lower (`"min"`) or higher (`"max"`) is better."""
    names, held_out = traced.names, {within("val", name): found for name, found in traced.validation_steppers.items()}
    steppers = {"train": traced.train_stepper, **held_out}
    left_out = [f"{split}/{metric.name}" for split, found in steppers.items() for metric in found.left_out]
    losses = [f"{split}/loss" for split in (*held_out, "train")]
    monitor = settings.monitor or next((name for name in losses if name in names), None)
    if monitor is not None:
        check_monitor(monitor, names, left_out=left_out)
    elif settings.stopping.stop_at is not None:
        raise ValueError(
            f"Stopping(stop_at={settings.stopping.stop_at:g}): no value is monitored, because no loss is logged. Name "
            f"one of {', '.join(names)} as Runner(monitor=...)."
        )
    if settings.checkpoints.keep_by is not None:
        check_monitor(settings.checkpoints.keep_by, names, "Checkpoints.keep_by", left_out)
    return monitor, settings.mode or (decisions.infer_mode(monitor) if monitor is not None else "min")
