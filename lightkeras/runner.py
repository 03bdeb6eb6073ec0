"""Runner: the training loop, in one run directory.

    seed, task.build_encoder(), task.build(), data.prepare()
    encode the splits, if there is an encoder
    trace and check the steps                   # before anything is written
    create the run directory and lock it, write config.json
    for epoch in range(max_epochs):
        while the epoch has batches left:
            n = steps until the next event, at most about 0.3 s of them
            logs = program.run(stream, n)       # n train steps in one compiled call
            log every step
            stop if a signal came, or a limit is reached
        validate
        log the epoch, call the callbacks, save a checkpoint
        stop if the monitored value did not improve for `patience` epochs
    export the best model, write result.json
    draw the pictures of the task, write report.html

`resume=True` continues from the last checkpoint, also inside an epoch. The user's `train_step` is called by
`Task.run_train_step`, which `program.run` in `engine/BACKEND/programs.py` compiles.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Never, final

import keras

from lightkeras.data.batch_workers import processes_kept
from lightkeras.data.first_batches import first_batches
from lightkeras.runs.checkpoint import Checkpoint
from lightkeras.runs.results import BatchSizes, EvalResult, FitResult, LearningRates
from lightkeras.system import display
from lightkeras.system.display import phase
from lightkeras.system.locks import run_lock
from lightkeras.system.messages import explain_unknown_keywords, explains_unknown_keywords
from lightkeras.system.signals import exit_status
from lightkeras.system.tracebacks import FoldedTraceback
from lightkeras.system.value_names import within
from lightkeras.task import Task, predicts
from lightkeras.training import (
    averaging,
    decisions,
    evaluation,
    finders,
    keywords,
    model_summary,
    prediction,
    run_config,
    setup,
    several_processes,
    space,
)
from lightkeras.training.by_batch import count_steps, run_by_batch
from lightkeras.training.divergence.watchdog import Alarm
from lightkeras.training.export import export_best_model
from lightkeras.training.fit import Fit
from lightkeras.training.prediction_writer import PredictionWriter
from lightkeras.training.restoring import restored
from lightkeras.training.settings import LimitBatches, Settings
from lightkeras.training.timing import TimeLedger

SMOKE = 2
"""Batches of each split that `Runner(smoke=True)` uses."""

FIT_ARGUMENTS = (
    *("task", "train", "validation", "batch_size", "class_weight", "init_from", "resume", "accept_changes"),
)


class Interrupted(SystemExit):
    """Raised when a signal ended a run, after it was saved. Unless caught, it ends the process.

    Args:
        result: The result so far; `result.interrupted` is the signal's name.

    Examples:
        ```python
        import lightkeras as lk

        try:
            result = lk.Runner(max_epochs=2).fit(lk.testing.TwoMoons())
        except lk.Interrupted as stop:  # SIGTERM or Ctrl-C
            result = stop.result
        print(result.epochs, result.interrupted)
        ```
    """

    def __init__(self, result: FitResult) -> None:
        super().__init__(exit_status(str(result.interrupted)))
        self.result = result


@dataclasses.dataclass(frozen=True)
class Finders(Settings):
    """Suggests a learning rate and a batch size, with the settings of a run."""

    def find_learning_rate(
        self,
        task: Task,
        train: Any = None,
        *,
        low: float = 1e-7,
        high: float = 10.0,
        steps: int = 100,
        batch_size: int = 32,
        optimizer: str | None = None,
        loss: str = "loss",
    ) -> LearningRates:
        """Suggests a learning rate with a range test (L. N. Smith, WACV 2017, section 3.3).

        The rate grows exponentially from step to step until the smoothed loss is four times its minimum. The
        suggestion is the rate at which the loss fell fastest, an order of magnitude to start from. With a run directory
        the curve is drawn to `figures/learning_rate.png`. Weights, optimizers and random states are restored; a stream
        that shuffles by itself is not rewound.

        Args:
            task: As in `fit`.
            train: As in `fit`.
            low: First learning rate.
            high: Last learning rate.
            steps: Number of train steps, at least 10, over as many epochs as needed.
            batch_size: As in `fit`.
            optimizer: Path of the task's attribute of the optimizer to vary, such as `"optimizer"`; others keep their
                rates. `None` takes the only one.
            loss: Name of the logged value to use as the loss.

        Returns:
            The curve, and the suggestion with its reason.

        Raises:
            ValueError: Settings, data or task are invalid, or the optimizer follows a schedule.
            OSError: The figure cannot be written.

        Examples:
            ```python
            import lightkeras as lk

            found = lk.Runner().find_learning_rate(lk.testing.TwoMoons(), steps=50)
            print(found.suggestion, found.reason)
            ```
        """
        with FoldedTraceback(), processes_kept(), several_processes.in_world(self), display.showing(self.progress):
            several_processes.check_alone("find_learning_rate")
            test = finders.RangeTest(low, high, steps, optimizer, loss)
            return finders.find_learning_rate(self, task, train, batch_size, test)

    def find_batch_size(
        self,
        task: Task,
        train: Any = None,
        *,
        low: int = 8,
        high: int | None = None,
        steps: int = 5,
        memory_bytes: int | None = None,
    ) -> BatchSizes:
        """Suggests the largest power of two as batch size that fits into memory.

        Each size runs a few train steps, whose changes are restored. On an accelerator a size does not fit if they run
        out of memory. On a CPU the kernel would kill the process, so the next size is tried only if, by the memory
        measured so far, it leaves a fifth of what the machine has available.

        Args:
            task: As in `fit`. For a stream, its `build_data` must use a hyperparameter `batch_size`.
            train: Arrays; `None` takes the task's data module.
            low: First size, a power of two. It is tried without an estimate.
            high: Largest size; `None` for the number of examples.
            steps: Train steps to time with each size.
            memory_bytes: Host memory that the process may use, in bytes; `None` for the memory available.

        Returns:
            The sizes with their speed, and the suggestion with the reason why the search ended.

        Raises:
            ValueError: Settings, data or task are invalid, or the batch size of a stream cannot be varied.
            OSError: The system is not Linux, so the memory of a process is unknown.

        Examples:
            ```python
            import lightkeras as lk

            found = lk.Runner().find_batch_size(lk.testing.TwoMoons(), low=16, high=64)
            print(found.suggestion, found.reason)
            ```
        """
        with FoldedTraceback(), processes_kept(), several_processes.in_world(self), display.showing(self.progress):
            several_processes.check_alone("find_batch_size")
            return finders.find_batch_size(self, task, train, finders.SizeSearch(low, high, steps, memory_bytes))


@final
@explains_unknown_keywords(keywords.RUNNER)
@dataclasses.dataclass(frozen=True)
class Runner(Finders):
    """Fits, evaluates and predicts, in one run directory.

    Args:
        max_epochs: Maximum number of epochs; `None` means 10, or no limit with `max_steps` or `max_time`.
        max_steps: Maximum number of train steps over all epochs; `None` for no limit.
        max_time: Seconds after which training ends, counted from the call of `fit`; `None` for no limit.
        validate_every: Period of validations in epochs (`2` or `"2 epochs"`) or in train steps (`"500 steps"`).
        limit_batches: Maximum number of batches of each split.
        steps_per_call: Train steps per compiled call; `None` fills about 0.3 s. Results do not depend on it.

        monitor: Epoch value that determines the best epoch and early stopping; training ends if it is not finite.
            `None` means `val/loss` with validation data, or the loss of the first of several sets, else `train/loss`.
        mode: Whether a lower (`"min"`) or higher (`"max"`) monitored value is better; `None` infers it from the name.
        patience: Validations (epochs, for a value of the train split) without improvement before training stops;
            `None` never stops early.
        stopping: What else decides when a run stops early: the least improvement, the fewest epochs, a value to reach.
        skip_broken: Batches that may be skipped after which a loss or a variable is not finite; 0 stops at the first.

        run_dir: The run directory; `None` makes a new one below `runs/`.
        checkpoints: When to save, and which checkpoints to keep.
        features: Where the features of an encoder are cached.
        export: Whether to write `model.keras` with the best weights at the end of a run.

        progress: Whether to show a progress bar; without a terminal, one line per epoch goes to standard error.
        pictures: Whether to draw the curves, the pictures of the task, and `report.html`.
        draw_every: Epochs between drawings of the task's pictures during training; `None` draws them at the end alone.
        profile: Whether to write the time by part to `profile.json`, and the backend's own trace of the second call to
            `profile/`.
        log_gradients: `"norm"` logs the norm of all gradients together as `gradient_norm`, at every step and before an
            optimizer clips them; of several optimizers as `gradient_norm/<attribute>`. `"histogram"` also writes
            histograms of weights, and of the gradients of the first train batch, at every epoch. `None` logs none.

        devices: On TensorFlow and JAX, the number of devices that share the work, or `"all"`: each has all variables
            and computes a part of every batch, whose size stays what it is. Results are those of one device but for
            rounding; on TensorFlow, if losses are means over examples. `None` uses one, or on JAX what
            `keras.distribution.set_distribution` chose. On torch a process uses one. Several processes share the work
            on one device each, as `lightkeras launch` starts them.
        eager: Whether to call the steps of a task at every batch and not to compile them, so that breakpoints and
            `print` in them see values; slow. The steps are traced once all the same, without values.
        compile: On torch, whether `torch.compile` compiles the train step: `"on"`, `"off"`, or `"auto"`, which compiles
            where the operations of a step and the steps of an epoch make up for the time that it takes. A compiled
            step rounds differently, draws other random numbers, and on a GPU is replayed as a CUDA graph. A step that
            cannot be compiled is called as it is, after a warning; with `"on"` it is an error. The other backends
            compile all steps.
        overfit_batches: Number of train batches to train and validate on, the first ones, in every epoch: a model that
            cannot learn them by heart has a mistake. `None` uses the splits.
        smoke: Whether `fit` tries everything on 2 batches of each split instead: train, validation, test, prediction,
            pictures and export. Nothing is kept: files go to a temporary folder, and the task has its weights back.

        callbacks: Keras callbacks of a fit.
        loggers: Loggers such as `lk.loggers.MLflow()`, in addition to TensorBoard and `metrics.csv`, which every run
            writes. One that raises is warned of once and left out from then on; the report has its error.
        seed: Seed of the initial weights, of the order of examples and of dropout.
        preflight: Whether to try the steps on one batch before the first epoch; `lightkeras.training.preflight` lists
            the checks that always run.

    Raises:
        ValueError: A setting is out of its range.
        TypeError: A setting does not exist; the message suggests a valid name.

    Examples:
        ```python
        import lightkeras as lk

        task, runner = lk.testing.TwoMoons(), lk.Runner(max_epochs=3, patience=2, run_dir="runs/moons")
        result = runner.fit(task)
        print(result.stop_reason, result.best)
        print(runner.evaluate(task, weights="best").metrics)
        print(runner.predict(task, lk.testing.two_moons(3)[0], weights="best").shape)  # (3, 1)
        ```
    """

    def fit(
        self,
        task: Task,
        train: Any = None,
        validation: Any = None,
        *,
        batch_size: int = 32,
        class_weight: Mapping[int, float] | None = None,
        init_from: str | Path | None = None,
        resume: bool | str | Path = False,
        accept_changes: bool = False,
        **unknown: Never,
    ) -> FitResult:
        """Trains a task.

        Args:
            task: The task. Afterwards its models hold the weights of the last step (their averages, with an
                optimizer's `use_ema`, as in Keras); the best weights, as validated, are in the run directory.
                Setting `trainable` of a layer during training takes effect at the next epoch.
            train: Arrays such as `(x, y)`, a `tf.data.Dataset`, or anything `lk.data.as_feed` accepts;
                `None` takes the task's data module. Arrays must not be written to until `fit` returns: large ones are
                not copied.
            validation: The same, for validation, or a dict of several by name, whose values are logged as
                `val/<name>/loss`; `None` without `train` takes the task's data module.
            batch_size: Examples per batch of arrays given here.
            class_weight: For a `SupervisedTask`, the weight of each class in training, by its number, as in Keras's
                `fit`; `None` takes the task's own.
            init_from: Where the first weights of the models come from: a run directory (its best weights), one of its
                checkpoints, or a `.keras`, `.weights.h5` or `.safetensors` file, of which nothing is executed. A
                resumed run has its own. `None` initializes them.
            resume: `True` resumes the run in `run_dir` from its last checkpoint, and begins it if there is none. A
                path names the run directory to resume, or one of its checkpoints.
            accept_changes: Whether to resume although data or hyperparameters changed.
            **unknown: Not accepted; for arguments of other libraries the error names the one to use.

        Returns:
            The result of the run. A run that diverged returns too, with `diverged=True`.

        Raises:
            ValueError: Settings, data or task are invalid; nothing was written.
            FileExistsError: The run directory holds another run.
            RunLockedError: Another process uses the run directory.
            ChangedRunError: Data or hyperparameters changed since the run was started.
            CheckpointError: All checkpoints of the run are damaged, or `init_from` does not fit the task; the message
                lists names and shapes.
            TypeError: An argument does not exist, or the task cannot use `class_weight`.
            OSError: The run directory cannot be written to.
            Interrupted: SIGTERM or SIGINT (Ctrl-C) was received; the state was saved.

        Examples:
            ```python
            import lightkeras as lk

            task, (x, y) = lk.testing.TwoMoons(), lk.testing.two_moons(500)
            train, validation = lk.data.split((x, y), 0.2, stratify=y)
            result = lk.Runner(max_epochs=3, run_dir="runs/moons").fit(task, train, validation)
            print(result.history["val/loss"], result.best.epoch)

            longer = lk.Runner(max_epochs=5, run_dir="runs/moons").fit(task, train, validation, resume=True)
            print(longer.epochs)  # 5
            ```
        """
        with FoldedTraceback(), processes_kept(), several_processes.in_world(self), display.showing(self.progress):
            if unknown:
                explain_unknown_keywords("Runner.fit", unknown, FIT_ARGUMENTS, keywords.FIT)
            if self.smoke:
                given = {"batch_size": batch_size, "class_weight": class_weight, "init_from": init_from}
                return _try_all(self, task, train, validation, given, bool(resume))
            ledger = TimeLedger()
            with ledger.part("start"):
                ready = setup.get_ready(
                    self, task, train, validation, batch_size, class_weight, init_from, resume, accept_changes
                )
                fit = setup.make_fit(self, ready, ledger)
                config = run_config.config_of(fit, ready.init_from, complete=ready.resume)
            fit.directory.create(*space.disk_needed(task, fit.directory, self.checkpoints.keep))
            with (
                several_processes.cleared(fit),
                run_lock(fit.directory.lock_file),
                contextlib.ExitStack() as until_concluded,
            ):
                fit.directory.check_links()
                fit.directory.sweep()
                resumed, restart, write_config = run_config.begin(fit, config, ready)
                loop = _Loop(fit)
                completed = run_config.completed(fit, config, ready)
                with fit.opened(config, resumed, restart, until_concluded), completed:
                    loop.begin(resumed, config["models"])
                    del resumed  # its arrays are as large as the state
                    write_config()
                    while loop.continues():
                        if not loop.train_epoch():
                            break
                        loop.end_epoch()
                    loop.end()
                result = dataclasses.replace(loop.conclude(), run_dir=ready.directory.path)
            fit.world.agree("end of the run", None)  # what it leaves may be read from now on
        if fit.interrupted:
            raise Interrupted(result)
        return result

    def check(
        self,
        task: Task,
        train: Any = None,
        validation: Any = None,
        *,
        batch_size: int = 32,
        class_weight: Mapping[int, float] | None = None,
        init_from: str | Path | None = None,
        resume: bool | str | Path = False,
        accept_changes: bool = False,
    ) -> list[str]:
        """Does everything that `fit` does before its first epoch, and writes nothing.

        It takes the arguments of `fit` and raises what that raises. With `resume` it checks that the run can resume.

        Returns:
            Names of the values that each epoch will log.

        Examples:
            ```python
            import lightkeras as lk

            lk.Runner(max_epochs=3).check(lk.testing.TwoMoons())  # raises, or prints what a fit would log
            ```
        """
        with FoldedTraceback(), processes_kept(), several_processes.in_world(self), display.showing(self.progress):
            ready = setup.get_ready(
                self, task, train, validation, batch_size, class_weight, init_from, resume, accept_changes
            )
            fit = setup.make_fit(self, ready)
            if fit.world.is_writer and ready.resume and ready.directory.config_file.exists():
                run_config.compared(fit, run_config.config_of(fit, ready.init_from), ready)
            return fit.recorder.names

    def evaluate(
        self,
        task: Task,
        data: Any = None,
        *,
        split: str = "test",
        weights: str | None = None,
        batch_size: int = 32,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> EvalResult:
        """Evaluates a task on one split.

        Args:
            task: The task.
            data: Arrays or anything else that `fit` accepts, or a dict of several sets by name (tuples or sources of
                batches), whose values are `<name>/loss`; `None` takes `split` of the task's data module.
            split: `"validation"` or `"test"`.
            weights: `"best"` or `"last"` of the run directory; `None` keeps the current weights of the task.
            batch_size: Examples per batch of arrays given here.
            callbacks: Keras callbacks, whose `on_test_...` hooks are called; those of the runner belong to `fit`.

        Returns:
            Means of the logged values. With weights of a run directory they are also written to its `result.json`.

        Raises:
            ValueError: The split is unknown or does not exist, or `weights` needs a run directory.
            CheckpointError: The checkpoint is damaged or does not fit the task.

        Examples:
            ```python
            import lightkeras as lk

            task, runner = lk.testing.TwoMoons(), lk.Runner(max_epochs=2, run_dir="runs/moons")
            runner.fit(task)
            result = runner.evaluate(task, weights="best")  # on the test split
            print(result.metrics["accuracy"], result.examples)
            ```
        """
        with FoldedTraceback(), processes_kept(), several_processes.in_world(self), display.showing(self.progress):
            return evaluation.evaluate(self, task, data, split, weights, batch_size, callbacks)

    def predict(
        self,
        task: Task,
        data: Any,
        *,
        weights: str | None = None,
        batch_size: int = 256,
        writer: PredictionWriter | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> Any:
        """Returns the outputs of `predict_step`, in the order of the inputs.

        Args:
            task: The task.
            data: Anything that `fit` accepts or Keras's `predict` takes: an array, a list or dict of the inputs of a
                model, a `tf.data.Dataset`, a `PyDataset`, a generator. `predict_step` gets an array as it is, or in a
                tuple of one, `(x,)`, if it takes only that; of batches such as `(x, y)`, it uses the inputs.
            weights: `"best"` or `"last"` of the run directory; `None` keeps the current weights of the task.
            batch_size: Examples per batch of arrays given here.
            writer: Where to write the outputs while they are computed; `None` returns them.
            callbacks: Keras callbacks, whose `on_predict_...` hooks are called.

        Returns:
            NumPy arrays in the structure that `predict_step` returns; axis 0 counts inputs. With a writer, its folder.

        Raises:
            ValueError: There are no inputs, or endlessly many; `predict_step` does not return one output for each; or
                `weights` needs a run directory; or the writer's folder holds other predictions.
            FileExistsError: The writer's folder is not empty, and it does not resume.
            OSError: A part cannot be written; those before it remain, and `resume=True` continues after them.
            CheckpointError: The checkpoint is damaged or does not fit the task.

        Examples:
            ```python
            import lightkeras as lk

            task, runner = lk.testing.TwoMoons(), lk.Runner(max_epochs=2, run_dir="runs/moons")
            runner.fit(task)
            points, _ = lk.testing.two_moons(5)
            print(runner.predict(task, points, weights="best").shape)  # (5, 1)
            ```
        """
        with FoldedTraceback(), processes_kept(), several_processes.in_world(self), display.showing(self.progress):
            if writer is not None:
                several_processes.check_alone("predict(writer=...)")
            return prediction.predict(self, task, data, weights, batch_size, writer, callbacks)


def _try_all(
    runner: Runner, task: Task, train: Any, validation: Any, given: Mapping[str, Any], resumes: bool
) -> FitResult:
    """Does what `smoke` promises: a fit of 2 steps in a folder that is removed, then test and prediction.

    `given` are further arguments of `fit`.
    """
    if resumes:
        raise ValueError("smoke=True tries a run of its own and cannot resume one: leave out one of the two.")
    with tempfile.TemporaryDirectory(prefix="lightkeras-smoke-") as folder:
        quick = dataclasses.replace(
            runner,
            max_epochs=1,
            max_steps=None,
            max_time=None,
            validate_every=1,
            limit_batches=LimitBatches(SMOKE, SMOKE, SMOKE),
            run_dir=several_processes.agreed_path(Path(folder) / "run"),
            loggers=(),  # they write to other places
            smoke=False,
        )
        # It builds everything that has variables, so that all of them are restored.
        quick.check(task, train, validation, **given)
        with restored(task):
            quick = dataclasses.replace(quick, preflight=False)
            result = quick.fit(task, train, validation, **given)
            data = task.data if train is None else None
            if data is not None and data.test() is not None:
                quick.evaluate(task, weights="best" if result.best is not None else None)
            if predicts(task):
                feed, _ = setup.feeds_of(data, train, None, given["batch_size"])
                quick.predict(task, first_batches(feed, SMOKE))
    return result


@final
class _Loop:
    """The loop of one fit: see the top of this file."""

    def __init__(self, fit: Fit) -> None:
        self._settings, self._fit, self._state = fit.settings, fit, fit.state

    def begin(self, resumed: Checkpoint | None, models: Mapping[str, dict[str, Any]]) -> None:
        """Begins and shows the models, or resumes; a resumed run may have come to its end already."""
        for path, model in models.items() if resumed is None else ():
            display.current().print_table(model_summary.line_of(path, model), model_summary.table_of(model))
        self._fit.begin(resumed)
        if not self._fit.leaves_epoch:
            self._state.stop_reason = self._reason_to_stop()
        if resumed is not None and self._state.stop_reason is not None:
            self._fit.recorder.bar.print_line(decisions.finished(self._state.stop_reason))

    def continues(self) -> bool:
        """Whether there is an epoch left to train."""
        return self._state.stop_reason is None and not self._fit.interrupted

    def train_epoch(self) -> bool:
        """Trains the rest of an epoch. Returns whether it came to its end."""
        fit, state, stepper, bridge = self._fit, self._state, self._fit.train_stepper, self._fit.bridge
        steps, stream = stepper.steps, fit.open_epoch()
        if (alarm := fit.watch(epoch_begins=True)) is not None and fit.recovery.recover(alarm) is None:
            return False
        if state.batches_done and self._stops_at(ended=state.batches_done == steps):  # resumed where something is due
            return False
        while (steps is None or state.batches_done < steps) and not fit.leaves_epoch:
            count, began, alarm = self._steps_next(), time.perf_counter(), None
            with fit.profiler.one_call():
                if bridge.watches_train_batches:
                    logs, alarm = run_by_batch(fit, stream, count)
                else:
                    logs = stepper.program.run(stream, count)
            if not logs.steps:
                following = None if state.batches_done else stepper.begin_anew(state.epochs)
                if following is None:
                    break
                stream = following
                continue
            seconds = time.perf_counter() - began
            if not bridge.watches_train_batches:
                logs, alarm = count_steps(fit, logs, seconds)
            fit.log_steps(logs, seconds)
            fit.agreement.update()
            alarm = alarm or self._check(ended=state.batches_done == steps)
            if alarm is not None:
                following = fit.recovery.recover(alarm)
                if following is None:
                    return False
                stream = following
            if self._stops_at(ended=state.batches_done == steps):
                return False
        if not state.batches_done:
            raise ValueError(f"The train split gave no batch in epoch {state.epochs + 1}; expected at least one.")
        return True

    def end_epoch(self) -> None:
        """Validates, logs, calls the callbacks and saves at the end of an epoch."""
        fit, state, settings = self._fit, self._state, self._settings
        fit.close_epoch()
        judged = state.validated_now and (fit.monitor or "").startswith("val/")  # by a validation at its last step
        if decisions.is_multiple(state.epochs + 1, settings.validation.epochs) and not self._validate():
            return
        values = fit.values()
        fit.add_epoch(values)
        if settings.draw_every is not None and decisions.is_multiple(state.epochs, settings.draw_every):
            fit.pictures.draw()
        fit.recorder.mark()
        improved = not judged and (fit.monitor is None or fit.monitor in values) and fit.judge(state.epochs, values)
        with fit.ledger.part("callbacks"):
            fit.bridge.end_epoch(state.epochs - 1, values)
        fit.agreement.update()
        fit.agreement.check_replicas(fit.task.variables(), state.epochs)
        fit.checkpointer.save(improved=improved, values=None if judged else values, epoch_ended=state.epochs)
        fit.recorder.bar.end_epoch(state.epochs, values, improved)
        state.stop_reason = self._reason_to_stop()

    def end(self) -> None:
        """Saves the final state and the best model, and calls the callbacks' `on_train_end`."""
        self._fit.finish()
        self._judge_last()
        if self._settings.export and not self._fit.interrupted:
            self._export()
        self._wait()
        self._fit.end_train()

    def conclude(self) -> FitResult:
        """Writes what a finished run leaves beside the best model: the result, pictures, profile and report."""
        fit, settings = self._fit, self._settings
        complete = not fit.interrupted
        result = fit.result()
        fit.directory.update_result({**fit.facts, "fit": result.summary()})
        display.current().show_result(result.splits())
        if settings.pictures and complete:
            fit.pictures.draw_best()
        if settings.profile:
            fit.profiler.write()
        if settings.pictures and complete:
            fit.pictures.report()
        if settings.loggers:
            self._close_loggers(result)
        return result

    def _export(self) -> None:
        """Writes `model.keras`, while the last checkpoint is written if the best one is still in memory."""
        fit, captured = self._fit, self._fit.checkpointer.captured_best
        if captured is None:
            self._wait()
        with fit.ledger.part("checkpoint"), phase("saving model.keras"):
            export_best_model(fit.task, fit.directory, fit.recorder.bar.print_line, captured)

    def _wait(self) -> None:
        """Waits until all checkpoints are on the disk."""
        with self._fit.ledger.part("checkpoint"), phase("saving the last checkpoint"):
            self._fit.checkpointer.finish()

    def _close_loggers(self, result: FitResult) -> None:
        """Closes the loggers of the user, and adds their errors to the result and the report."""
        fit = self._fit
        with phase("closing the loggers"):
            fit.recorder.close_added([] if fit.interrupted else fit.directory.outputs())
        if problems := fit.recorder.problems:
            fit.directory.update_result({"fit": {**result.summary(), "loggers": problems}})
            if self._settings.pictures and not fit.interrupted:
                fit.pictures.report()

    def _steps_next(self) -> int:
        """Number of train steps of the next call, which ends at the next event at the latest."""
        state, settings, stepper = self._state, self._settings, self._fit.train_stepper
        left = None if stepper.steps is None else stepper.steps - state.batches_done
        every = (settings.validation.steps, settings.checkpoints.every_steps)
        event = decisions.steps_to_event(state.step, left, settings.max_steps, every)
        fixed = 1 if self._fit.agreement.asked_to_stop else settings.steps_per_call
        return decisions.steps_next(event, stepper.calls.seconds_per_step, fixed)

    def _check(self, ended: bool) -> Alarm | None:
        """Checks the variables if that is due, and always before a validation, a checkpoint or the epoch's end."""
        validates = decisions.is_multiple(self._state.step, self._settings.validation.steps)
        at_limit = self._state.step == self._settings.max_steps
        if ended or validates or at_limit or self._fit.checkpointer.is_due():
            with self._fit.ledger.part("watch"):
                return self._fit.recovery.check()
        return self._fit.watch()

    def _stops_at(self, ended: bool) -> bool:
        """Validates and saves between two train steps if that is due. Returns whether the run stops here.

        Args:
            ended: Whether it was the last step of the epoch: a reason to stop then waits for the epoch's end.
        """
        fit, state = self._fit, self._state
        due = bool(fit.validation_steppers) and decisions.is_multiple(state.step, self._settings.validation.steps)
        if due and not state.validated_now:
            if not self._validate():
                return True
            fit.recorder.log_validation()
            fit.recorder.mark()
            values, improved = fit.values(), False
            if fit.monitor in values:
                improved = fit.judge(state.epochs + 1, values)
            fit.checkpointer.save(improved=improved, values=values)
            state.stop_reason = self._reason_of_monitor()
        if ended:
            return False
        state.stop_reason = state.stop_reason or self._limit_reached()
        if self.continues():
            fit.checkpointer.save()
            if fit.checkpointer.is_captured:
                with fit.ledger.part("watch"):
                    fit.recovery.follow()
        return not self.continues()

    def _validate(self) -> bool:
        """Validates on each validation set. Returns whether it was not interrupted: a resume begins with the first."""
        fit, values = self._fit, dict[str, float]()
        if not fit.validation_steppers:
            return True
        with fit.ledger.part("validation"):
            for name, stepper in fit.validation_steppers.items():
                with phase(f"validating on {name}" if name else "validating"):
                    found = stepper.run(self._settings.steps_per_call, fit.bridge, fit.agreement.stops)
                if found is None:
                    return False
                values |= {f"{within('val', name)}/{plain}": value for plain, value in found.items()}
        fit.add_validation(values)
        return True

    def _judge_last(self) -> None:
        """Validates the averages of the weights, or the last weights if they were not. A resume ignores this."""
        fit, state = self._fit, self._state
        if fit.interrupted or state.diverged:
            return
        if averages := [found for found in fit.bridge.averaging if found.epochs]:
            with phase("averaging the weights"):
                averages[0].assign()
                averaging.recompute(fit.task, fit.train_stepper)
        elif state.validated_now or (not fit.validation_steppers and not state.batches_done):
            return
        if not self._validate():
            return
        fit.recorder.log_validation()
        values = fit.values()
        epoch = state.epochs + (state.batches_done > 0)
        if (fit.monitor is None or fit.monitor in values) and fit.judge(epoch, values):
            fit.checkpointer.save_best(values)

    def _reason_to_stop(self) -> str | None:
        fit, state, settings = self._fit, self._state, self._settings
        if (callback := fit.agreement.asked_to_stop) is not None:
            return f"{callback} asked to stop"
        if (reason := self._reason_of_monitor()) is not None:
            return reason
        if settings.epoch_limit is not None and state.epochs >= settings.epoch_limit:
            return f"max_epochs={settings.epoch_limit} reached"
        return self._limit_reached()

    def _reason_of_monitor(self) -> str | None:
        """Why the monitored value ends training; `None` if it does not."""
        fit, state, settings = self._fit, self._state, self._settings
        if state.not_finite is not None:
            return f"{fit.monitor} is {state.not_finite}, which is not finite"
        if state.epochs < settings.stopping.min_epochs:
            return None
        if state.patience.reached(settings.stopping.stop_at):
            return f"{fit.monitor} is {state.patience.best:.6g} and reached stop_at={settings.stopping.stop_at:g}"
        if state.patience.exhausted(settings.patience):
            by_epoch = settings.validation == decisions.Every(1, "epoch") or not (fit.monitor or "").startswith("val/")
            word, waited = "epoch" if by_epoch else "validation", state.patience.waited
            return f"{fit.monitor} got no better for {waited} {word}{'s' * (waited > 1)}"
        return None

    def _limit_reached(self) -> str | None:
        settings = self._settings
        if settings.max_steps is not None and self._state.step >= settings.max_steps:
            return f"max_steps={settings.max_steps} reached"
        if settings.max_time is not None and self._fit.agreement.elapsed >= settings.max_time:
            return f"max_time={settings.max_time:g} s reached"
        return None
