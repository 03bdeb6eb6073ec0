"""What of a task learns, and what is frozen: noticed where an epoch begins, and kept with the state of a run.

A compiled step is what it was when it was traced: a layer whose `trainable` is set later goes on as before. So the
flags are compared where an epoch begins; where they are others, the steps are traced anew (`Fit.open_epoch`).

    flags = flags_of(task)
    task.model.layers[0].trainable = False
    in_words(task, flags, flags_of(task))    # "model/dense was frozen"
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from lightkeras.engine.base import Engine, Trace
from lightkeras.engine.optimizer_state import learns, remake
from lightkeras.system.variables import CheckpointError
from lightkeras.task import Task
from lightkeras.training import preflight
from lightkeras.training.preflight import TaskError
from lightkeras.training.stepper import Stepper

NAMED = 3
"""So many layers are named in a message."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """`trainable` of all that a task holds, in an order that stays.

    Args:
        layers: Of every layer, those inside others too: some, as `BatchNormalization`, compute by it.
        variables: Of every variable of those layers.
    """

    layers: tuple[bool, ...]
    variables: tuple[bool, ...]


def flags_of(task: Task) -> Flags:
    """What is trainable now."""
    return Flags(
        tuple(bool(layer.trainable) for _, layer in _layers_of(task)),
        tuple(bool(variable.trainable) for variable in task.model_variables().values()),
    )


def set_flags(task: Task, flags: Flags) -> None:
    """Makes trainable what was, and freezes the rest.

    Raises:
        CheckpointError: They are flags of other layers.
    """
    layers, variables = list(_layers_of(task)), list(task.model_variables().values())
    if (len(layers), len(variables)) != (len(flags.layers), len(flags.variables)):
        raise CheckpointError(
            f"The saved state does not fit this task: it says what learns of {len(flags.layers)} layers with "
            f"{len(flags.variables)} variables, and the task has {len(layers)} with {len(variables)}. "
            "Use the hyperparameters and the code it was saved with."
        )
    # From the outside in, and variables last: what is set for a layer is set for all that is in it.
    for (_, layer), flag in zip(layers, flags.layers, strict=True):
        layer.trainable = flag
    for variable, flag in zip(variables, flags.variables, strict=True):
        variable.trainable = flag


def in_words(task: Task, before: Flags, now: Flags) -> str:
    """What was frozen and unfrozen, by the outermost layers: `"model/base was unfrozen"`."""
    names = [name for name, _ in _layers_of(task)]
    if before.layers == now.layers:
        names = [variable.path for variable in task.model_variables().values()]
        pairs = list(zip(names, before.variables, now.variables, strict=True))
    else:
        pairs = list(zip(names, before.layers, now.layers, strict=True))
    frozen = _outermost([name for name, old, new in pairs if old and not new])
    learning = _outermost([name for name, old, new in pairs if new and not old])
    parts = [(frozen, "frozen"), (learning, "unfrozen")]
    return " and ".join(
        f"{_listed(found)} {'was' if len(found) == 1 else 'were'} {what}" for found, what in parts if found
    )


def record(task: Task, flags: Flags) -> dict[str, Any]:
    """What makes the state of a run fit again, as JSON: the flags, and what each optimizer has slots for.

    Args:
        task: The task.
        flags: The flags that its steps were traced with.
    """
    keys = {id(variable): key for key, variable in task.variables().items()}
    optimizers = {path: [keys[id(v)] for v in learns(found) if id(v) in keys] for path, found in _optimizers(task)}
    return {"layers": list(flags.layers), "variables": list(flags.variables), "optimizers": optimizers}


def restore(task: Task, found: Mapping[str, Any] | None) -> bool:
    """Brings the flags of a task and the slots of its optimizers to what was recorded.

    Args:
        task: The task.
        found: What `record` gave; `None` of a state that was saved before there was such a record.

    Returns:
        Whether anything changed: the steps have to be traced anew then.

    Raises:
        CheckpointError: It was recorded of a task with other layers or optimizers.
    """
    if found is None:
        return False
    before, flags = flags_of(task), flags_from(found)
    set_flags(task, flags)
    variables, optimizers, changed = task.variables(), dict(_optimizers(task)), before != flags
    for path, keys in found["optimizers"].items():
        missing = [key for key in keys if key not in variables]
        if missing or path not in optimizers:
            raise CheckpointError(
                f"The saved state does not fit this task: its {path} learns {', '.join(missing[:3] or keys)}, which "
                "the task does not have. Use the hyperparameters and the code it was saved with."
            )
        changed |= optimizers[path].built and remake(optimizers[path], [variables[key] for key in keys])
    return changed


def flags_from(found: Mapping[str, Any]) -> Flags:
    """The flags in what `record` gave."""
    return Flags(tuple(found["layers"]), tuple(found["variables"]))


def trace_anew(
    task: Task, engine: Engine, train_stepper: Stepper, validation_stepper: Stepper | None, names: list[str], cause: str
) -> Trace:
    """Traces the steps, and lets both passes go on with them.

    Args:
        task: The task.
        engine: Its engine.
        train_stepper: The train step over the train split.
        validation_stepper: The evaluation step over the validation split; `None` if there is none.
        names: Names of all values of an epoch, which may not change.
        cause: Why, for the list of what was compiled.

    Raises:
        TaskError: Nothing learns any more, or the steps log other names.
    """
    trace = preflight.trace_train(task, engine, train_stepper.feed)
    train_stepper.take(engine.program(task.run_train_step, trace.names), cause)
    found = preflight.epoch_names(task, trace, "train")
    if validation_stepper is not None:
        evaluation = preflight.trace_evaluate(task, engine, validation_stepper.feed)
        validation_stepper.take(engine.program(task.run_evaluate_step, evaluation.names), cause)
        found += preflight.epoch_names(task, evaluation, "val")
    if set(found) != set(names):
        raise TaskError(
            f"{type(task).__name__} logs {sorted(found)} since {cause}, and logged {sorted(names)} before. "
            "Log every name in every step, whatever is trainable."
        )
    return trace


def _layers_of(task: Task) -> Iterator[tuple[str, keras.Layer]]:
    """Every layer once, with its way from the task: outer ones before those inside."""
    seen: set[int] = set()

    def visit(name: str, layer: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
        if id(layer) not in seen:
            seen.add(id(layer))
            yield name, layer
            for inner in layer._flatten_layers(include_self=False, recursive=False):
                yield from visit(f"{name}/{inner.name}", inner)

    for path, found in task.tracked().items():
        if isinstance(found, keras.Layer):
            yield from visit(path, found)


def _optimizers(task: Task) -> Iterator[tuple[str, keras.optimizers.Optimizer]]:
    return ((path, found) for path, found in task.tracked().items() if isinstance(found, keras.optimizers.Optimizer))


def _outermost(names: list[str]) -> list[str]:
    found = set(names)
    return [name for name in names if not any(name[:at] in found for at, sign in enumerate(name) if sign == "/")]


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
