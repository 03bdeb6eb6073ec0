"""Curves: values over epochs, of one run or several, and losses over learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightkeras.plots.style import BLACK, BLUE, GREY, MANY, ORANGE, escaped, panels, set_grid, shortened
from lightkeras.system.messages import did_you_mean
from lightkeras.system.value_names import leading, parted, validation_sets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Mapping[str, Sequence[float]]
"""Values per epoch by name, such as `FitResult.history`: `{"train/loss": (0.5, 0.4), "val/loss": (0.6, 0.5)}`."""

MOST_COLUMNS = 3
MOST_PANELS = 12
"""Values that one figure shows: of more, nobody reads one, and laying them out takes seconds. `metrics.csv` has all."""

_SPLITS = {"train": "train", "val": "validation"}
_LINES: dict[str, Any] = {"train": (0, (4, 2)), "val": "-"}
_MARKERS = ("", "o", "s", "D", "^", "v", "P", "X")  # of runs: the first ones differ only in colour
_RATIO = 100.0  # largest to least value from which an axis is logarithmic: 100 times


def curves(history: History, best_epoch: int | None = None, monitor: str | None = None) -> Figure:
    """One panel per value over epochs: train dashed, validation solid.

    Of more than 12 values, the monitored one, the losses and the first others are drawn. A value that is not finite
    leaves a gap. An axis is logarithmic if all values are above 0 and the largest is at
    least 100 times the least.

    Args:
        history: Values per epoch by name, such as `FitResult.history`.
        best_epoch: Epoch, counted from 1, to mark; `None` marks none.
        monitor: Name of the monitored value, such as `"val/loss"`; `None` for none.

    Raises:
        ValueError: There are no epochs, or a name does not begin with `train/` or `val/`.

    Examples:
        >>> figure = curves({"train/loss": [0.9, 0.5], "val/loss": [1.0, 0.7]}, best_epoch=2)
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss']
    """
    names, left_out = _shown(_names(history), _plain(monitor, history))
    figure, all_axes = panels(len(names), MOST_COLUMNS, (4.6, 3.3))
    held_out = _held_out(history)
    colors = [BLUE, *(color for color in MANY if color not in (BLUE, ORANGE))]
    for name, axes in zip(names, all_axes, strict=True):
        drawn = []
        for number, (split, word) in enumerate({"train": "train", **held_out}.items()):
            values = history.get(f"{split}/{name}", ())
            if len(values):
                drawn.append(values)
                color = colors[(number - 1) % len(colors)] if number else ORANGE
                _line(axes, values, color=color, linestyle=_LINES[split.partition("/")[0]], label=word)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=BLACK, linestyle=":", linewidth=1.2, label=f"best epoch ({best_epoch})")
        _over_epochs(axes, name, drawn)
    _legend(figure, all_axes)
    _say_left_out(figure, left_out)
    return figure


def overlay(histories: Mapping[str, History], name: str | None = None, monitor: str | None = None) -> Figure:
    """Several runs in one panel per value: one colour per run, train dashed, validation solid.

    Of more than 12 values, the monitored one, the losses and the first others are drawn.

    Args:
        histories: Values per epoch by name, by the name of the run; see `curves`.
        name: The value to draw, such as `"loss"`; `None` draws a panel for each value.
        monitor: Name of the monitored value, such as `"val/loss"`; `None` for none.

    Raises:
        ValueError: There are no epochs, no run has such a value, or a name does not begin with `train/` or `val/`.

    Examples:
        >>> figure = overlay({"small": {"train/loss": [0.9, 0.5]}, "large": {"train/loss": [0.7, 0.2]}})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss']
    """
    from matplotlib.lines import Line2D

    known = list(dict.fromkeys(found for history in histories.values() if history for found in _names(history)))
    if not known:
        raise ValueError("There are no epochs to draw: expected at least one run with a history.")
    if name is not None and name not in known:
        raise ValueError(f"overlay(name={name!r}): no run has such a value. {did_you_mean(name, known)}")
    together = [found for history in histories.values() for found in history]
    names, left_out = _shown(known if name is None else [name], _plain(monitor, together))
    figure, all_axes = panels(len(names), 2, (5.4, 4.0))
    longest = max(len(shortened(run, 40)) for run in histories)
    figure.set_figwidth(figure.get_figwidth() + 1.0 + 0.08 * longest)  # room for the legend beside the panels
    styles = {run: (MANY[i % len(MANY)], _MARKERS[i // len(MANY) % len(_MARKERS)]) for i, run in enumerate(histories)}
    splits: dict[str, Any] = {}
    for value, axes in zip(names, all_axes, strict=True):
        drawn = []
        for run, history in histories.items():
            color, marker = styles[run]
            for split, word in {"train": "train", **_held_out(history)}.items():
                values = history.get(f"{split}/{value}", ())
                if len(values):
                    drawn.append(values)
                    line, whole = _LINES[split.partition("/")[0]], word.partition(",")[0]
                    splits[whole] = Line2D([], [], color=GREY, linestyle=line, label=whole)
                    label = f"{escaped(shortened(run, 40))}, {word}"
                    _line(axes, values, color=color, linestyle=line, marker=marker, label=label)
        _over_epochs(axes, value, drawn)
    runs = [
        Line2D([], [], color=color, marker=marker, markersize=4, label=escaped(shortened(run, 40)))
        for run, (color, marker) in styles.items()
    ]
    figure.legend(handles=[*runs, *splits.values()], loc="outside right upper", frameon=False)
    _say_left_out(figure, left_out)
    return figure


def learning_rates(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float | None = None,
    loss: str = "loss",
) -> Figure:
    """Curve of a learning-rate range test: the loss over the learning rate, on a logarithmic axis.

    Args:
        rates: Learning rates, such as `LearningRates.rates`.
        losses: Losses at those rates.
        smoothed: The losses, smoothed.
        suggestion: Learning rate to mark; `None` marks none.
        loss: Name of the loss.

    Raises:
        ValueError: There are no steps, or another number of losses than of rates.

    Examples:
        >>> figure = learning_rates([1e-4, 1e-3, 1e-2], [0.7, 0.5, 0.9], [0.7, 0.6, 0.7], suggestion=1e-3)
        >>> figure.axes[0].get_xscale()
        'log'
    """
    if not len(rates):
        raise ValueError("There are no steps to draw: the range test is empty.")
    if not len(rates) == len(losses) == len(smoothed):
        raise ValueError(
            f"learning_rates: got {len(rates)} rates, {len(losses)} losses and {len(smoothed)} smoothed ones; expected "
            "the same number of each."
        )
    figure, (axes,) = panels(1, 1, (6.4, 4.0))
    axes.plot(rates, losses, color=ORANGE, linestyle="", marker="o", markersize=3, alpha=0.6, label="a step")
    axes.plot(rates, smoothed, color=BLUE, linewidth=2, label="smoothed")
    if suggestion is not None:
        axes.axvline(suggestion, color=BLACK, linestyle=":", label=f"suggestion {suggestion:.2g}")
    low, high = _range_of_descent(smoothed)
    if low < high:  # a diverging loss would hide everything else
        axes.set_ylim(low - 0.25 * (high - low), high + 0.5 * (high - low))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel(escaped(loss))
    set_grid(axes, "both")
    _legend(figure, [axes])
    return figure


def _shown(names: list[str], monitor: str | None) -> tuple[list[str], int]:
    """The names to draw, and the number of the others."""
    shown = leading(names, MOST_PANELS, monitor)
    return shown, len(names) - len(shown)


def _plain(monitor: str | None, names: Iterable[str]) -> str | None:
    """The monitored value without its split."""
    return None if monitor is None else parted(monitor, validation_sets(names))[1]


def _say_left_out(figure: Figure, count: int) -> None:
    if count:
        figure.supxlabel(f"{count} further values are in metrics.csv", color=GREY)


def _names(history: History) -> list[str]:
    """Names without the split, in their order."""
    wrong = [name for name in history if name.split("/", 1)[0] not in _SPLITS or "/" not in name]
    if wrong:
        raise ValueError(f"The history has {wrong[0]!r}: expected names such as 'train/loss' and 'val/loss'.")
    sets = validation_sets(history)
    names = list(dict.fromkeys(parted(name, sets)[1] for name, values in history.items() if len(values)))
    if not names:
        raise ValueError("There are no epochs to draw: the history is empty.")
    return names


def _held_out(history: History) -> dict[str, str]:
    """The validation split, or its sets, each with its label."""
    return {f"val/{name}": f"validation, {name}" for name in validation_sets(history)} or {"val": "validation"}


def _line(axes: Axes, values: Sequence[float], *, color: str, linestyle: Any, label: str, marker: str = "o") -> None:
    marker = marker or ("o" if len(values) == 1 else "")  # a line of one point is invisible
    every = max(1, len(values) // 20)  # a marker for each of many epochs would hide the line
    finite = np.array([value if value is not None and math.isfinite(value) else math.nan for value in values], float)
    epochs = range(1, len(values) + 1)
    axes.plot(
        epochs, finite, color=color, linestyle=linestyle, marker=marker, markersize=3.5, markevery=every, label=label
    )


def _over_epochs(axes: Axes, name: str, drawn: list[Sequence[float]]) -> None:
    from matplotlib.ticker import MaxNLocator

    finite = [value for values in drawn for value in values if value is not None and math.isfinite(value)]
    if not finite:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set_yticks([])
    elif min(finite) > 0 and max(finite) >= _RATIO * min(finite):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlabel("epoch")
    axes.set_ylabel(escaped(name))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    last = max(map(len, drawn), default=1)
    room = 0.5 if last == 1 else 0.04 * last
    axes.set_xlim(max(1 - room, 0.4), last + room)
    set_grid(axes)


def _legend(figure: Figure, all_axes: Sequence[Axes]) -> None:
    """One legend for all panels, above them, so that it hides no line."""
    handles: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = len(handles) if len(all_axes) > 1 else 3
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=columns, frameon=False)


def _range_of_descent(smoothed: Sequence[float]) -> tuple[float, float]:
    """The least value, and the largest value before it."""
    if not all(map(math.isfinite, smoothed)):
        return 0.0, 0.0
    bottom = min(range(len(smoothed)), key=smoothed.__getitem__)
    return smoothed[bottom], max(smoothed[: bottom + 1])
