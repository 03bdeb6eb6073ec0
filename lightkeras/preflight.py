"""What is checked before the first epoch, so that a mistake costs seconds and nothing is lost.

The step is traced abstractly (names, optimizers, gradients), then run once for real on one batch of
each split, and everything it changed is put back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import keras

from lightkeras import checkpoint
from lightkeras._messages import did_you_mean
from lightkeras.data.feed import ArrayFeed, ArraySpec, Feed, Structure, flatten
from lightkeras.engine.base import Engine, StepLogs, Trace
from lightkeras.passes import Pass, metric_values
from lightkeras.task import Task


class TaskError(ValueError):
    """A task that cannot be run as it is; the message says why and what to do."""


def check_feed(task: Task, feed: Feed, split: str) -> None:
    """Checks the size of a split, and lets the task look at its arrays.

    Raises:
        ValueError: A train split smaller than one batch, or arrays the task cannot learn from.
    """
    if isinstance(feed, ArrayFeed):
        if split == "train" and feed.examples < feed.batch_size:
            raise ValueError(
                f"The train split has {feed.examples} examples, fewer than one batch of {feed.batch_size}. "
                f"Lower batch_size to at most {feed.examples}."
            )
        task.check_data(feed.arrays, split)


def trace_train(task: Task, engine: Engine, feed: Feed) -> Trace:
    """Traces the train step, checks what it found, and builds the optimizers.

    Raises:
        TaskError: The step never minimizes, there is nothing to train, or the loss misses a model.
    """
    trace = _trace(task, engine, task.run_train_step, feed, "train_step")
    name = type(task).__name__
    if not trace.updates:
        raise TaskError(
            f"{name}.train_step never calls self.minimize, so nothing would be learned. "
            "Return self.minimize(lambda: self.loss(batch, training=True))."
        )
    if not any(update.variables for update in trace.updates):
        raise TaskError(
            f"{name} has no trainable variables: every layer is frozen or has no weights. "
            "Set `trainable=True` on a layer, or add one that learns."
        )
    for update in trace.updates:
        _check_reached(name, task, update.variables, update.unreached)
    for optimizer, learned in trace.optimizers():
        if not optimizer.built:
            optimizer.build(learned)
    return trace


def trace_evaluate(task: Task, engine: Engine, feed: Feed) -> Trace:
    """Traces the evaluation step.

    Raises:
        TaskError: It minimizes something.
    """
    trace = _trace(task, engine, task.run_evaluate_step, feed, "evaluate_step")
    if trace.updates:
        raise TaskError(f"{type(task).__name__}.evaluate_step calls self.minimize: evaluation must not learn.")
    return trace


def trace_predict(task: Task, engine: Engine, feed: Feed) -> None:
    """Traces the prediction step, which builds models that build themselves.

    Raises:
        TaskError: It minimizes something, or the inputs are not what the model takes.
    """
    trace = _trace(task, engine, lambda batch: {"outputs": task.run_predict_step(batch)}, feed, "predict_step")
    if trace.updates:
        raise TaskError(f"{type(task).__name__}.predict_step calls self.minimize: prediction must not learn.")


def epoch_names(task: Task, trace: Trace, prefix: str) -> list[str]:
    """Names of all values of one pass over a split: what the step logs, and the stateful metrics.

    Raises:
        TaskError: A metric and a log, or two metrics, have the same name.
    """
    names = [*trace.names, *(name for metric in task.metrics() for name in metric_values(metric))]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise TaskError(f"{type(task).__name__} logs {', '.join(double)} more than once: give each value its own name.")
    if not names:
        raise TaskError(
            f"{type(task).__name__} logs nothing in {prefix}: return the loss from the step, or call self.log."
        )
    return [f"{prefix}/{name}" for name in names]


def check_monitor(monitor: str, names: Iterable[str]) -> None:
    """Checks that a monitored value will be there.

    Raises:
        ValueError: No epoch logs it.
    """
    names = list(names)
    if monitor not in names:
        raise ValueError(f"monitor={monitor!r}: no epoch logs that. {did_you_mean(monitor, names)}")


def try_one_batch(task: Task, learner: Pass, watcher: Pass | None) -> None:
    """Runs the steps once for real and puts everything back.

    Raises:
        TaskError: The first train batch gives a value that is not finite, or is not what the model takes.
        ValueError: A split has no batch.
    """
    variables = task.variables()
    before = checkpoint.read_variables(variables)
    try:
        logs = _explained(task, learner.try_one, learner.feed, "train_step")
        _check_any(logs, "train")
        for name, values in logs.values.items():
            if not all(map(math.isfinite, values)):
                raise TaskError(
                    f"{type(task).__name__}.train_step: {name} is {values[0]} on the first batch. "
                    "Look for a logarithm or division of zero, inputs that are not finite, or a learning rate "
                    "that is far too high."
                )
        if watcher is not None:
            _check_any(_explained(task, watcher.try_one, watcher.feed, "evaluate_step"), "validation")
    finally:
        checkpoint.write_variables(variables, before)


def _check_any(logs: StepLogs, split: str) -> None:
    if not logs.steps:
        raise ValueError(f"The {split} split is empty: it gave no batch; expected at least one.")


def _trace(task: Task, engine: Engine, step: Callable[[Structure], Any], feed: Feed, method: str) -> Trace:
    trace: Trace = _explained(task, lambda: engine.trace(step, feed.spec), feed, method)
    return trace


def _explained(task: Task, call: Callable[[], Any], feed: Feed, method: str) -> Any:
    """Calls; on an error says what is wrong with the inputs, or else notes what the step was given."""
    try:
        return call()
    except Exception as error:
        problem = _input_problem(task, feed.spec)
        if problem is not None:
            raise TaskError(f"{type(task).__name__}.{method}: {problem}") from error
        batch = ", ".join(f"{path}: {spec}" for path, spec in flatten(feed.spec))
        error.add_note(f"This came from {method}, which was given a batch of {{{batch}}}.")
        raise


def _check_reached(
    name: str, task: Task, learned: tuple[keras.Variable, ...], unreached: tuple[keras.Variable, ...]
) -> None:
    lost = {id(variable) for variable in unreached}
    wanted = {id(variable) for variable in learned}
    if learned and lost == wanted:
        raise TaskError(
            f"{name}.train_step: the loss depends on none of the variables it should minimize over "
            f"({_paths(learned)}). Compute it from the model's outputs, inside the function given to minimize."
        )
    for path, layer in task.tracked().items():
        if not isinstance(layer, keras.Layer):
            continue
        own = [variable for variable in layer.trainable_variables if id(variable) in wanted]
        if own and all(id(variable) in lost for variable in own):
            raise TaskError(
                f"{name}.train_step: the loss does not depend on the variables of self.{path} ({_paths(own)}). "
                "Use it in the loss, freeze it, or pass `variables=` to minimize."
            )


def _input_problem(task: Task, spec: Structure) -> str | None:
    """How a batch differs from what the task's model takes; `None` if it does not, or cannot be told."""
    model = task.tracked().get("model")
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        return None
    given = spec[0] if isinstance(spec, tuple) else spec
    expected = {tensor.name: tensor for tensor in model.inputs}
    if isinstance(given, dict):
        missing = sorted(set(expected) - set(given))
        if missing:
            return f"the model takes the inputs {sorted(expected)}, but the batch has {sorted(given)}."
        pairs = [(tensor, given[name]) for name, tensor in expected.items()]
    else:
        leaves = [leaf for _, leaf in flatten(given)]
        if len(leaves) != len(expected):
            return f"the model takes {len(expected)} inputs {sorted(expected)}, but the batch has {len(leaves)}."
        pairs = list(zip(expected.values(), leaves, strict=True))
    for tensor, found in pairs:
        if not _fits(tensor, found):
            wanted = ArraySpec(tuple(tensor.shape[1:]), tensor.dtype)
            return (
                f"the model's input {tensor.name!r} takes {wanted}, but the batch has {found}. "
                "Reshape or convert the data, or change the keras.Input."
            )
    return None


def _fits(tensor: keras.KerasTensor, found: ArraySpec) -> bool:
    if (tensor.dtype == "string") != (found.dtype == "string"):
        return False
    wanted, got = list(tensor.shape[1:]), list(found.shape)
    if len(wanted) == len(got) + 1 and wanted[-1] == 1:
        got.append(1)  # Keras adds a last axis of 1 by itself
    elif len(got) == len(wanted) + 1 and got[-1] == 1:
        wanted.append(1)
    return len(wanted) == len(got) and all(w is None or g is None or w == g for w, g in zip(wanted, got, strict=True))


def _paths(variables: Iterable[keras.Variable]) -> str:
    paths = [variable.path for variable in variables]
    return ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
