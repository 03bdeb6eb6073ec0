"""Explains which part of a step became NaN or infinite first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lightkeras.data.structure import Structure, flatten
from lightkeras.engine.base import Engine
from lightkeras.engine.layer_calls import Observation
from lightkeras.task import Task
from lightkeras.training.divergence.watchdog import Alarm, alarm_of
from lightkeras.training.restoring import variables_restored


def explain_step(task: Task, engine: Engine, batch: Structure, examples: Sequence[int] = ()) -> str:
    """Runs a step uncompiled and describes the first value in it that is not finite. The variables are restored."""
    variables = task.variables()
    with variables_restored(variables):
        not_finite_before = set(engine.not_finite(variables))
        try:
            logs, observations = engine.run_eagerly(task.run_train_step, batch)
            found = engine.not_finite(variables)
            updated = [alarm_of(variables[key], 0) for key in found if key not in not_finite_before]
            return explain(batch, examples, observations, logs, updated)
        except Exception as error:  # some steps run only compiled
            return f"its layers could not be inspected: uncompiled it raises {type(error).__name__}: {error}"


def explain(
    batch: Structure,
    examples: Sequence[int],
    observations: Sequence[Observation],
    logs: Mapping[str, float],
    updated: Sequence[Alarm],
) -> str:
    """Describes the first value in a step that is not finite, as a sentence.

    Args:
        batch: The batch, NumPy arrays.
        examples: Indices of its examples; empty for a stream.
        observations: Values that the step computed, in order: inner layers come before the layers that call them.
        logs: Values that it logged, by name.
        updated: Variables that are not finite after it.
    """
    first = next((found for found in observations if found.value is not None), None)
    parts = [text for text in (_in_batch(batch, examples),) if text]
    if first is not None and first.kind == "layer":
        if first.inputs is None:
            came = "its inputs were finite"
        else:
            came = f"its inputs contain {first.inputs}" + ("" if parts else ", which no layer computed")
        parts.append(f"the first layer whose output is not finite is {first.name}: {first.value}; {came}")
    elif first is not None and first.kind == "loss":
        parts.append(f"the outputs of all layers are finite, but the loss computed from them is {first.value}")
    elif first is not None:
        others = sum(found.kind == "gradient" and found.value is not None for found in observations) - 1
        more = f" (and of {others} more)" if others else ""
        parts.append(f"the gradient of {first.name}{more} is not finite though the loss is: {first.value}")
    elif updated:
        sizes = {found.name: found.largest for found in observations if found.kind == "gradient"}
        size = sizes.get(updated[0].what)
        gradient = "" if size is None else f", though its gradient is finite, at most {size:.4g} in size"
        parts.append(f"the update of {updated[0].what} made it {updated[0].value}{gradient}")
    elif wrong := [f"{name} is {value}" for name, value in logs.items() if not np.isfinite(value)]:
        parts.append(f"all layers, losses and gradients are finite, but the logged value {wrong[0]}")
    elif not parts:
        parts.append("the step is finite if run uncompiled, layer by layer: only the compiled step breaks")
    return "; ".join(parts)


def is_float(array: np.ndarray) -> bool:
    return array.dtype.name.startswith(("float", "bfloat"))  # NumPy's dtype.kind does not cover bfloat16


def _in_batch(batch: Structure, examples: Sequence[int]) -> str | None:
    """Describes the first number of a batch that is not finite; `None` if all are finite."""
    for path, array in flatten(batch):
        if not is_float(array):
            continue
        wrong = np.argwhere(~np.isfinite(array))
        if len(wrong):
            row = int(wrong[0][0])
            name = f" (example {examples[row]:,} of the data, counted from 0)" if examples else ""
            value = float(array[tuple(wrong[0])])
            return f"the batch itself is not finite: array {path or '0'} holds {value} in row {row}{name}"
    return None
