"""Freezing: compares the `trainable` flags at the start of every epoch, and saves them with the run state.

A compiled step trains the variables that were trainable when it was traced: setting `layer.trainable` later does not
change it. So the flags are compared at the start of an epoch (10 ms for 200 layers), and the steps are traced again if
they changed: the evaluation step too, because layers such as `BatchNormalization` compute by their flag.

    flags = flags_of(task)
    task.model.layers[0].trainable = False
    describe_change(task, flags, flags_of(task))    # "model/dense was frozen"
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import keras

from lightkeras.engine.base import Trace
from lightkeras.engine.optimizer_state import rate_of, rebuild, set_rate, trained_variables
from lightkeras.system.value_names import within
from lightkeras.system.variables import CheckpointError
from lightkeras.task import Task
from lightkeras.training.metric_values import not_updated
from lightkeras.training.step_errors import TaskError
from lightkeras.training.stepper import Stepper, bound_engine
from lightkeras.training.tracing import epoch_names, trace_evaluate, trace_train

NAMED = 3
"""Maximum number of layers that a message names."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """The `trainable` flags of all layers of a task, nested ones too, and of their variables, in a fixed order.

    Args:
        layers: Flags of the layers.
        variables: Flags of the variables.
        rates: Factors of the learning rate of the variables, see `optimizer_state.set_rate`.
    """

    layers: tuple[bool, ...]
    variables: tuple[bool, ...]
    rates: tuple[float, ...]


def flags_of(task: Task) -> Flags:
    """Returns the current flags."""
    return Flags(
        tuple(bool(layer.trainable) for _, layer in _layers_of(task)),
        tuple(bool(variable.trainable) for variable in task.model_variables().values()),
        tuple(rate_of(variable) for variable in task.model_variables().values()),
    )


def set_flags(task: Task, flags: Flags) -> None:
    """Sets the flags and the rates.

    Raises:
        CheckpointError: The flags belong to other layers.
    """
    layers, variables = list(_layers_of(task)), list(task.model_variables().values())
    if (len(layers), len(variables)) != (len(flags.layers), len(flags.variables)):
        raise CheckpointError(
            f"The saved state does not fit this task: it has flags for {len(flags.layers)} layers with "
            f"{len(flags.variables)} variables, and the task has {len(layers)} with {len(variables)}. "
            "Use the hyperparameters and the code of the saved run."
        )
    # Outer layers first and variables last: setting the flag of a layer sets those of everything in it.
    for (_, layer), flag in zip(layers, flags.layers, strict=True):
        layer.trainable = flag
    for variable, flag, rate in zip(variables, flags.variables, flags.rates, strict=True):
        variable.trainable = flag
        set_rate(variable, rate)


def forget_rates(task: Task) -> None:
    """Gives all variables of a task the learning rate of their optimizer."""
    for variable in task.model_variables().values():
        set_rate(variable, 1.0)


def describe_change(task: Task, before: Flags, now: Flags) -> str:
    """Names the outermost layers that were frozen or unfrozen: `"model/base was unfrozen"`."""
    names = [name for name, _ in _layers_of(task)]
    if before.layers == now.layers:
        names = [variable.path for variable in task.model_variables().values()]
        pairs = list(zip(names, before.variables, now.variables, strict=True))
    else:
        pairs = list(zip(names, before.layers, now.layers, strict=True))
    frozen = _outermost([name for name, old, new in pairs if old and not new])
    learning = _outermost([name for name, old, new in pairs if new and not old])
    parts = [(frozen, "frozen"), (learning, "unfrozen")]
    changes = [f"{_listed(found)} {'was' if len(found) == 1 else 'were'} {what}" for found, what in parts if found]
    return " and ".join(changes) or "the learning rates of parts were set"


def record(task: Task, flags: Flags) -> dict[str, Any]:
    """The flags that the steps were traced with, and the variables that optimizers have slots for, as JSON values."""
    keys = {id(variable): key for key, variable in task.variables().items()}
    optimizers = {
        path: [keys[id(v)] for v in trained_variables(found) if id(v) in keys] for path, found in _optimizers(task)
    }
    return {**dataclasses.asdict(flags), "optimizers": optimizers}


def restore(task: Task, found: Mapping[str, Any] | None) -> bool:
    """Restores a result of `record`: the flags, and the slots of the optimizers; `None` restores nothing.

    Returns:
        Whether anything changed, so that the steps must be traced again.

    Raises:
        CheckpointError: The record belongs to a task with other layers or optimizers.
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
                "the task does not have. Use the hyperparameters and the code of the saved run."
            )
        changed |= optimizers[path].built and rebuild(optimizers[path], [variables[key] for key in keys])
    return changed


