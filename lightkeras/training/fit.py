"""One fit: its parts, what it has reached, and what it writes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import safetensors.numpy

from lightkeras import hparams
from lightkeras.encoders.base import JoinError
from lightkeras.engine.base import Engine, StepLogs, Stream
from lightkeras.engine.optimizer_state import finalize
from lightkeras.runs import checkpoint
from lightkeras.runs.checkpoint import Checkpoint
from lightkeras.runs.directory import RunDirectory
from lightkeras.runs.loggers import CsvLogger, Logger, TensorBoardLogger, write_images
from lightkeras.runs.results import Best, FitResult
from lightkeras.system import files, random_states
from lightkeras.system.signals import StopSignals
from lightkeras.system.variables import CheckpointError, read_variables, write_variables
from lightkeras.task import Task
from lightkeras.training import decisions, freezing
from lightkeras.training.callbacks import CallbackBridge
from lightkeras.training.divergence.broken_step import write_bundle
from lightkeras.training.divergence.locate import Located, locate
from lightkeras.training.divergence.watchdog import Alarm, Position, Snapshot, Watchdog
from lightkeras.training.export import export_model
from lightkeras.training.pictures import Drawing, has_pictures, tagged, write_pictures, write_report
from lightkeras.training.progress_bar import ProgressBar
from lightkeras.training.saver import Checkpoints, Job, Saver
from lightkeras.training.stepper import Stepper
from lightkeras.training.timing import TimeLedger, counted

FEED, CALLBACKS = "feed.bin", "callbacks.safetensors"  # files of a checkpoint


@dataclasses.dataclass
class Fit:
    """One fit. What it decides, it decides by `schedule`; what it writes, it writes by the loggers and the saver."""

    task: Task
    train_stepper: Stepper
    validation_stepper: Stepper | None
    names: list[str]
    monitor: str | None
    progress: decisions.Patience
    optimizers: list[tuple[keras.optimizers.Optimizer, list[keras.Variable]]]
    bridge: CallbackBridge
    directory: RunDirectory
    facts: dict[str, Any]
    bar: ProgressBar
    engine: Engine
    drawing: Drawing | None = None  # `None` draws nothing
    seed: int = 0
    skip_broken: int = 0
    checkpoints: Checkpoints = dataclasses.field(default_factory=Checkpoints)
    clock: Callable[[], float] = time.monotonic
    ledger: TimeLedger = dataclasses.field(default_factory=TimeLedger)
    traces: bool = False  # whether the backend traces one call

    step: int = 0  # train steps done
    steps_here: int = 0  # of them, those done in this process
    epochs: int = 0  # epochs finished
    done: int = 0  # batches done of the epoch that goes on
    validations: int = 0
    validated: tuple[int, Mapping[str, float]] | None = None  # step and values of the last validation
    best: Best | None = None
    stop_reason: str | None = None
    diverged: bool = False
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    skipped: list[int] = dataclasses.field(default_factory=list)  # steps whose batch was skipped
    drawn: list[int] = dataclasses.field(default_factory=list)  # steps at which pictures were logged
    signals: StopSignals = dataclasses.field(default_factory=StopSignals)

    def __post_init__(self) -> None:
        self.started = self.clock()
        self.watchdog = Watchdog(self.task, self.engine, self.clock)
        self._loggers: list[Logger] = []
        self._stream: Stream | None = None  # the batches that come next
        self._marked: dict[str, int] = {}  # where the logs were at the last mark, and what was logged since
        self._since_mark: list[tuple[int, int, dict[str, list[float]]]] = []
        self._random: dict[str, Any] = {}  # the global generators when the epoch began
        self._saved: tuple[int, int, int] | None = None  # where the last checkpoint was taken
        self._opened_to_draw = 0  # streams of the validation split, over the whole run
        self._calls, self._compiled = 0, len(self.train_stepper.compiled)
        self._compiled_to_watch = 0 if self.validation_stepper is None else len(self.validation_stepper.compiled)
        self._flags = freezing.flags_of(self.task)  # what the steps were traced with
        mode = self.checkpoints.keep_mode
        if mode is None:
            mode = decisions.infer_mode(self.checkpoints.keep_by) if self.checkpoints.keep_by else self.progress.mode
        self.saver = Saver(self.directory.checkpoints, self.checkpoints, mode, self.clock)

    @property
    def state_bytes(self) -> int:
        """Size of the run state."""
        return sum(math.prod(v.shape) * 4 for v in self.task.variables().values())

    @property
    def interrupted(self) -> str | None:
        """The signal that asked the run to stop; `None` if none did."""
        return self.signals.received

    @property
    def validated_now(self) -> bool:
        """Whether the weights as they are were validated."""
        return self.validated is not None and self.validated[0] == self.step

    @property
    def leaves_epoch(self) -> bool:
        """Whether a callback asked to stop inside an epoch. As in Keras's `fit`, the epoch ends after its first batch
        or later, with its validation and its hooks; also after a resume."""
        return bool(self.done and self.bridge.asked_to_stop)

    # ------------------------------------------------------------------ begin and end

    @contextlib.contextmanager
    def opened(self, config: Mapping[str, Any], resumed: Checkpoint | None, restart: bool) -> Iterator[None]:
        """With the loggers open, the bar shown, and signals answered between two calls.

        Args:
            config: The configuration.
            resumed: The checkpoint to go on from; `None` begins.
            restart: Whether logs of a run that left no checkpoint may be there, to be written anew.
        """
        position = None if resumed is None else resumed.state["logs"]
        position = {} if position is None and restart else position
        with contextlib.ExitStack() as stack:
            stack.callback(self.saver.close)
            for logger in (
                CsvLogger(self.directory.metrics_file),
                TensorBoardLogger(self.directory.path, self._meant(), config),
            ):
                stack.push(functools.partial(self._close, logger))
                with self.ledger.part("logging"):
                    logger.open(self.names, position, 0 if resumed is None else resumed.state["step"])
                self._loggers.append(logger)
            stack.enter_context(self.bar)
            stack.enter_context(self.signals)
            yield

    @counted("start")
    def begin(self, resumed: Checkpoint | None) -> None:
        """Tells the callbacks that training begins, and goes on from a checkpoint if there is one."""
        if resumed is None:
            with self.ledger.part("callbacks"):
                self.bridge.begin_train()
            return
        state = resumed.state
        arrays = safetensors.numpy.load(resumed.extra[CALLBACKS]) if CALLBACKS in resumed.extra else {}
        # The hooks come first: whatever they do to the variables is undone by those of the checkpoint.
        self.bridge.begin_train((state["callbacks"], arrays), state["epochs"] if state["done"] else None)
        frozen = state.get("frozen")
        if freezing.restore(self.task, frozen):
            self._trace_anew("what was frozen when the run was saved")
        write_variables(self.task.variables(), resumed.arrays)
        if frozen is not None:  # what a callback set since the steps were traced is noticed as it would have been
            freezing.set_flags(self.task, freezing.flags_from(frozen["now"]))
        self.step, self.epochs, self.done = state["step"], state["epochs"], state["done"]
        self.validations, self.skipped = state["validations"], list(state["skipped"])
        self.drawn, self._opened_to_draw = list(state["drawn"]), state["opened_to_draw"]
        self.validated = None if state["validated"] is None else (state["validated"][0], state["validated"][1])
        self.best = None if state["best"] is None else Best(**state["best"])
        self.progress = decisions.Patience(**state["progress"])
        self.history = {name: list(values) for name, values in state["history"].items()}
        self.saver.restore(resumed.path.name, state)
        self._saved = self._position()
        self.train_stepper.skip_epochs(self.epochs)
        if self.validation_stepper is not None:
            self.validation_stepper.skip_epochs(self.validations + state["opened_to_draw"])
        self._random = state["random"]
        random_states.write(self._random)
        if self.done:
            feed = resumed.extra.get(FEED)
            self._stream = self.train_stepper.go_on(self.epochs, self.done, self.seed, state["means"], feed)
        self.bar.go_on(self.step)
        for name, attributes in self.bridge.not_saved().items():
            self.bar.say(f"{name}: {', '.join(attributes)} could not be saved, and begin anew.")

    @counted("data")
    def open_epoch(self) -> Stream:
        """The stream of the epoch that begins, or goes on after a resume."""
        if self.done and self._stream is not None:
            return self._stream
        self.train_stepper.reset()
        with self.ledger.part("callbacks"):
            self.bridge.hooks.on_epoch_begin(self.epochs)
        self._notice_frozen()  # before the stream: what it computes ahead belongs to the trace
        self._random = random_states.read()
        stream = self._stream = self.train_stepper.begin(self.epochs, self.seed)
        return stream

    def _notice_frozen(self) -> None:
        """Traces the steps anew if layers were frozen or unfrozen since they were traced."""
        flags = freezing.flags_of(self.task)
        if flags == self._flags:
            return
        cause = f"{freezing.in_words(self.task, self._flags, flags)} before epoch {self.epochs + 1}"
        self._trace_anew(cause)
        learned = {id(variable) for _, variables in self.optimizers for variable in variables}
        compiled = " and compiled" if self.engine.compiles else ""
        self.bar.say(f"{cause}: {len(learned)} variables learn now, and the steps are traced{compiled} anew.")

    def _trace_anew(self, cause: str) -> None:
        with self.ledger.part("compilation"):
            trace = freezing.trace_anew(
                self.task, self.engine, self.train_stepper, self.validation_stepper, self.names, cause
            )
        self.optimizers = trace.optimizers()
        self._flags = freezing.flags_of(self.task)
        # A snapshot of before cannot be gone on with: neither by the new steps, nor in the new slots of optimizers.
        self.watchdog = Watchdog(self.task, self.engine, self.clock)

    @counted("checkpoint")
    def finish(self) -> None:
        """Saves the state that was reached, unless it is no good or saved already, and waits for the disk."""
        if not self.diverged and self._saved != self._position():
            alarm = self.watchdog.check(self.step)
            if alarm is None or self.recover(alarm) is not None:
                self.save(always=True)
        self.saver.finish()

    @counted("callbacks")
    def end_train(self) -> None:
        """Tells optimizers and callbacks that training is over, as Keras does."""
        for optimizer, learned in self.optimizers:
            finalize(optimizer, learned)
        last = {name: values[-1] for name, values in self.history.items()}
        self.bridge.end_train(last)

    # ------------------------------------------------------------------ values

    @contextlib.contextmanager
    def one_call(self) -> Iterator[None]:
        """With its time counted, and traced by the backend if it is the second: the first one warms up."""
        self._calls += 1
        with self.ledger.part("trace"), contextlib.ExitStack() as stack:
            if self.traces and self._calls == 2:
                try:
                    stack.enter_context(self.engine.traced(self.directory.profile))
                except RuntimeError as error:  # such as a callback that profiles as well
                    self.bar.say(f"No trace was written: {error}")
            with self.ledger.part("compute"):
                yield

    def count_call(self, logs: StepLogs) -> None:
        """Counts what of the last call's time was no computing."""
        self.ledger.move(logs.waited, "compute", "data")
        if len(self.train_stepper.compiled) > self._compiled:
            self._compiled = len(self.train_stepper.compiled)
            self.ledger.move(self.train_stepper.seconds - logs.waited, "compute", "compilation")

    @counted("logging")
    def log_steps(self, logs: StepLogs) -> None:
        """Takes in the logs of a call."""
        values = {f"train/{name}": column.tolist() for name, column in logs.values.items()}
        for logger in self._loggers:
            logger.log_steps(self.epochs + 1, self.step + 1, values)
        if self.skip_broken:
            self._since_mark.append((self.epochs + 1, self.step + 1, values))
        self.step += logs.steps
        self.steps_here += logs.steps
        self.done += logs.steps
        self.bar.advance(self.epochs + 1, logs.steps, self.train_stepper.seconds, self.train_stepper.means())

    def add_validation(self, found: Mapping[str, float]) -> None:
        """Takes in the values of a validation."""
        if self.validation_stepper is not None:
            compiled = self.validation_stepper.compiled[self._compiled_to_watch :]
            self._compiled_to_watch += len(compiled)
            self.ledger.move(sum(found.seconds for found in compiled), "validation", "compilation")
        self.validations += 1
        self.validated = (self.step, {f"val/{name}": value for name, value in found.items()})

    def values(self) -> dict[str, float]:
        """Means of the epoch so far, and the values of the validation if it is of these weights."""
        values = {f"train/{name}": value for name, value in self.train_stepper.values().items()}
        return values | (dict(self.validated[1]) if self.validated is not None and self.validated_now else {})

    @counted("logging")
    def log_validation(self) -> None:
        """Logs a validation inside an epoch."""
        if self.validated is not None:
            for logger in self._loggers:
                logger.log_validation(self.epochs + 1, self.step, self.validated[1])
                logger.flush()

    @counted("logging")
    def add_epoch(self, values: Mapping[str, float]) -> None:
        """Takes in the values of a finished epoch."""
        self.epochs, self.done = self.epochs + 1, 0
        for name in self.names:
            self.history.setdefault(name, []).append(values.get(name, math.nan))
        for logger in self._loggers:
            logger.log_epoch(self.epochs, self.step, values)
            logger.flush()

    def judge(self, epoch: int, values: Mapping[str, float]) -> bool:
        """Takes in the monitored value. Returns whether it is the best so far."""
        if self.monitor is None:
            return True
        self.progress = self.progress.after(values[self.monitor])
        if self.progress.waited == 0:
            self.best = Best(epoch, self.step, values[self.monitor], dict(values))
        return self.progress.waited == 0 or self.saver.best is None

    # ------------------------------------------------------------------ pictures

    @counted("pictures")
    def draw(self) -> None:
        """Draws the pictures of the task with the weights as they are."""
        if self.drawing is None:
            return
        before = self.drawing.opened
        made = self.drawing.draw(training=True)
        self._opened_to_draw += self.drawing.opened - before
        if not made:
            return
        write_pictures(self.directory, self.drawing.split, made)
        for logger in self._loggers:
            logger.log_images(self.step, tagged(self.drawing.split, made))
            logger.flush()
        self.drawn.append(self.step)

    @counted("pictures")
    def draw_best(self) -> None:
        """Draws them with the best weights; the task keeps those it has. The run is over, and its logs are closed."""
        if self.drawing is None or not has_pictures(self.task) or not (self.directory.checkpoints / "best").exists():
            return
        self._stream = None  # a generator has one reader at a time
        try:
            best = checkpoint.load(checkpoint.find(self.directory.checkpoints, "best"))
        except (CheckpointError, FileNotFoundError) as error:
            warnings.warn(f"The best weights were not drawn: {error}", stacklevel=2)
            return
        models = self.task.model_variables()
        made = self.drawing.draw({key: best.arrays[key] for key in models if key in best.arrays})
        write_pictures(self.directory, self.drawing.split, made, replace=True)
        shown = made if best.state["step"] not in self.drawn else {}
        write_images(self.directory.path, self.drawing.split, best.state["step"], tagged(self.drawing.split, shown))

    @counted("pictures")
    def report(self) -> None:
        """Draws the curves, and writes `report.html`."""
        best = self.best.epoch if self.best is not None and self.best.epoch <= self.epochs else None
        write_report(self.directory, self.history, best)

    # ------------------------------------------------------------------ what is not finite

    @counted("watch")
    def look(self, epoch_begins: bool = False) -> Alarm | None:
        """Checks the variables, if that is due, and keeps a snapshot of a state that is whole.

        Args:
            epoch_begins: Whether the epoch begins, after the callbacks were told.
        """
        if self._stream is None:
            raise RuntimeError("look() comes after open_epoch().")
        before = self.watchdog.snapshot
        if epoch_begins and self.skip_broken:
            # What is run again is gone on with: it must not come from before a callback changed something, or
            # from before the order of the epoch was drawn.
            alarm = self.watchdog.check(self.step)
            if alarm is None:
                self.watchdog.keep(self._at(), self._stream, self.train_stepper.state(), self._random)
        else:
            alarm = self.watchdog.look(self._at(), self._stream, self.train_stepper.state(), self._random, epoch_begins)
        if self.watchdog.snapshot is not before:
            self.mark()
        return alarm

    def mark(self) -> None:
        """Notes where the logs are, at a state that is whole."""
        if self.skip_broken:
            self._marked, self._since_mark = self._positions(), []

    def recover(self, alarm: Alarm) -> Stream | None:
        """Finds the step that broke, and leaves the run before it; writes what it takes to repeat it.

        Args:
            alarm: What was noticed.

        Returns:
            The batches after the broken one, if that may be skipped; `None` if the run has diverged.
        """
        self._stream = None  # a generator has one reader at a time
        found = locate(
            self.task,
            self.train_stepper,
            self.engine,
            self._snapshot(),
            alarm,
            seed=self.seed,
            unwatched=self.watchdog.unwatched,
        )
        problem = self._write_bundle(found)
        skips = found.repeated and found.broken.epoch == self.epochs + 1 and len(self.skipped) < self.skip_broken
        if not skips or found.stream is None:
            self.diverged, self.stop_reason = True, f"{found.broken}{problem}"
            return None
        self.skipped.append(found.broken.step)
        self.bar.say(f"{found.broken}{problem}. Its batch is skipped, {len(self.skipped)} of {self.skip_broken}.")
        self._log_again(found.broken.step, found.logs)
        self.step, self.done, self._stream = found.broken.step, found.broken.batch, found.stream
        # What is run again from an earlier snapshot would come to the skipped batch, and break there once more.
        self.watchdog.keep(self._at(), found.stream, self.train_stepper.state(), self._random)
        self.mark()
        return found.stream

    def _at(self) -> Position:
        return Position(self.step, self.epochs, self.done)

    def _snapshot(self) -> Snapshot:
        if self.watchdog.snapshot is None:
            raise RuntimeError("No snapshot was taken before the first step: look() comes before it.")
        return self.watchdog.snapshot

    def _write_bundle(self, found: Located) -> str:
        try:
            path = write_bundle(
                self.directory.broken, self.task, found, seed=self.seed, source=str(self.facts["source"])
            )
        except OSError as error:  # that the run broke is what must be told
            return f" ({error})"
        return f" (kept in {path})"

    def _log_again(self, step: int, last: Mapping[str, float]) -> None:
        """Takes back what was logged after a step, and logs that step as it was when it was found."""
        values = {f"train/{name}": [value] for name, value in last.items()}
        rows = [(epoch, first, columns) for epoch, first, columns in self._since_mark if first < step]
        for logger in self._loggers:
            logger.close()
            logger.open(self.names, self._marked, rows[0][1] - 1 if rows else step - 1)
            for epoch, first, columns in rows:
                count = step - first
                logger.log_steps(epoch, first, {name: column[:count] for name, column in columns.items()})
            logger.log_steps(self.epochs + 1, step, values)
        self._since_mark = [*rows, (self.epochs + 1, step, values)]

    # ------------------------------------------------------------------ files

    @counted("checkpoint")
    def save(
        self,
        *,
        improved: bool = False,
        values: Mapping[str, float] | None = None,
        epoch_ended: int | None = None,
        always: bool = False,
    ) -> None:
        """Saves the run state, if that is due or if it is among the best.

        Args:
            improved: Whether it is the best so far.
            values: Values that decide whether it is among the best; `None` where there are none.
            epoch_ended: Number of the epoch that just ended; `None` inside one.
            always: Whether it is due in any case.
        """
        value = (values or {}).get(self.checkpoints.keep_by or self.monitor or "")
        due = always or self.saver.is_due(self.step, epoch_ended)
        if not (due or improved or self.saver.ranks(value)):
            return
        began = self.clock()
        job = self._job(improved, value)
        self.saver.add_cost(self.clock() - began)
        if due:
            self.saver.write(job)
            self._saved = self._position()
        else:
            self.saver.wait(job)

    @counted("checkpoint")
    def save_best(self, values: Mapping[str, float]) -> None:
        """Saves the weights as the best, beside the state that a resume goes on from."""
        self.saver.finish(best=self._job(True, values.get(self.monitor or ""), beside=True))

    @counted("checkpoint")
    def export_best_model(self) -> None:
        """Writes `model.keras` with the best weights; the task keeps those it has."""
        folder = self.directory.checkpoints
        if not (folder / "best").exists():
            return
        now, frozen = read_variables(self.task.variables()), self._frozen()
        try:
            best = checkpoint.load(checkpoint.find(folder, "best"))
            freezing.restore(self.task, best.state.get("frozen"))
            write_variables(self.task.variables(), best.arrays)
            model = self._joined()
            if model is not None:
                export_model(model, self.directory.model_file)
        except (CheckpointError, FileNotFoundError) as error:
            warnings.warn(f"{self.directory.model_file} was not written: {error}", stacklevel=2)
        except NotImplementedError as error:  # a class without `get_config`: the weights are in the checkpoints
            reason = " ".join(str(error).split())
            warnings.warn(f"{self.directory.model_file} was not written: {reason[:200]}", stacklevel=2)
        finally:
            freezing.restore(self.task, frozen)
            write_variables(self.task.variables(), now)
            freezing.set_flags(self.task, freezing.flags_from(frozen["now"]))

    def _joined(self) -> keras.Model | None:
        """The model to export, with the weights that it has now."""
        try:
            return self.task.model_to_export()
        except JoinError as error:
            self.bar.say(f"{self.directory.model_file} takes features and not the encoder's inputs: {error}")
            return vars(self.task).get("model")

    def write_profile(self) -> None:
        """Writes `profile.json`: the time by part, and what was compiled."""
        passes = {"train": self.train_stepper} | (
            {} if self.validation_stepper is None else {"validation": self.validation_stepper}
        )
        compilations = [
            {
                "step": name,
                "form": compiled.form,
                "seconds": round(compiled.seconds, 6),
                "cause": compiled.cause,
            }
            for name, found in passes.items()
            for compiled in found.compiled
        ]
        trace = str(self.directory.profile) if self.directory.profile.exists() else None
        summary = self.ledger.summary(self.steps_here)
        files.write_json(self.directory.profile_file, {**summary, "compilations": compilations, "trace": trace})

    def result(self) -> FitResult:
        return FitResult(
            run_dir=self.directory.path,
            epochs=self.epochs,
            steps=self.step,
            stop_reason=self.stop_reason or f"{self.interrupted} received",
            monitor=self.monitor,
            best=self.best,
            history={name: tuple(values) for name, values in self.history.items()},
            wall_s=self.clock() - self.started,
            diverged=self.diverged,
            interrupted=self.interrupted,
            skipped=tuple(self.skipped),
        )

    def _job(self, improved: bool, value: float | None, beside: bool = False) -> Job:
        """The run state as it is now, copied; `beside` if a resume is not to go on from it."""
        name = self.saver.new_name(self.step)
        self.saver.take(name, improved, value)
        records, arrays = self.bridge.state()
        state = {
            "epochs": self.epochs,
            "done": self.done,
            "validations": self.validations,
            "validated": self.validated,
            "best": None if self.best is None else dataclasses.asdict(self.best),
            "progress": dataclasses.asdict(self.progress),
            "history": {
                name: list(values) for name, values in self.history.items()
            },  # it goes on while this is written
            "means": self.train_stepper.state(),
            "random": self._random if self.done else random_states.read(),
            "logs": self._positions(),
            "callbacks": records,
            "kept": self.saver.record(),
            "skipped": list(self.skipped),
            "drawn": list(self.drawn),
            "opened_to_draw": self._opened_to_draw,
            "frozen": self._frozen(),
            "beside": beside,
        }
        feed = self._stream.state() if self.done and self._stream is not None else None
        extra = {} if feed is None else {FEED: feed}
        extra |= {CALLBACKS: safetensors.numpy.save(arrays)} if arrays else {}
        captured = checkpoint.capture(self.task.variables())
        return Job(name, self.step, captured, state, extra, self._sync)

    def _frozen(self) -> dict[str, Any]:
        now = dataclasses.asdict(freezing.flags_of(self.task))
        return {**freezing.record(self.task, self._flags), "now": now}

    def _meant(self) -> dict[str, Any]:
        """The hyperparameters that have a meaning beside the others."""
        without = hparams.inactive(self.task.hp)
        return {name: value for name, value in self.facts["hparams"].items() if name not in without}

    def _positions(self) -> dict[str, int]:
        return {name: size for logger in self._loggers for name, size in logger.position().items()}

    def _sync(self) -> None:
        for logger in self._loggers:
            logger.sync()

    def _position(self) -> tuple[int, int, int]:
        return self.step, self.epochs, self.validations

    @counted("logging")
    def _close(
        self, logger: Logger, kind: type[BaseException] | None, error: BaseException | None = None, *_: object
    ) -> None:
        try:
            logger.close(failed=kind is not None or self.diverged)
        except OSError as second:
            if error is None:
                raise
            error.add_note(str(second))  # what came first is what must be told
