"""Predictions against true values, for classification and for regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightkeras.plots.style import (
    BLACK,
    BLUE,
    ORANGE,
    check_same_length,
    checked_labels,
    checked_numbers,
    escaped,
    panels,
    set_grid,
    short_names,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_WITH_NUMBERS = 20
"""Largest number of classes for which the cells of a confusion matrix show their counts."""


def confusion_matrix(labels: Any, predicted: Any, class_names: Sequence[str]) -> Figure:
    """Confusion matrix: counts of true and predicted classes, coloured by the share of the true class.

    Args:
        labels: `[n]`, the true classes, from 0.
        predicted: `[n]`, the predicted classes.
        class_names: Names of the classes.

    Raises:
        ValueError: Lengths differ, or a class has no name.

    Examples:
        >>> figure = confusion_matrix([0, 1, 1], [0, 1, 0], ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['1', '0', '1', '1']
    """
    from matplotlib.colors import PowerNorm

    true = checked_labels(labels, "labels", "confusion_matrix", class_names)
    guess = checked_labels(predicted, "predicted", "confusion_matrix", class_names)
    check_same_length("confusion_matrix", labels=true, predicted=guess)
    size = len(class_names)
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (true, guess), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = short_names(class_names, 24)
    side = min(3.0 + 0.5 * size, 12.0)
    figure, (axes,) = panels(1, 1, (side + 1.2, side))
    figure.set_layout_engine("compressed")  # which keeps the cells square
    # Colours by the root of the share: on a linear scale an error of 2 % is invisible.
    norm = PowerNorm(0.5, vmin=0, vmax=100)
    image = axes.imshow(100 * share, cmap="Blues", norm=norm)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
    bar.set_label("share of the true class (%)")
    bar.set_ticks([0, 1, 5, 10, 25, 50, 75, 100])
    fontsize = 9 if size <= MOST_WITH_NUMBERS else 6
    axes.set_xticks(range(size), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=fontsize)
    axes.set_yticks(range(size), names, fontsize=fontsize)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    right = float((true == guess).mean())
    axes.set_title(f"{100 * right:.1f} % of {len(true):,} examples are right", loc="left", fontsize="medium")
    if size <= MOST_WITH_NUMBERS:
        for row, column in np.ndindex(size, size):
            color = "white" if share[row, column] > 0.3 else "black" if counts[row, column] else "#b0b4ba"
            text = f"{counts[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8 if size > 6 else 11)
    return figure


def error_histogram(errors: Any, unit: str | None) -> Figure:
    """Histogram of errors.

    Args:
        errors: float `[n]`, predicted minus true.
        unit: Their unit, such as `"mpg"`; `None` for none.

    Raises:
        ValueError: No errors, another shape, or values that are not finite.

    Examples:
        >>> figure = error_histogram([-0.9, 1.0, -1.5, 0.2], unit="mpg")
        >>> len(figure.axes)
        1
    """
    values = checked_numbers(errors, "errors", "error_histogram")
    figure, (axes,) = panels(1, 1, (6.4, 4.0))
    bins = int(np.clip(2 * np.sqrt(len(values)), 6, 60))
    reach = max(float(np.abs(values).max()), 1e-12)
    axes.hist(values, bins=np.linspace(-reach, reach, 2 * (bins // 2) + 1).tolist(), color=BLUE, edgecolor="white")
    axes.axvline(0, color=BLACK, linewidth=1, label="no error")
    mean = float(values.mean())
    axes.axvline(mean, color=ORANGE, linestyle="--", linewidth=1.8, label=f"mean error {mean:+.3g}{_of(unit)}")
    axes.set_xlabel(with_unit("error: predicted minus true", unit))
    axes.set_ylabel("examples")
    absolute = float(np.abs(values).mean())
    axes.set_title(
        f"mean absolute error {absolute:.3g}{_of(unit)}, {len(values):,} examples", loc="left", fontsize="medium"
    )
    set_grid(axes)
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    return figure


def true_against_predicted(true: Any, predicted: Any, unit: str | None) -> Figure:
    """Scatter plot of predicted over true values; exact predictions are on the diagonal.

    Args:
        true: `[n]`, true values.
        predicted: `[n]`, predicted values.
        unit: Their unit, such as `"mpg"`; `None` for none.

    Raises:
        ValueError: Lengths differ, another shape, or values that are not finite.

    Examples:
        >>> figure = true_against_predicted([18.0, 15.0, 27.0], [17.1, 16.0, 25.5], unit="mpg")
        >>> len(figure.axes)
        1
    """
    x = checked_numbers(true, "true", "true_against_predicted")
    y = checked_numbers(predicted, "predicted", "true_against_predicted")
    check_same_length("true_against_predicted", true=x, predicted=y)
    figure, (axes,) = panels(1, 1, (5.2, 5.2))
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    room = 0.05 * (high - low) or 1.0
    ends = (low - room, high + room)
    axes.plot(ends, ends, color=BLACK, linewidth=1, label="predicted = true")
    axes.scatter(x, y, s=18, color=BLUE, alpha=0.6 if len(x) < 1000 else 0.25, linewidths=0, label="an example")
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_xlabel(with_unit("true", unit))
    axes.set_ylabel(with_unit("predicted", unit))
    absolute = float(np.abs(y - x).mean())
    axes.set_title(f"mean absolute error {absolute:.3g}{_of(unit)}, {len(x):,} examples", loc="left", fontsize="medium")
    set_grid(axes, "both")
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    return figure


def _of(unit: str | None) -> str:
    return escaped(f" {unit}") if unit else ""
