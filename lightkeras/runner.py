"""Runner: the loop, in one run directory.

seed, task.build(), data.prepare()
trace and check the steps                   # before anything is written
create the run directory, write config.json
for epoch in range(max_epochs):
    while the epoch has batches left:
        n = steps until the next event, at most about 75 ms of them
        logs = program.run(stream, n)       # n train steps in one compiled call
        write the logs of every step
    evaluate on validation
    log the epoch, call the callbacks, save a checkpoint
    stop if the monitored value got no better for `patience` epochs
export the best model, write result.json
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lightkeras import checkpoint, hparams, hub, preflight, run_directory, schedule
from lightkeras.callbacks import CallbackBridge
from lightkeras.data import ArrayFeed, DataModule, Feed
from lightkeras.data.arrays import as_feed, holds_arrays
from lightkeras.engine.base import Engine, Step, Trace
from lightkeras.fitting import Fit
from lightkeras.passes import Pass, bound_engine
from lightkeras.progress import ProgressBar
from lightkeras.results import EvalResult, FitResult
from lightkeras.run_directory import RunDirectory
from lightkeras.task import Task


@dataclasses.dataclass(frozen=True)
class Runner:
    """Fits, evaluates and predicts.

    Args:
        max_epochs: Most epochs of training.
        monitor: Epoch value that decides which epoch is best and when to stop. `None` means
            `val/loss` where there is validation data, else `train/loss`.
        mode: Whether the monitored value is better low (`"min"`) or high (`"max"`); `None` tells it
            from the name.
        patience: Epochs without a better value before training stops; `None` never stops early.
        seed: Seed of the initial weights, of the order of examples and of dropout.
        steps_per_call: Train steps per compiled call; `None` fills about 75 ms. Results do not depend on it.
        run_dir: The run directory; `None` makes one under `runs/`.
        callbacks: Keras callbacks.
        progress: Whether to show a progress bar (on a terminal only).
        preflight: Whether to try everything on one batch before the first epoch; see `lightkeras.preflight`
            for what is checked all the same.

    Raises:
        ValueError: A setting out of its range.
    """

    max_epochs: int = 10
    monitor: str | None = None
    mode: str | None = None
    patience: int | None = 3
    seed: int = 0
    steps_per_call: int | None = None
    run_dir: str | Path | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    progress: bool = True
    preflight: bool = True

    def __post_init__(self) -> None:
        least = {"max_epochs": 1, "patience": 1, "seed": 0, "steps_per_call": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is None and name in ("patience", "steps_per_call"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"Runner({name}={value!r}): expected a whole number of at least {low}.")
        if self.mode not in (None, "min", "max"):
            raise ValueError(f"Runner(mode={self.mode!r}): expected 'min', 'max' or None.")

    def fit(self, task: Task, train: Any = None, validation: Any = None, *, batch_size: int = 32) -> FitResult:
        """Trains a task.

        Args:
            task: What is learned. Afterwards its models hold the weights of the last step; the best
                ones are in the run directory.
            train: Arrays such as `(x, y)`, a `tf.data.Dataset`, or anything `lk.data.as_feed` takes;
                `None` takes the task's data module.
            validation: The same, for validation; `None` without `train` takes the data module's.
            batch_size: Examples per batch of arrays given here.

        Returns:
            What happened. A run that diverged returns too, and says so.

        Raises:
            ValueError: Settings, data or task cannot be run; nothing was written.
            FileExistsError: The run directory holds another run.
            OSError: The run directory cannot be written to.
        """
        started = time.perf_counter()
        data = self._ready(task, given=train is not None)
        fit = self._compile(task, data, *_feeds(data, train, validation, batch_size))
        config = self._config(fit)
        fit.directory.create(needed_bytes=5 * fit.state_bytes)
        fit.directory.write_config(config)
        with fit.opened(config):
            for epoch in range(fit.bridge.begin_train(), self.max_epochs):
                self._train_epoch(fit, epoch)
                if fit.diverged:
                    break
                self._end_epoch(fit, epoch)
                if fit.stop_reason is not None:
                    break
            fit.end_train()
        fit.export_best_model()
        result = fit.result(time.perf_counter() - started, f"max_epochs={self.max_epochs} reached")
        fit.directory.update_result({**fit.facts, "fit": result.summary()})
        return result

    def check(self, task: Task, train: Any = None, validation: Any = None, *, batch_size: int = 32) -> list[str]:
        """Does all that `fit` does before its first epoch, and writes nothing.

        Args:
            task: As in `fit`.
            train: As in `fit`.
            validation: As in `fit`.
            batch_size: As in `fit`.

        Returns:
            Names of the values that each epoch will log.

        Raises:
            ValueError: Settings, data or task cannot be run.
        """
        data = self._ready(task, given=train is not None)
        return self._compile(task, data, *_feeds(data, train, validation, batch_size)).names

    def settings(self) -> dict[str, Any]:
        """The settings as plain data."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        settings["run_dir"] = None if self.run_dir is None else str(self.run_dir)
        settings["callbacks"] = [type(callback).__name__ for callback in self.callbacks]
        return settings

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
        module = self._ready(task, given=data is not None)
        feed = as_feed(data, batch_size) if data is not None else _split_of(module, split)
        preflight.check_feed(task, feed, split)
        engine = bound_engine(task)
        trace = preflight.trace_evaluate(task, engine, feed)
        preflight.epoch_names(task, trace, split)
        self._take_weights(task, weights)
        watcher = _pass_over(feed, task, engine, task.run_evaluate_step, trace)
        metrics = watcher.run(self.seed, self.steps_per_call)
        result = EvalResult(split, metrics, watcher.examples, time.perf_counter() - started)
        if weights is not None:
            self._directory().update_result({split: metrics})
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
        self._ready(task, given=True)
        feed = as_feed(data, batch_size)
        engine = bound_engine(task)
        preflight.trace_predict(task, engine, feed)
        self._take_weights(task, weights)
        predictor, stream = engine.predictor(task.run_predict_step), engine.open(feed)
        parts = []
        while (part := predictor.run(stream, self.steps_per_call or 8)) is not None:
            parts.append(part)
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)

    # ------------------------------------------------------------------ the loop

    def _train_epoch(self, fit: Fit, epoch: int) -> None:
        learner, bridge = fit.learner, fit.bridge
        stream = learner.begin(epoch, self.seed)
        bridge.hooks.on_epoch_begin(epoch)
        steps, done = learner.feed.steps, 0
        while steps is None or done < steps:
            fixed = 1 if bridge.watches_train_batches else self.steps_per_call
            count = schedule.steps_next(None if steps is None else steps - done, learner.seconds_per_step, fixed)
            if bridge.watches_train_batches:
                bridge.hooks.on_train_batch_begin(done)
            began = time.perf_counter()
            logs = learner.program.run(stream, count)
            if not logs.steps:
                break
            learner.add(logs, time.perf_counter() - began)
            fit.log_steps(epoch, logs)
            if bridge.watches_train_batches:
                bridge.hooks.on_train_batch_end(done, learner.values())
            done += logs.steps
            if fit.diverged or (bridge.watches_train_batches and bridge.asked_to_stop):
                break
        if not done:
            raise ValueError(f"The train split gave no batch in epoch {epoch + 1}; expected at least one.")

    def _end_epoch(self, fit: Fit, epoch: int) -> None:
        values = {f"train/{name}": value for name, value in fit.learner.values().items()}
        if fit.watcher is not None:
            found = fit.watcher.run(self.seed, self.steps_per_call, fit.bridge)
            values |= {f"val/{name}": value for name, value in found.items()}
        improved = fit.add_epoch(epoch, values)
        fit.bridge.end_epoch(epoch, values)
        fit.save(improved)
        fit.bar.end_epoch(epoch + 1, values, improved)
        fit.stop_reason = self._reason_to_stop(fit)

    def _reason_to_stop(self, fit: Fit) -> str | None:
        if fit.bridge.asked_to_stop:
            return f"{fit.bridge.asked_to_stop} asked to stop"
        if fit.progress.exhausted(self.patience):
            epochs = f"{fit.progress.waited} epoch" + ("s" if fit.progress.waited > 1 else "")
            return f"{fit.monitor} got no better for {epochs}"
        return None

    # ------------------------------------------------------------------ before it

    def _ready(self, task: Task, given: bool) -> DataModule | None:
        """Sets up the task, and prepares its data unless some was given."""
        task.set_up(self.seed)
        data = task.data
        if data is None and not given:
            raise ValueError(
                f"There is no data: {type(task).__name__}.build_data returns None. "
                "Give the data to the runner, or return a DataModule."
            )
        if data is not None and not given:
            data.prepare(task.lookup)
        return None if given else data

    def _compile(self, task: Task, data: DataModule | None, train: Feed, validation: Feed | None) -> Fit:
        """Traces, checks and compiles; writes nothing."""
        preflight.check_feed(task, train, "train")
        engine = bound_engine(task)
        trace = preflight.trace_train(task, engine, train)
        learner = _pass_over(train, task, engine, task.run_train_step, trace)
        names = preflight.epoch_names(task, trace, "train")
        watcher = None
        if validation is not None:
            preflight.check_feed(task, validation, "validation")
            evaluation = preflight.trace_evaluate(task, engine, validation, train)
            names += preflight.epoch_names(task, evaluation, "val")
            watcher = _pass_over(validation, task, engine, task.run_evaluate_step, evaluation)
        monitor = self.monitor or next((name for name in ("val/loss", "train/loss") if name in names), None)
        if monitor is not None:
            preflight.check_monitor(monitor, names)
        mode = self.mode or (schedule.infer_mode(monitor) if monitor is not None else "min")
        optimizers = trace.optimizers()
        model = task.model_of_callbacks(optimizers[0][0])
        bridge = CallbackBridge(self.callbacks, model, self.max_epochs, train.steps)
        bridge.check_monitors(names)
        fit = Fit(
            task=task,
            learner=learner,
            watcher=watcher,
            names=names,
            monitor=monitor,
            progress=schedule.Progress(mode),
            optimizers=optimizers,
            bridge=bridge,
            directory=self._directory(task),
            facts=_facts(task, data, train),
            bar=ProgressBar(self.max_epochs, train.steps, self.progress),
        )
        run_directory.check_directory(fit.directory, needed_bytes=5 * fit.state_bytes)
        if self.preflight:
            preflight.run(task, engine, trace, learner, watcher)
        return fit

    def _config(self, fit: Fit) -> dict[str, Any]:
        return {
            **fit.facts,
            "runner": {**self.settings(), "run_dir": str(fit.directory.path)},
            "data": {"source": fit.facts["source"], "fingerprint": fit.learner.feed.fingerprint()},
            "lookup": fit.task.lookup.record(),
            "modules": hub.modules_in(fit.task.tracked().values()),
            "seed": self.seed,
            "argv": sys.argv,
            "started": run_directory.now(),
        }

    def _directory(self, task: Task | None = None) -> RunDirectory:
        if self.run_dir is not None:
            return RunDirectory(Path(self.run_dir))
        if task is None:
            raise ValueError("There is no run directory to look in: give one, as in Runner(run_dir=result.run_dir).")
        return RunDirectory(run_directory.path_of(None, run_directory.snake_case(type(task).__name__)))

    def _take_weights(self, task: Task, weights: str | None) -> None:
        """Puts the models' weights of a checkpoint into the task."""
        if weights is None:
            return
        directory = self._directory()
        hub.check_modules(task.tracked().values(), directory.read_config().get("modules", []))
        saved = checkpoint.load(checkpoint.find(directory.checkpoints, weights))
        models = task.model_variables()
        checkpoint.write_variables(models, {key: saved.arrays[key] for key in models if key in saved.arrays})


