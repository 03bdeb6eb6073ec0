"""Evaluation of a task, with its current weights or with those of a run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from lightkeras import hparams
from lightkeras.data import DataModule, Feed
from lightkeras.data.arrays import as_feed_once
from lightkeras.data.held_out import held_out_of, named_feeds
from lightkeras.encoders.base import Encoder
from lightkeras.encoders.features import encode_feed
from lightkeras.runs import checkpoint
from lightkeras.runs.results import EvalResult
from lightkeras.system import display
from lightkeras.system.display import phase
from lightkeras.system.locks import waiting_lock
from lightkeras.system.value_names import within
from lightkeras.system.variables import write_variables
from lightkeras.task import Task
from lightkeras.training import setup
from lightkeras.training.callbacks.bridge import CallbackBridge
from lightkeras.training.initial_weights import check_frozen
from lightkeras.training.pictures import SplitPictures, draw_split, write_report
from lightkeras.training.preflight.splits import check_feed
from lightkeras.training.settings import Settings
from lightkeras.training.stepper import Stepper
from lightkeras.training.tracing import check_set_name, epoch_names, trace_evaluate

_WAIT_SECONDS = 10.0  # for another process that uses the run directory


def evaluate(
    settings: Settings,
    task: Task,
    data: Any,
    split: str,
    weights: str | None,
    batch_size: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> EvalResult:
    """Evaluates a task on one split; see `Runner.evaluate`."""
    started = time.perf_counter()
    if split not in ("validation", "test"):
        raise ValueError(f"split={split!r}: expected 'validation' or 'test'.")
    module = setup.build_task(task, settings.seed, data is not None, encoder_reader(settings, weights))
    given = _sets_of(module, split, batch_size) if data is None else named_feeds(data, batch_size, read=as_feed_once)
    limit = settings.limit_batches.test if split == "test" else settings.limit_batches.validation
    engine = setup.engine_for(settings, task)
    for name, feed in given.items():
        check_feed(task, feed, within(split, name), limit)
    metrics, steppers = dict[str, float](), dict[str, Stepper]()
    with phase({"test": "testing", "validation": "validating"}[split]):
        for name, feed in given.items():
            encoded = encode_feed(feed, task.frozen(), settings.features)
            trace = trace_evaluate(task, engine, encoded, set_name=name)
            epoch_names(task, trace, split)
            check_set_name(name, trace.names)
            steppers[name] = setup.stepper_over(encoded, task, task.run_evaluate_step, trace, limit, settings.seed)
        load_weights(settings, task, weights)  # of models that are built by now
        for name, stepper in steppers.items():
            bridge = CallbackBridge.outside_of_fit(task, callbacks, stepper.steps)
            found = stepper.run(settings.steps_per_call, bridge) or {}
            metrics |= {f"{name}/{plain}" if name else plain: value for plain, value in found.items()}
    examples = sum(stepper.examples for stepper in steppers.values())
    display.current().show_result({split: metrics})
    result = EvalResult(split, metrics, examples, time.perf_counter() - started)
    if weights is not None and engine.world.is_writer:
        directory = setup.directory_of(settings)
        try:
            with waiting_lock(directory.lock_file, _WAIT_SECONDS):
                directory.check_links()
                directory.update_result({split: metrics})
                if split == "test":
                    from lightkeras.runs.loggers.hparams_run import write_tested  # loads TensorBoard's formats

                    step, _ = checkpoint.numbers(checkpoint.find(directory.checkpoints, weights))
                    best = (directory.read_result().get("fit") or {}).get("best") or {}
                    write_tested(directory.path, hparams.active(task.hp), best, step, metrics)
                if settings.pictures:
                    drawn = next(iter(steppers.values()))
                    draw_split(directory, SplitPictures(task, drawn.feed, split, limit), weights)
                    write_report(directory)
        except OSError as error:  # the values are known: they must not be lost with the place to write them
            warnings.warn(f"The result was not written to {directory.path}: {error}", stacklevel=3)
    return result


def encoder_reader(settings: Settings, weights: str | None) -> Callable[[Encoder], None] | None:
    """Returns a reader of the encoder's state in the run whose weights are loaded; `None` if none are loaded."""
    return None if weights is None else setup.learn_from(None, 1, setup.directory_of(settings))


def load_weights(settings: Settings, task: Task, weights: str | None) -> None:
    """Loads the models' weights of a checkpoint; `None` keeps the current ones."""
    if weights is None:
        return
    directory = setup.directory_of(settings)
    config = directory.read_config()
    check_frozen(task, config)
    _check_classes(task.data, config)
    models = task.model_variables()
    write_variables(models, checkpoint.load(checkpoint.find(directory.checkpoints, weights), wanted=models).arrays)


def _check_classes(data: DataModule | None, config: Mapping[str, Any]) -> None:
    """Raises a ValueError if the data is prepared and has other classes than the run, whose outputs have no names."""
    trained = config.get("data", {}).get("class_names") or []
    found = [] if data is None or data.source is None else [str(name) for name in data.class_names]
    if trained and found and found != trained:
        unknown = [name for name in found if name not in trained]
        lacking = [name for name in trained if name not in found]
        what = [f"the run does not know {', '.join(unknown)}"] * bool(unknown)
        what += [f"the data lacks {', '.join(lacking)}"] * bool(lacking)
        raise ValueError(
            f"The run was trained on the classes {', '.join(trained)}, and {type(data).__name__} has "
            f"{', '.join(found)}: {' and '.join(what) or 'their order differs'}. Give it the classes of the run in "
            "their order, and remove data of others; or train a new run."
        )


def _sets_of(data: DataModule | None, split: str, batch_size: int) -> dict[str, Feed]:
    feeds = {} if data is None else held_out_of(data, split, batch_size)
    if not feeds:
        raise ValueError(f"There is no {split} split: {type(data).__name__}.{split}() returned None.")
    return feeds
