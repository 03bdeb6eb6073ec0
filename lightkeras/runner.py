"""Runner: the loop, in one run directory.

seed, task.build_encoder(), task.build(), data.prepare()
encode the splits, if there is an encoder
trace and check the steps                   # before anything is written
create the run directory and lock it, write config.json
for epoch in range(max_epochs):
    while the epoch has batches left:
        n = steps until the next event, at most about 75 ms of them
        logs = program.run(stream, n)       # n train steps in one compiled call
        write the logs of every step
        stop if a signal came, or a limit is reached
    evaluate on validation
    log the epoch, call the callbacks, save a checkpoint
    stop if the monitored value got no better for `patience` epochs
export the best model, write result.json
draw the pictures of the task, write report.html

A resume takes all of this up where the last checkpoint was made, inside an epoch too.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import keras
import numpy as np

from lightkeras.data import DataModule, Feed
from lightkeras.data.arrays import as_feed
from lightkeras.encoders.base import Encoder
from lightkeras.encoders.features import FeatureCache, encode_feed
from lightkeras.runs import checkpoint
from lightkeras.runs.checkpoint import Checkpoint
from lightkeras.runs.results import BatchSizes, EvalResult, FitResult, LearningRates
from lightkeras.system.locks import run_lock
from lightkeras.system.signals import exit_status
from lightkeras.system.variables import write_variables
from lightkeras.task import Task
from lightkeras.training import decisions, finders, preflight, setup
from lightkeras.training.divergence.watchdog import Alarm, first_not_finite
from lightkeras.training.fit import Fit
from lightkeras.training.pictures import Drawing, draw_split, write_report
from lightkeras.training.settings import Settings
from lightkeras.training.stepper import bound_engine
from lightkeras.training.timing import TimeLedger


class Interrupted(SystemExit):
    """A run that ended because of a signal, after it was saved. Unless caught, it ends the process.

    Args:
        result: What happened so far; `result.interrupted` is the signal's name.
    """

    def __init__(self, result: FitResult) -> None:
        super().__init__(exit_status(str(result.interrupted)))
        self.result = result


@final
@dataclasses.dataclass(frozen=True)
class Runner(Settings):
    """Fits, evaluates and predicts, in one run directory."""

    def fit(
        self,
        task: Task,
        train: Any = None,
        validation: Any = None,
        *,
        batch_size: int = 32,
        resume: bool | str | Path = False,
        accept_changes: bool = False,
    ) -> FitResult:
        """Trains a task.

        Args:
            task: What is learned. Afterwards its models hold the weights of the last step (their averages, with an
                optimizer's `use_ema`, as in Keras); the best ones are in the run directory, as they were validated.
                A layer whose `trainable` is set meanwhile is frozen or learns from the next epoch on.
            train: Arrays such as `(x, y)`, a `tf.data.Dataset`, or anything `lk.data.as_feed` takes;
                `None` takes the task's data module.
            validation: The same, for validation; `None` without `train` takes the data module's.
            batch_size: Examples per batch of arrays given here.
            resume: `True` goes on with the run in `run_dir` from its last checkpoint, and begins it if
                there is none. A path goes on with that run directory, or from that checkpoint of one.
            accept_changes: Whether to go on though data or hyperparameters are not those of the run.

        Returns:
            What happened. A run that diverged returns too, and says so.

        Raises:
            ValueError: Settings, data or task cannot be run; nothing was written.
            FileExistsError: The run directory holds another run.
            RunLockedError: Another process is at work in the run directory.
            ChangedRunError: Data or hyperparameters are not those that the run was started with.
            CheckpointError: No checkpoint of the run is whole.
            OSError: The run directory cannot be written to.
            Interrupted: SIGTERM or Ctrl-C came; the state was saved.
        """
        ledger = TimeLedger()
        with ledger.part("start"):
            directory, wanted = setup.place(self, task, resume, accept_changes)
            learn = setup.learn_from(train, batch_size, directory if resume else None)
            data = setup.make_ready(task, self.seed, given=train is not None, fit_encoder=learn)
            feeds = setup.feeds_of(data, train, validation, batch_size)
            fit = setup.make_fit(self, task, data, directory, *feeds)
            config = setup.config_of(self, fit)
        fit.ledger = ledger
        fit.directory.create(needed_bytes=5 * fit.state_bytes)
        with run_lock(fit.directory.lock_file):
            resumed: Checkpoint | None = None
            restart = False
            if resume:
                resumed, restart = setup.go_on(fit, config, wanted, accept_changes)
            else:
                setup.begin(fit, config)
            with fit.opened(config, resumed, restart):
                fit.begin(resumed)
                if not fit.leaves_epoch:
                    fit.stop_reason = self._reason_to_stop(fit)  # of a run that had come to its end before
                while fit.stop_reason is None and not fit.interrupted:
                    if not self._train_epoch(fit):
                        break
                    self._end_epoch(fit)
                fit.finish()
                self._judge_the_end(fit)
                fit.end_train()
            if self.export and not fit.interrupted:
                fit.export_best_model()
            result = fit.result()
            fit.directory.update_result({**fit.facts, "fit": result.summary()})
            if self.pictures and not fit.interrupted:
                fit.draw_best()
            if self.profile:
                fit.write_profile()
            if self.pictures and not fit.interrupted:
                fit.report()
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
        resume: bool | str | Path = False,
        accept_changes: bool = False,
    ) -> list[str]:
        """Does all that `fit` does before its first epoch, and writes nothing.

        Args:
            task: As in `fit`.
            train: As in `fit`.
            validation: As in `fit`.
            batch_size: As in `fit`.
            resume: As in `fit`: whether the run could be gone on with is checked too.
            accept_changes: As in `fit`.

        Returns:
            Names of the values that each epoch will log.

        Raises:
            ValueError: Settings, data or task cannot be run.
            FileExistsError: As in `fit`.
            RunLockedError: As in `fit`.
            ChangedRunError: As in `fit`.
            CheckpointError: As in `fit`.
            OSError: As in `fit`.
        """
        directory, wanted = setup.place(self, task, resume, accept_changes)
        learn = setup.learn_from(train, batch_size, directory if resume else None)
        data = setup.make_ready(task, self.seed, given=train is not None, fit_encoder=learn)
        fit = setup.make_fit(self, task, data, directory, *setup.feeds_of(data, train, validation, batch_size))
        if resume and directory.config_file.exists():
            setup.compared(fit, setup.config_of(self, fit), wanted, accept_changes)
        return fit.names

    def evaluate(
        self,
        task: Task,
        data: Any = None,
        *,
        split: str = "test",
        weights: str | None = None,
        batch_size: int = 32,
    ) -> EvalResult:
        """Means of the evaluation step's logs over one split.

        Args:
            task: The task.
            data: Arrays or anything else `fit` takes; `None` takes `split` of the task's data module.
            split: `"validation"` or `"test"`.
            weights: `"best"` or `"last"` of the run directory; `None` takes those the task has now.
            batch_size: Examples per batch of arrays given here.

        Returns:
            The means. With weights of a run directory they are written to its `result.json` too.

        Raises:
            ValueError: The split does not exist or is not known; no run directory to take weights from.
            CheckpointError: The checkpoint is damaged or does not fit the task.
        """
        started = time.perf_counter()
        if split not in ("validation", "test"):
            raise ValueError(f"split={split!r}: expected 'validation' or 'test'.")
        module = setup.make_ready(task, self.seed, given=data is not None, fit_encoder=self._learned(weights))
        feed = as_feed(data, batch_size) if data is not None else _split_of(module, split)
        preflight.check_feed(task, feed, split)
        feed = encode_feed(feed, task.frozen(), self.features)
        engine = bound_engine(task)
        trace = preflight.trace_evaluate(task, engine, feed)
        preflight.epoch_names(task, trace, split)
        self._take_weights(task, weights)
        limit = self.limit_batches.test if split == "test" else self.limit_batches.validation
        validation_stepper = setup.pass_over(feed, task, engine, task.run_evaluate_step, trace, limit)
        metrics = validation_stepper.run(self.seed, self.steps_per_call) or {}
        result = EvalResult(split, metrics, validation_stepper.examples, time.perf_counter() - started)
        if weights is not None:
            setup.directory_of(self).update_result({split: metrics})
            if self.pictures:
                draw_split(setup.directory_of(self), Drawing(task, engine, feed, split, limit), weights)
                write_report(setup.directory_of(self))
        return result

    def predict(self, task: Task, data: Any, *, weights: str | None = None, batch_size: int = 256) -> Any:
        """Outputs of `predict_step`, in the order of the inputs.

        Args:
            task: The task.
            data: Inputs: an array, a structure of arrays, or a feed; batches hold what `predict_step` takes.
            weights: `"best"` or `"last"` of the run directory; `None` takes those the task has now.
            batch_size: Examples per batch of arrays given here.

        Returns:
            NumPy arrays in the structure that `predict_step` returns; axis 0 counts inputs.

        Raises:
            ValueError: There are no inputs; no run directory to take weights from.
            CheckpointError: The checkpoint is damaged or does not fit the task.
        """
        setup.make_ready(task, self.seed, given=True, fit_encoder=self._learned(weights))
        feed = encode_feed(as_feed(data, batch_size), task.frozen(), FeatureCache(on_disk=False))
        engine = bound_engine(task)
        preflight.trace_predict(task, engine, feed)
        self._take_weights(task, weights)
        predictor, stream = engine.predictor(task.run_predict_step), engine.open(feed)
        parts = []
        while (part := predictor.run(stream, self.steps_per_call or 8)) is not None:
            parts.append(part)
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)

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
        """Suggests a learning rate, by a range test (L. N. Smith, WACV 2017, section 3.3).

        Train steps are run with a rate that grows exponentially, until the smoothed loss is four times its
        least. The suggestion is the rate at which the loss fell fastest. With a run directory the curve is
        drawn to `figures/learning_rate.png`: look at it. The task ends with the weights, the optimizers and
        the random states that it began with; a stream that shuffles by itself was read, and goes on.

        Args:
            task: As in `fit`.
            train: As in `fit`.
            low: First learning rate.
            high: Last learning rate.
            steps: Train steps, at least 10. They go on into further epochs where one has fewer.
            batch_size: As in `fit`.
            optimizer: Which optimizer's rate to vary where there are several, as the path of the task's
                attribute, such as `"optimizer"`; the others keep theirs. `None` takes the only one.
            loss: Name of the value to watch, as the train step logs it.

        Returns:
            The curve, and the suggestion with its reason.

        Raises:
            ValueError: Settings, data or task cannot be run, or the optimizer follows a schedule.
            OSError: The figure cannot be written.
        """
        test = finders.RangeTest(low, high, steps, optimizer, loss)
        learn = setup.learn_from(train, batch_size)
        data = setup.make_ready(task, self.seed, given=train is not None, fit_encoder=learn)
        feed, _ = setup.feeds_of(data, train, None, batch_size)
        figure = None if self.run_dir is None else setup.directory_of(self).figures / "learning_rate.png"
        feed = encode_feed(feed, task.frozen(), self.features)
        return finders.find_learning_rate(task, feed, test, self.seed, figure)

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
        """Suggests the largest batch that fits, of powers of two.

        Each size runs a few train steps, which are undone. On an accelerator a size does not fit if its
        steps run out of memory. On a CPU the kernel would end the process then; so each size's memory is
        measured, and a size is not tried where it would take more than there is: twice what the last one
        took, against four fifths of what the machine and its control groups have left.

        Args:
            task: As in `fit`. Where its data module gives a stream, it needs a hyperparameter
                `batch_size` that `build_data` uses.
            train: Arrays; `None` takes the task's data module.
            low: First size, a power of two. It is tried without an estimate.
            high: Largest size; `None` for the number of examples.
            steps: Train steps to time with each size.
            memory_bytes: Memory of the host that the process may hold in all; `None` asks the system.

        Returns:
            The sizes with their speed, and the suggestion with the reason why the search ended there.

        Raises:
            ValueError: Settings, data or task cannot be run, or the batches of a stream cannot be varied.
            OSError: The system does not tell the memory of a process: it is not Linux.
        """
        search = finders.SizeSearch(low, high, steps, memory_bytes)
        learn = setup.learn_from(train, low)
        data = setup.make_ready(task, self.seed, given=train is not None, fit_encoder=learn)
        feed, _ = setup.feeds_of(data, train, None, low)
        feed = encode_feed(feed, task.frozen(), self.features)
        return finders.find_batch_size(task, feed, train is not None, search, self.seed)

    # ------------------------------------------------------------------ the loop

    def _train_epoch(self, fit: Fit) -> bool:
        """The rest of an epoch. Returns whether it came to its end."""
        train_stepper, bridge, steps = fit.train_stepper, fit.bridge, fit.train_stepper.steps
        stream = fit.open_epoch()
        if (alarm := fit.look(epoch_begins=True)) is not None and fit.recover(alarm) is None:
            return False
        if fit.done and self._stops_at(fit, ended=fit.done == steps):  # resumed where something was left to do
            return False
        every = (self.validation.steps, self.checkpoints.every_steps)
        fixed = 1 if bridge.watches_train_batches or bridge.asked_to_stop else self.steps_per_call
        while (steps is None or fit.done < steps) and not fit.leaves_epoch:
            left = None if steps is None else steps - fit.done
            event = decisions.steps_to_event(fit.step, left, self.max_steps, every)
            count = decisions.steps_next(event, train_stepper.seconds_per_step, fixed)
            if bridge.watches_train_batches:
                with fit.ledger.part("callbacks"):
                    bridge.hooks.on_train_batch_begin(fit.done)
            began = time.perf_counter()
            with fit.one_call():
                logs = train_stepper.program.run(stream, count)
            if not logs.steps:
                break
            alarm = first_not_finite(logs, fit.step)
            logs = logs if alarm is None else logs.first(alarm.step - fit.step)
            train_stepper.add(logs, time.perf_counter() - began)
            fit.count_call(logs)
            fit.log_steps(logs)
            if bridge.watches_train_batches:
                with fit.ledger.part("callbacks"):
                    bridge.hooks.on_train_batch_end(fit.done - 1, train_stepper.values())
            alarm = alarm or self._alarm_at(fit, ended=fit.done == steps)
            if alarm is not None:
                following = fit.recover(alarm)
                if following is None:
                    return False
                stream = following
            if self._stops_at(fit, ended=fit.done == steps):
                return False
        if not fit.done:
            raise ValueError(f"The train split gave no batch in epoch {fit.epochs + 1}; expected at least one.")
        return True

    def _alarm_at(self, fit: Fit, ended: bool) -> Alarm | None:
        """What is not finite between two train steps: looked for when it is due, and before anything depends on it."""
        validates = decisions.is_multiple(fit.step, self.validation.steps)
        if ended or validates or fit.step == self.max_steps or fit.saver.is_due(fit.step, None):
            with fit.ledger.part("watch"):
                return fit.watchdog.check(fit.step)
        return fit.look()

    def _stops_at(self, fit: Fit, ended: bool) -> bool:
        """Does what is due between two train steps. Returns whether the run stops inside the epoch.

        Args:
            fit: The fit.
            ended: Whether it was the epoch's last step: what ends the run then waits for the epoch's end.
        """
        due = fit.validation_stepper is not None and decisions.is_multiple(fit.step, self.validation.steps)
        if due and not fit.validated_now:
            if not self._validate(fit):
                return True
            fit.log_validation()
            fit.mark()
            values, improved = fit.values(), False
            if fit.monitor in values:
                improved = fit.judge(fit.epochs + 1, values)
            fit.save(improved=improved, values=values)
            if fit.progress.exhausted(self.patience):
                fit.stop_reason = self._reason_to_stop(fit)
        if ended:
            return False
        fit.stop_reason = fit.stop_reason or self._limit_reached(fit)
        if fit.stop_reason is None and not fit.interrupted:
            fit.save()
        return fit.stop_reason is not None or fit.interrupted is not None

    def _end_epoch(self, fit: Fit) -> None:
        judged = fit.validated_now and (fit.monitor or "").startswith("val/")
        if decisions.is_multiple(fit.epochs + 1, self.validation.epochs) and not self._validate(fit):
            return
        values = fit.values()
        fit.add_epoch(values)
        if self.draw_every is not None and decisions.is_multiple(fit.epochs, self.draw_every):
            fit.draw()
        fit.mark()
        improved = not judged and (fit.monitor is None or fit.monitor in values) and fit.judge(fit.epochs, values)
        with fit.ledger.part("callbacks"):
            fit.bridge.end_epoch(fit.epochs - 1, values)
        fit.save(improved=improved, values=None if judged else values, epoch_ended=fit.epochs)
        fit.bar.end_epoch(fit.epochs, values, improved)
        fit.stop_reason = self._reason_to_stop(fit)

    def _validate(self, fit: Fit) -> bool:
        """Returns whether it came to its end; where there is nothing to validate on it has."""
        if fit.validation_stepper is None:
            return True
        with fit.ledger.part("validation"):
            found = fit.validation_stepper.run(
                self.seed, self.steps_per_call, fit.bridge, lambda: fit.interrupted is not None
            )
        if found is not None:
            fit.add_validation(found)
        return found is not None

    def _judge_the_end(self, fit: Fit) -> None:
        """Validates the last weights if they were not. It is beside the run: a resume goes on without it."""
        if fit.interrupted or fit.diverged or fit.validated_now or (fit.validation_stepper is None and not fit.done):
            return
        if not self._validate(fit):
            return
        fit.log_validation()
        values = fit.values()
        if (fit.monitor is None or fit.monitor in values) and fit.judge(fit.epochs + (fit.done > 0), values):
            fit.save_best(values)

    def _reason_to_stop(self, fit: Fit) -> str | None:
        if fit.bridge.asked_to_stop:
            return f"{fit.bridge.asked_to_stop} asked to stop"
        if fit.progress.exhausted(self.patience):
            by_epoch = self.validation == decisions.Every(1, "epoch") or not (fit.monitor or "").startswith("val/")
            word = "epoch" if by_epoch else "validation"
            return f"{fit.monitor} got no better for {fit.progress.waited} {word}{'s' * (fit.progress.waited > 1)}"
        if fit.epochs >= self.max_epochs:
            return f"max_epochs={self.max_epochs} reached"
        return self._limit_reached(fit)

    def _limit_reached(self, fit: Fit) -> str | None:
        if self.max_steps is not None and fit.step >= self.max_steps:
            return f"max_steps={self.max_steps} reached"
        if self.max_time is not None and fit.clock() - fit.started >= self.max_time:
            return f"max_time={self.max_time:g} s reached"
        return None

    def _learned(self, weights: str | None) -> Callable[[Encoder], None] | None:
        """How an encoder comes to what it learned in the run whose weights are taken."""
        return None if weights is None else setup.learn_from(None, 1, setup.directory_of(self))

    def _take_weights(self, task: Task, weights: str | None) -> None:
        """Puts the models' weights of a checkpoint into the task."""
        if weights is None:
            return
        directory = setup.directory_of(self)
        setup.check_frozen(task, directory.read_config())
        saved = checkpoint.load(checkpoint.find(directory.checkpoints, weights))
        models = task.model_variables()
        write_variables(models, {key: saved.arrays[key] for key in models if key in saved.arrays})


def _split_of(data: DataModule | None, split: str) -> Feed:
    feed = None
    if data is not None:
        feed = data.test() if split == "test" else data.validation()
    if feed is None:
        raise ValueError(f"There is no {split} split: {type(data).__name__}.{split}() gives none.")
    return feed
