"""Values of stateful metrics by name: several for a metric of several values, none where a step does not update it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from lightkeras.engine.base import Trace
from lightkeras.task import Task

MOST_VALUES = 1000
"""Maximum number of values of one metric."""


def metric_values(metric: keras.metrics.Metric) -> dict[str, float]:
    """Current values of a metric by name.

    A result that is not a scalar, such as the F1 scores of the classes, gives its mean as `f1_score` and each value as
    `f1_score/0`, `f1_score/1`, ...; of a matrix as `name/0/1`.

    Raises:
        ValueError: It has more than `MOST_VALUES` values.
    """
    found: dict[str, float] = {}
    for name, value in _named(metric.name, metric.result()):
        array = np.asarray(keras.ops.convert_to_numpy(value), np.float64)
        if array.size > MOST_VALUES:
            raise ValueError(
                f"The metric {name!r} has a result of shape {array.shape}; expected a scalar, or at most "
                f"{MOST_VALUES} values, because each is logged. Return their mean from `result`."
            )
        found[name] = float(array.mean()) if array.size else float("nan")
        if array.ndim:
            places = np.ndindex(*array.shape)
            found |= {"/".join([name, *map(str, place)]): float(array[place]) for place in places}
    return found


def _named(name: str, result: Any) -> Iterator[tuple[str, Any]]:
    """The values of a result by name. Keras's own list of compiled metrics has a dict of dicts, if one has a dict."""
    if not isinstance(result, Mapping):
        yield name, result
        return
    for key, value in result.items():
        yield from _named(key, value)


def values_of(task: Task, left_out: Sequence[keras.metrics.Metric] = ()) -> list[tuple[str, float]]:
    """Current values of the metrics of a task, with names that may occur twice.

    Args:
        task: The task.
        left_out: Metrics whose values are left out.
    """
    skipped = set(map(id, left_out))
    found = [
        (metric, name, value)
        for metric in task.metrics()
        # One that was never updated may have no result yet; its name counts for the numbers of the others.
        for name, value in ({metric.name: 0.0} if id(metric) in skipped else metric_values(metric)).items()
    ]
    names = [name for _, name, _ in found]
    names = numbered(names) if task.numbers_metrics else names
    return [(new, value) for new, (metric, _, value) in zip(names, found, strict=True) if id(metric) not in skipped]


def numbered(names: Sequence[str]) -> list[str]:
    """Gives each name that occurred before a number, as Keras does: `loss`, `loss_1`, `loss_2`."""
    found: list[str] = []
    for name in names:
        new, count = name, 0
        while new in found or (count and new in names):
            count += 1
            new = f"{name}_{count}"
        found.append(new)
    return found


def not_updated(task: Task, trace: Trace) -> list[keras.metrics.Metric]:
    """The metrics that a traced step does not use: their values would be those of an empty split."""
    # A trace contains Keras variables, or the backend's variables inside them.
    used = {id(found) for found in trace.variables}
    return [
        metric  # one without variables is built by its first update
        for metric in task.metrics()
        if not any(id(v) in used or id(v.value) in used for v in metric.variables)
    ]
