"""Traces the steps: runs them abstractly to find the values that they log and the variables that they train."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Collection, Iterable

import keras

from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed
from lightkeras.data.structure import Structure, flatten
from lightkeras.engine.base import Engine, Trace, check_rows
from lightkeras.engine.optimizer_state import make_slots
from lightkeras.system.messages import did_you_mean
from lightkeras.system.value_names import parted, validation_sets, within
from lightkeras.task import Task, steps_not_called
from lightkeras.training import layer_losses
from lightkeras.training.metric_values import not_updated, values_of
from lightkeras.training.step_errors import TaskError, explained, paths

_first: weakref.WeakKeyDictionary[StreamFeed, Structure] = weakref.WeakKeyDictionary()


def take_first(engine: Engine, feed: StreamFeed) -> Structure | None:
    """Returns the first batch of a stream as NumPy arrays, from its trace if that has read it; `None` if it is empty.

    A stream is opened once and only its first batch is read: each opening may draw another order or read a file.
    """
    if feed in _first:
        return _first.pop(feed)
    with contextlib.closing(engine.open(feed, limit=1)) as stream:
        batch = stream.next_batch()
    if batch is not None:
        feed.note_first(batch)
    return batch


def feed_of(batch: Structure, spec: Structure, batch_size: int | None = None) -> StreamFeed:
    """A feed of one batch.

    Args:
        batch: NumPy arrays.
        spec: Spec of the batches that it stands for, which may leave sizes open.
        batch_size: Examples of most of these batches; `None` for those of this one.
    """
    feed = StreamFeed(lambda epoch: iter([batch]), spec, steps=1, batch_size=batch_size)
    feed.note_first(batch)
    return feed


def form_to_trace(engine: Engine, feed: Feed) -> tuple[Structure, int | None]:
    """The spec and the size of a batch to trace a step with: those of a real batch, if the engine needs sizes."""
    if isinstance(feed, ArrayFeed):
        return feed.spec, min(feed.batch_size, feed.examples)
    if engine.traces_any_size or not isinstance(feed, StreamFeed):
        return feed.spec, feed.batch_size
    is_open = any(None in leaf.shape for _, leaf in flatten(feed.spec))
    if feed.first_spec is None and (is_open or (feed.batch_size or feed.first_size) is None):
        batch = take_first(engine, feed)
        if batch is not None:
            _first[feed] = batch
    size = feed.first_size if feed.batch_size is None else feed.batch_size
    return feed.spec if feed.first_spec is None else feed.first_spec, size


def trace_train(task: Task, engine: Engine, feed: Feed) -> Trace:
    """Traces the train step, checks the trace, and builds the optimizers, again if they get more variables.

    Raises:
        TaskError: The step never minimizes, there is nothing to train, the loss does not depend on a model, or a
            trained variable or an optimizer is not part of the task.
    """
    name = type(task).__name__
    for path, model in task.tracked().items():
        if isinstance(model, keras.Model) and (uncalled := steps_not_called(model)):
            warnings.warn(
                f"{type(model).__name__}.{uncalled[0]}, of self.{path}, is not called: the runner calls the steps of "
                f"{name}.",
                UserWarning,
                stacklevel=2,
            )
    with explained(task, feed, "train_step"), layer_losses.recorded() as losses:
        trace = engine.trace(task.run_train_step, *form_to_trace(engine, feed))
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
    _check_held(name, task, trace)
    layer_losses.warn_of_unread(task, trace, losses)
    for optimizer, learned in trace.optimizers():
        make_slots(optimizer, learned)
    return trace


def trace_evaluate(task: Task, engine: Engine, feed: Feed, train: Feed | None = None, set_name: str = "") -> Trace:
    """Traces the evaluation step; the error of a step that fails compares the split with `train`, and names the set.

    Raises:
        TaskError: The step minimizes a loss, or does not accept the batches.
    """
    with explained(task, feed, "evaluate_step", train, set_name):
        trace = engine.trace(task.run_evaluate_step, *form_to_trace(engine, feed))
    if trace.updates:
        raise TaskError(f"{type(task).__name__}.evaluate_step calls self.minimize: evaluation must not train.")
    return trace


def trace_predict(task: Task, engine: Engine, feed: Feed, strict: bool = False) -> None:
    """Traces the prediction step, which builds models that are not built yet.

    Args:
        task: The task.
        engine: Its engine.
        feed: The inputs.
        strict: Whether outputs must not have the right number of rows by chance.

    Raises:
        TaskError: The step minimizes a loss, or the model does not accept the inputs.
        ValueError: The outputs are not one for each example.
    """

    def step(batch: Structure) -> dict[str, Structure]:
        outputs = keras.tree.map_structure(keras.ops.convert_to_tensor, task.run_predict_step(batch))
        check_rows(outputs, batch, strict)
        return {"outputs": outputs}

    with explained(task, feed, "predict_step"):
        spec, size = form_to_trace(engine, feed)
        trace = engine.trace(step, spec, size)
        if strict and size is not None and any(leaf.shape[:1] == (size,) for _, leaf in flatten(spec)):
            engine.trace(step, spec, size + 1)
    if trace.updates:
        raise TaskError(f"{type(task).__name__}.predict_step calls self.minimize: prediction must not train.")


def epoch_names(task: Task, trace: Trace, prefix: str) -> list[str]:
    """Names of all values of a split: values that the step logs, and stateful metrics that it updates.

    Raises:
        TaskError: A metric and a log, or two metrics, have the same name; or a name has a control character, such as a
            line end, which would split the header of `metrics.csv`.
    """
    names = [*trace.names, *(name for name, _ in values_of(task, not_updated(task, trace)))]
    for name in names:
        if not name.isprintable() or not name.strip():
            raise TaskError(
                f"{type(task).__name__} logs a value as {name!r}: expected a name of printable characters, such as "
                "'accuracy', without line ends."
            )
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise TaskError(f"{type(task).__name__} logs {', '.join(double)} more than once: give each value its own name.")
    if not names:
        raise TaskError(
            f"{type(task).__name__} logs nothing in {prefix}: return the loss from the step, or call self.log."
        )
    return [f"{prefix}/{name}" for name in names]


def check_set_name(set_name: str, logged: Iterable[str]) -> None:
    """Checks that a validation or test set is not named like a value that the evaluation step logs.

    Args:
        set_name: The name; empty for a set without one.
        logged: Plain names of the values.

    Raises:
        ValueError: It hides a value: `val/loss` would be a set and a value.
    """
    if set_name in {name.partition("/")[0] for name in logged}:
        raise ValueError(
            f"A validation or test set is named {set_name!r}, and evaluate_step logs {set_name!r}: expected another "
            f"name, because val/{set_name} is that value. Name the set after its data, such as 'clean'."
        )


def check_monitor(monitor: str, names: Iterable[str], setting: str = "monitor", left_out: Collection[str] = ()) -> None:
    """Checks that the monitored value is logged.

    Args:
        monitor: Name of the value.
        names: Names of all values of an epoch.
        setting: Name of the setting, for the message.
        left_out: Names of metrics that the step of their split does not update, as in `val/auc`.

    Raises:
        ValueError: No epoch logs the value.
    """
    names = list(names)
    if monitor in left_out:
        split, metric = parted(monitor, validation_sets(names))
        step = "train_step" if split == "train" else "evaluate_step"
        raise ValueError(
            f"{setting}={monitor!r}: {step} does not update the metric {metric!r}, so its value would be that of no "
            f"example, and is not logged. Update it in {step}. {did_you_mean(monitor, names)}"
        )
    sets = [within("val", name) for name in validation_sets(names)]
    plain = monitor.removeprefix("val/")
    if plain != monitor and (candidates := [name for name in (f"{one}/{plain}" for one in sets) if name in names]):
        raise ValueError(
            f"{setting}={monitor!r}: there are several validation sets, each with a {plain} of its own. Name one of "
            f"{', '.join(candidates)}."
        )
    if monitor not in names:
        raise ValueError(f"{setting}={monitor!r}: no epoch logs that. {did_you_mean(monitor, names)}")


def _check_reached(
    name: str, task: Task, learned: tuple[keras.Variable, ...], unreached: tuple[keras.Variable, ...]
) -> None:
    lost = {id(variable) for variable in unreached}
    wanted = {id(variable) for variable in learned}
    if learned and lost == wanted:
        raise TaskError(
            f"{name}.train_step: the loss depends on none of the variables it should minimize over "
            f"({paths(learned)}). Compute it from the model's outputs, inside the function given to minimize."
        )
    for path, layer in task.tracked().items():
        if not isinstance(layer, keras.Layer):
            continue
        own = [variable for variable in layer.trainable_variables if id(variable) in wanted]
        if own and all(id(variable) in lost for variable in own):
            raise TaskError(
                f"{name}.train_step: the loss does not depend on the variables of self.{path} ({paths(own)}). "
                "Use it in the loss, freeze it, or pass `variables=` to minimize."
            )


def _check_held(name: str, task: Task, trace: Trace) -> None:
    """Checks that trained variables and optimizers are part of the task: nothing else is saved or restored."""
    tracked = {id(found) for found in task.tracked().values()}
    held = {id(variable) for variable in task.variables().values()}
    for optimizer, learned in trace.optimizers():
        if id(optimizer) not in tracked:
            raise TaskError(
                f"{name}.train_step: minimize was given the optimizer {optimizer.name!r}, which no attribute of the "
                "task holds, so its state would not be saved. Create it in `build` as an attribute, such as "
                "`self.optimizer`."
            )
        stray = [variable for variable in learned if id(variable) not in held]
        if stray:
            raise TaskError(
                f"{name}.train_step: minimize was given variables of no attribute of the task ({paths(stray)}), so "
                "they would not be saved. Create their layer or model in `build`, as an attribute."
            )
