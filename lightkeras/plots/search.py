"""Figures of a search: objective over trials, importance of hyperparameters, objective over hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightkeras.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    VERMILLION,
    check_same_length,
    escaped,
    panels,
    set_grid,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COLUMNS = 3
_BESIDE = (0, 2, -2, 1, -1)  # offsets of points with the same value, so that they do not form a slope
_RATIO = 50.0  # largest to least value from which an axis is logarithmic


def objective_over_trials(values: Sequence[float | None], statuses: Sequence[str], objective: str, mode: str) -> Figure:
    """The objective of each trial, in order, and the best completed one so far.

    Args:
        values: Objective of each trial; `None` for a failed one, which is marked at the lower edge.
        statuses: `"completed"`, `"pruned"` or `"failed"` for each trial.
        objective: Name of the objective.
        mode: `"min"` if lower is better, `"max"` if higher is.

    Raises:
        ValueError: There are no trials, or another number of statuses.

    Examples:
        >>> statuses = ["completed", "failed", "completed"]
        >>> figure = objective_over_trials([0.8, None, 0.9], statuses, objective="val/accuracy", mode="max")
        >>> figure.axes[0].get_ylabel()
        'val/accuracy (higher is better)'
    """
    check_same_length("objective_over_trials", values=values, statuses=statuses)
    if not values:
        raise ValueError("There are no trials to draw.")
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = panels(1, 1, (7.0, 4.0))
    numbers = np.arange(len(values))  # as the trials are named
    found = np.array([math.nan if value is None else value for value in values])
    done = np.array([status == "completed" for status in statuses])
    pruned = np.array([status == "pruned" for status in statuses])
    failed = np.array([status == "failed" for status in statuses])
    axes.plot(numbers[done], found[done], "o", color=BLUE, markersize=5, label=f"completed ({done.sum()})")
    if pruned.any():
        axes.plot(numbers[pruned], found[pruned], "v", color=ORANGE, markersize=5, label=f"pruned ({pruned.sum()})")
    if failed.any():
        edge = axes.get_xaxis_transform()
        heights = np.full(failed.sum(), 0.02)
        axes.plot(numbers[failed], heights, "x", color=VERMILLION, transform=edge, label=f"failed ({failed.sum()})")
    if done.any():
        best = np.fmin.accumulate if mode == "min" else np.fmax.accumulate
        reached = best(np.where(done, found, np.nan))
        axes.step(numbers, reached, where="post", color=GREY, linewidth=1.5, label="best so far", zorder=1)
    axes.set_xlabel("trial")
    axes.set_ylabel(escaped(f"{objective} ({'lower' if mode == 'min' else 'higher'} is better)"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    set_grid(axes)
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    return figure


def importance(shares: Mapping[str, float], spreads: Mapping[str, float], method: str) -> Figure:
    """Importance of the hyperparameters, as bars with their spread, the largest on top.

    Args:
        shares: Importance by name of hyperparameter.
        spreads: Standard deviation of each.
        method: How they were computed, for the axis.

    Raises:
        ValueError: There are no hyperparameters.

    Examples:
        >>> shares, spreads = {"learning_rate": 0.8, "dropout": 0.2}, {"learning_rate": 0.1, "dropout": 0.05}
        >>> figure = importance(shares, spreads, "fANOVA")
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['dropout', 'learning_rate']
    """
    if not shares:
        raise ValueError("There are no hyperparameters to draw.")
    names = sorted(shares, key=lambda name: shares[name])
    figure, (axes,) = panels(1, 1, (6.8, 1.4 + 0.42 * len(names)))
    widths, errors = [shares[name] for name in names], [spreads.get(name, 0.0) for name in names]
    axes.barh(
        [escaped(shortened(name, 30)) for name in names], widths, xerr=errors, color=BLUE, ecolor=GREY, height=0.6
    )
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel(escaped(method))
    set_grid(axes, grid="x")
    return figure


def objective_over_hyperparameters(
    hparams: Mapping[str, Sequence[Any]], values: Sequence[float], objective: str, log: Mapping[str, bool] | None = None
) -> Figure:
    """One panel per hyperparameter: its value in each trial, against the objective.

    Values that are not numbers are drawn side by side.

    Args:
        hparams: Values of each hyperparameter, by name; `None` for an inactive one, which is not drawn.
        values: Objective of each trial.
        objective: Its name.
        log: Whether the axis of a hyperparameter is logarithmic, as it was declared. Of one that is not named it is if
            all values are above 0 and the largest is at least 50 times the least; `None` names none.

    Raises:
        ValueError: There are no trials, lengths differ, or a value on a logarithmic axis is not above 0.

    Examples:
        >>> hparams = {"learning_rate": [1e-3, 1e-2, 1e-1], "activation": ["relu", "tanh", "relu"]}
        >>> figure = objective_over_hyperparameters(hparams, [0.8, 0.9, 0.7], "val/accuracy")
        >>> figure.axes[0].get_xscale()
        'log'
    """
    if not hparams or not len(values):
        raise ValueError("There are no trials to draw.")
    figure, all_axes = panels(len(hparams), MOST_COLUMNS, (3.8, 3.2))
    for (name, chosen), axes in zip(hparams.items(), all_axes, strict=True):
        check_same_length("objective_over_hyperparameters", **{"values": values, name: chosen})
        pairs = [(x, y) for x, y in zip(chosen, values, strict=True) if x is not None]
        is_log = (log or {}).get(name)
        if is_log and (wrong := [x for x, _ in pairs if not x > 0]):
            raise ValueError(f"objective_over_hyperparameters(log=...): {name} has the value {wrong[0]}, not above 0.")
        _points(axes, [x for x, _ in pairs], [y for _, y in pairs], is_log)
        axes.set_xlabel(escaped(name))
        set_grid(axes)
    for number, axes in enumerate(all_axes):
        if number % min(MOST_COLUMNS, len(all_axes)) == 0:
            axes.set_ylabel(escaped(objective))
    return figure


def _points(axes: Axes, x: Sequence[Any], y: Sequence[float], log: bool | None) -> None:
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in x):
        axes.plot(x, y, "o", color=BLUE, markersize=5, alpha=0.7)
        if log or (log is None and x and min(x) > 0 and max(x) >= _RATIO * min(x)):
            axes.set_xscale("log")
        return
    names = sorted({str(value) for value in x})
    # Side by side in their order, so that equal values do not hide each other, and the picture is always the same.
    counts = dict.fromkeys(names, 0)
    for value, height in sorted(zip(map(str, x), y, strict=True), key=lambda pair: pair[1]):
        offset = 0.1 * _BESIDE[counts[value] % len(_BESIDE)]
        counts[value] += 1
        axes.plot(names.index(value) + offset, height, "o", color=BLUE, markersize=5, alpha=0.7)
    axes.set_xticks(range(len(names)), [escaped(shortened(name, 14)) for name in names])
    axes.set_xlim(-0.6, len(names) - 0.4)