def flags_from(found: Mapping[str, Any]) -> Flags:
    """The flags in a record."""
    rates = found.get("rates") or [1.0] * len(found["variables"])  # runs of earlier versions have none
    return Flags(tuple(found["layers"]), tuple(found["variables"]), tuple(rates))


@final
class TracedSteps:
    """The traced steps of a fit: the variables that learn, and their optimizers.

    Args:
        task: The task.
        trace: The trace of its train step.
        train_stepper: The train step over the train split.
        validation_steppers: The evaluation step over each validation set, by its name.
        names: Names of all values of an epoch, which must not change.
    """

    def __init__(
        self,
        task: Task,
        trace: Trace,
        train_stepper: Stepper,
        validation_steppers: Mapping[str, Stepper],
        names: Sequence[str],
    ) -> None:
        self.task, self.names = task, names
        self.train_stepper, self.validation_steppers = train_stepper, validation_steppers
        self.trace, self.optimizers = trace, trace.optimizers()
        self._flags = flags_of(task)

    def change(self) -> str | None:
        """Describes the layers that were frozen or unfrozen since the steps were traced; `None` for no change."""
        now = flags_of(self.task)
        return None if now == self._flags else describe_change(self.task, self._flags, now)

    @property
    def learning(self) -> int:
        """Number of variables that learn."""
        return len({id(variable) for _, variables in self.optimizers for variable in variables})

    def trace_anew(self, cause: str) -> None:
        """Traces the steps again with the current flags, for streams that are opened from now on.

        Raises:
            TaskError: No variable is trainable, or the steps log other names.
        """
        task, engine = self.task, bound_engine(self.task)
        trace = trace_train(task, engine, self.train_stepper.feed)
        program = engine.program(task.run_train_step, trace.names, self.train_stepper.steps)
        self.train_stepper.replace_program(program, cause)
        self.train_stepper.left_out = not_updated(task, trace)
        found = epoch_names(task, trace, "train")
        for name, stepper in self.validation_steppers.items():
            evaluation = trace_evaluate(task, engine, stepper.feed)
            stepper.replace_program(engine.program(task.run_evaluate_step, evaluation.names), cause)
            stepper.left_out = not_updated(task, evaluation)
            found += epoch_names(task, evaluation, within("val", name))
        if set(found) != set(self.names):
            raise TaskError(
                f"{type(task).__name__} logs {sorted(found)} since {cause}, and logged {sorted(self.names)} before. "
                "Log every name in every step, whatever is trainable."
            )
        self.trace, self.optimizers = trace, trace.optimizers()
        self._flags = flags_of(task)

    def record(self) -> dict[str, Any]:
        """State for `restore` as JSON values, including flags that a callback set since the steps were traced."""
        return {**record(self.task, self._flags), "now": dataclasses.asdict(flags_of(self.task))}


def _layers_of(task: Task) -> Iterator[tuple[str, keras.Layer]]:
    """Every layer once, with its path from the task; outer layers before nested ones."""
    return layers_within({path: found for path, found in task.tracked().items() if isinstance(found, keras.Layer)})


def layers_within(outer: Mapping[str, keras.Layer]) -> Iterator[tuple[str, keras.Layer]]:
    """Every layer of layers once, these included, with its path such as `"model/base"`; outer ones come first."""
    seen: set[int] = set()

    def visit(name: str, layer: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
        if id(layer) not in seen:
            seen.add(id(layer))
            yield name, layer
            for inner in layer._flatten_layers(include_self=False, recursive=False):
                yield from visit(f"{name}/{inner.name}", inner)

    for path, found in outer.items():
        yield from visit(path, found)


def _optimizers(task: Task) -> Iterator[tuple[str, keras.optimizers.Optimizer]]:
    return ((path, found) for path, found in task.tracked().items() if isinstance(found, keras.optimizers.Optimizer))


def _outermost(names: list[str]) -> list[str]:
    found = set(names)
    return [name for name in names if not any(name[:at] in found for at, sign in enumerate(name) if sign == "/")]


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
