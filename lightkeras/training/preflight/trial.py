"""Runs the steps once on one batch of each split, and restores everything they changed."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed
from lightkeras.engine.base import Engine, StepLogs, Trace
from lightkeras.engine.optimizer_state import learning_rate, unwrapped
from lightkeras.engine.streams import batch_of
from lightkeras.system.held_values import same_bits
from lightkeras.system.tensorflow import tensorflow_left_out
from lightkeras.system.value_names import within
from lightkeras.task import Task
from lightkeras.training.freezing import TracedSteps
from lightkeras.training.preflight.saved import check_same_state, forms
from lightkeras.training.restoring import SavedState, others_of, restored
from lightkeras.training.step_errors import TaskError, explained, paths
from lightkeras.training.stepper import Stepper, bound_engine
from lightkeras.training.tracing import feed_of, take_first

Arrays = Mapping[str, np.ndarray]
FIRST, LAST = "first batch", "last batch"
LOOKED_AT = 32
"""Maximum number of batches that are looked at if every gradient of the first is zero."""


class NotFiniteError(TaskError):
    """A loss, a gradient or a variable is not finite on the tried batch."""


def try_steps(traced: TracedSteps, skips_broken: bool = False, has_callbacks: bool = False) -> None:
    """Runs the steps on the first batch of their split, and on the last batch if it is smaller.

    This finds what a trace cannot, such as a label out of range, and compiles the steps for the first epoch. Variables
    and global random generators are restored. A stream is opened once, and only its first batch is read. If the run
    skips broken batches, values of the train step that are not finite are warned of. If it has callbacks, one of them
    may set a learning rate that is 0.

    Raises:
        TaskError: A loss or a gradient is not finite, no variable would change, or the step changes the set of
            variables.
        ValueError: A split has no batch, or the names of the logs depend on the size of the batch.
    """
    task, engine = traced.task, bound_engine(traced.task)
    with restored(task, others_of(task, traced.trace)) as state:
        check_rates(task, traced.trace)
        try:
            _try_train(traced, engine, state, has_callbacks)
        except NotFiniteError as error:
            if not skips_broken:
                raise
            warnings.warn(f"{error} Training skips such a batch, as `skip_broken` is set.", UserWarning, stacklevel=2)
        for name, stepper in traced.validation_steppers.items():
            state.restore_variables()
            first = _first_batch(engine, stepper, within("validation", name))
            _try(task, stepper, first, 0, "evaluate_step", traced.train_stepper.feed, name)
            _try_last(task, stepper, "evaluate_step", name)


def takes_example(traced: TracedSteps, stepper: Stepper, example: int | None) -> bool:
    """Whether the loss and the gradients of a batch with one example of a split in memory are finite.

    Args:
        traced: The traced steps.
        stepper: The one of them over the split.
        example: Number of the example; `None` returns False.
    """
    feed = stepper.feed
    if example is None or not isinstance(feed, ArrayFeed) or feed.holds_bags:
        return False
    size = min(feed.batch_size, feed.examples)
    start = min(example, feed.examples - size)
    one = feed_of(batch_of(feed.arrays, np.arange(start, start + size)), feed.spec)
    task, engine = traced.task, bound_engine(traced.task)
    with restored(task, others_of(task, traced.trace)):
        try:
            check_logs(task, stepper.try_one(one), "step", "batch of that example")
        except NotFiniteError:
            return False
        trains = stepper is traced.train_stepper
        sizes = engine.gradient_sizes(task.run_train_step, engine.open(one)) if trains else []
        return all(math.isfinite(size) for _, size in sizes)


def _try_train(traced: TracedSteps, engine: Engine, state: SavedState, has_callbacks: bool) -> None:
    """Tries the train step; variables that it changed are restored by `state`."""
    task, trace, stepper = traced.task, traced.trace, traced.train_stepper
    first = _first_batch(engine, stepper, "train")
    logs = _try(task, stepper, first, 0, "train_step")
    check_same_state(task, forms(state.held.variables))
    after = engine.hold(state.held.variables).arrays
    _warn_of_others(task, engine, state)
    state.restore_variables()
    sizes = engine.gradient_sizes(task.run_train_step, engine.open(first))
    found, batches = sizes, 1
    if _is_zero(sizes) and not _at_minimum(logs):  # as for a small batch and a relu
        found, batches = _sizes_of_more(task, engine, stepper.feed, sizes)
    check_gradients(task, trace, found, logs, batches)
    check_learned(task, trace, sizes, state.held.arrays, after, has_callbacks)
    del after  # memory for as much again as the state
    state.restore_variables()
    _try_last(task, stepper, "train_step")


def check_rates(task: Task, trace: Trace) -> None:
    """Checks the learning rates of the optimizers.

    Raises:
        TaskError: One is negative or not finite.
    """
    for optimizer in [part for given, _ in trace.optimizers() for part in unwrapped(given)]:
        rate = learning_rate(optimizer)
        if not 0 <= rate < math.inf:
            raise TaskError(
                f"{type(task).__name__}: the optimizer {optimizer.name!r} has a learning rate of {rate}; "
                "expected a finite number above 0."
            )


def check_logs(task: Task, logs: StepLogs, method: str, batch: str) -> None:
    """Checks the values of one step: the loss, or all values without one. Others are warned of, as training continues
    with them.

    Raises:
        TaskError: A value is not finite.
    """
    for name, values in logs.values.items():
        if all(map(math.isfinite, values)):
            continue
        found = f"{type(task).__name__}.{method}: {name} is {values[0]} on the {batch}."
        if name != "loss" and "loss" in logs.values:
            if batch == FIRST:  # do not repeat the warning for the last batch
                warnings.warn(f"{found} Its mean over the split will not be finite.", UserWarning, stacklevel=2)
            continue
        raise NotFiniteError(
            f"{found} Look for a logarithm or division of zero, inputs that are not finite, or a learning rate "
            "that is far too high."
        )


def check_gradients(
    task: Task, trace: Trace, sizes: Sequence[tuple[keras.Variable, float]], logs: StepLogs, batches: int = 1
) -> None:
    """Checks the gradients of the first batches, and warns of variables whose gradient is zero.

    A gradient may overflow if the optimizer scales the loss: it lowers the scale then. All gradients may be zero if the
    loss is zero, as with a margin that the batch satisfies already.

    Raises:
        TaskError: A gradient is not finite, or all are zero.
    """
    scaled = {
        id(variable)
        for optimizer, learned in trace.optimizers()
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        for variable in learned
    }
    name = f"{type(task).__name__}.train_step"
    where = "on the first batch" if batches == 1 else f"on the first {batches} batches"
    broken = [variable for variable, size in sizes if not math.isfinite(size) and id(variable) not in scaled]
    if broken:
        raise NotFiniteError(
            f"{name}: {where} the gradient with respect to {paths(broken)} is not finite, though the loss "
            "is. Look for a root, a norm, a logarithm or a division at zero, also in branches that `where` discards."
        )
    largest: dict[int, tuple[keras.Variable, float]] = {}
    for variable, size in sizes:
        largest[id(variable)] = (variable, max(size, largest.get(id(variable), (variable, 0.0))[1]))
    dead = [variable for variable, size in largest.values() if size == 0]
    if dead and len(dead) == len(largest) and not _at_minimum(logs):
        raise TaskError(
            f"{name}: {where} every gradient is exactly zero, so nothing would be learned. Look for a "
            "constant loss, for rounding, argmax or stop_gradient before it, or for saturated or dead activations."
        )
    if dead:
        warnings.warn(
            f"{name}: {where} {len(dead)} of {len(largest)} variables got a gradient of exactly zero, and "
            f"may never learn: {paths(dead)}. Freeze them if that is intended.",
            UserWarning,
            stacklevel=2,
        )


def _at_minimum(logs: StepLogs) -> bool:
    """Whether the loss is zero, where gradients may be zero too."""
    return "loss" in logs.values and not logs.values["loss"].any()


def _is_zero(sizes: Sequence[tuple[keras.Variable, float]]) -> bool:
    return bool(sizes) and all(size == 0 for _, size in sizes)


def _sizes_of_more(
    task: Task, engine: Engine, feed: Feed, sizes: list[tuple[keras.Variable, float]]
) -> tuple[list[tuple[keras.Variable, float]], int]:
    """Looks at further batches until one has a gradient: all sizes, and the number of batches."""
    found, batches = list(sizes), 0
    with contextlib.closing(engine.open(feed, limit=LOOKED_AT)) as stream:
        while batches < LOOKED_AT and (batch := stream.next_batch()) is not None:
            batches += 1
            if batches > 1:  # the first is known
                found += engine.gradient_sizes(task.run_train_step, engine.open_batch(batch))
            if not _is_zero(found):
                break
    return found, batches


def check_learned(
    task: Task,
    trace: Trace,
    sizes: Sequence[tuple[keras.Variable, float]],
    before: Arrays,
    after: Arrays,
    has_callbacks: bool = False,
) -> None:
    """Checks that one step of each optimizer changed its variables, and that they are finite; arrays are by key.

    A rate of 0 is warned of where a callback may set it.

    Raises:
        TaskError: A variable is not finite after the step, or an optimizer changed no variable.
    """
    name = f"{type(task).__name__}.train_step"
    pushed = {id(variable) for variable, size in sizes if size > 0}
    keys = {id(variable): key for key, variable in task.variables().items()}
    for optimizer, learned in trace.optimizers():
        if _may_skip(optimizer):
            continue
        broken = [variable for variable in learned if not _finite(after[keys[id(variable)]])]
        if broken:
            raise NotFiniteError(
                f"{name}: after one step {paths(broken)} is not finite, though the gradient is. Look at the optimizer "
                f"{optimizer.name!r} and its learning rate."
            )
        moved = [variable for variable in learned if id(variable) in pushed]
        if moved and all(same_bits(before[keys[id(v)]], after[keys[id(v)]]) for v in moved):
            rates = ", ".join(f"{learning_rate(part):g}" for part in unwrapped(optimizer))
            if has_callbacks and not any(map(learning_rate, unwrapped(optimizer))):
                warnings.warn(
                    f"{name}: the optimizer {optimizer.name!r} has a learning rate of 0, so nothing is learned until a "
                    "callback sets it.",
                    UserWarning,
                    stacklevel=2,
                )
                continue
            raise TaskError(
                f"{name}: one step of the optimizer {optimizer.name!r} changed none of its variables "
                f"({paths(moved)}), though they have gradients; its learning rate is {rates}. Raise it, or check the "
                "other arguments of the optimizer."
            )


def _try(
    task: Task, stepper: Stepper, feed: Feed, step: int, method: str, train: Feed | None = None, set_name: str = ""
) -> StepLogs:
    with explained(task, feed, method, train, set_name):
        logs = stepper.try_one(feed, step)
    check_logs(task, logs, method, LAST if step else FIRST)
    return logs


def _try_last(task: Task, stepper: Stepper, method: str, set_name: str = "") -> None:
    """Tries the last batch if it is smaller: the step is compiled again for it, and may log other names."""
    feed = stepper.feed
    if isinstance(feed, ArrayFeed) and feed.steps > 1 and feed.examples % feed.batch_size:
        _try(task, stepper, feed, feed.steps - 1, method, set_name=set_name)


def _first_batch(engine: Engine, stepper: Stepper, split: str) -> Feed:
    """Returns a feed that starts with the first batch of a split, whose digest a stepper over a stream records.

    Raises:
        ValueError: The split is empty.
    """
    feed = stepper.feed
    if isinstance(feed, ArrayFeed):
        return feed
    batch = take_first(engine, feed) if isinstance(feed, StreamFeed) else None
    if batch is None:
        raise ValueError(f"The {split} split is empty; expected at least one batch.")
    stepper.note_first_batch(batch)
    return feed_of(batch, feed.spec)


def _warn_of_others(task: Task, engine: Engine, state: SavedState) -> None:
    before, now = state.others, engine.hold(state.others.variables)
    changed = [found for key, found in now.variables.items() if not same_bits(now.arrays[key], before.arrays[key])]
    if changed:
        names = ", ".join(f"{variable.name} {list(variable.shape)}" for variable in changed)
        warnings.warn(
            f"{type(task).__name__}.train_step changes variables of no attribute of the task ({names}): they are not "
            "saved, so a resumed run would differ. Keep their owner as an attribute.",
            UserWarning,
            stacklevel=2,
        )


def _may_skip(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether the first step of an optimizer may leave its variables unchanged."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):  # skips steps whose gradients overflow
        return True
    if optimizer.gradient_accumulation_steps:
        return True
    # A schedule may warm up from zero; the config of a constant rate is a float.
    with tensorflow_left_out():
        parts = [(part, part.get_config().get("learning_rate")) for part in unwrapped(optimizer)]
    return any(not isinstance(rate, float) and not learning_rate(part) for part, rate in parts)


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