def _pass_over(feed: Feed, task: Task, engine: Engine, step: Step, trace: Trace) -> Pass:
    return Pass(task, engine, feed, engine.program(step, trace.names, trace.ahead), trace.ahead)


def _feeds(data: DataModule | None, train: Any, validation: Any, batch_size: int) -> tuple[Feed, Feed | None]:
    watched = None if validation is None else as_feed(validation, batch_size)
    if data is None:
        return as_feed(train, batch_size, shuffle=holds_arrays(train)), watched
    return data.train(), data.validation() if validation is None else watched


def _split_of(data: DataModule | None, split: str) -> Feed:
    feed = None
    if data is not None:
        feed = data.test() if split == "test" else data.validation()
    if feed is None:
        raise ValueError(f"There is no {split} split: {type(data).__name__}.{split}() gives none.")
    return feed


def _facts(task: Task, data: DataModule | None, train: Feed) -> dict[str, Any]:
    """What `config.json` and `result.json` both say."""
    given = "arrays" if isinstance(train, ArrayFeed) else "stream"
    source = given if data is None else data.source
    return {
        "task": type(task).__name__,
        "source": source,
        "backend": keras.backend.backend(),
        "hparams": hparams.to_dict(task.hp),
        "versions": run_directory.versions(),
    }
