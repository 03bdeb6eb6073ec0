"""Figures, drawn with matplotlib, without a display."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightkeras import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_COLUMNS = 3
COLORS = {"train": "#8a8f98", "val": "#2563eb"}
MARK = "#d97706"


def curves(history: Mapping[str, Sequence[float]], path: Path, *, best_epoch: int | None = None) -> None:
    """Draws one panel per value, with train and validation as its lines, over epochs.

    Args:
        history: Values per epoch by name, such as `FitResult.history`.
        path: The file to write, with an ending that matplotlib knows.
        best_epoch: Epoch, counted from 1, to mark; `None` marks none.

    Raises:
        ValueError: There is nothing to draw, or matplotlib does not know the ending.
        OSError: The file could not be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name.split("/", 1)[1] for name, values in history.items() if values))
    if not names:
        raise ValueError("There are no epochs to draw: the history is empty.")
    columns = min(len(names), MOST_COLUMNS)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for name, axes in zip(names, panels, strict=False):
        for split, color in COLORS.items():
            values = history.get(f"{split}/{name}")
            if values:
                axes.plot(range(1, len(values) + 1), values, color=color, label=split, marker="o", markersize=3)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=MARK, linestyle=":", label="best epoch")
        axes.set_title(name, loc="left", fontsize="medium")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.legend(frameon=False)
    for unused in panels:
        unused.remove()
    _save(figure, path)


def learning_rates(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    path: Path,
    *,
    suggestion: float | None = None,
    loss: str = "loss",
) -> None:
    """Draws the curve of a learning-rate range test: the loss over the learning rate.

    Args:
        rates: Learning rates, such as `LearningRates.rates`.
        losses: Losses at those rates.
        smoothed: The losses, smoothed.
        path: The file to write, with an ending that matplotlib knows.
        suggestion: Learning rate to mark; `None` marks none.
        loss: Name of the loss.

    Raises:
        ValueError: There is nothing to draw, or matplotlib does not know the ending.
        OSError: The file could not be written.
    """
    from matplotlib.figure import Figure

    if not rates:
        raise ValueError("There are no steps to draw: the range test is empty.")
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=COLORS["train"], linestyle="", marker="o", markersize=3, alpha=0.5, label="a step")
    axes.plot(rates, smoothed, color=COLORS["val"], linewidth=2, label="smoothed")
    if suggestion is not None:
        axes.axvline(suggestion, color=MARK, linestyle=":", label=f"suggestion {suggestion:.2g}")
    low, high = _range_of_descent(smoothed)
    if low < high:  # where the loss runs away it would hide everything else
        axes.set_ylim(low - 0.25 * (high - low), high + 0.5 * (high - low))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_title(loss, loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    _save(figure, path)


def _range_of_descent(smoothed: Sequence[float]) -> tuple[float, float]:
    """The least value, and the largest before it."""
    if not all(map(math.isfinite, smoothed)):
        return 0.0, 0.0
    bottom = min(range(len(smoothed)), key=smoothed.__getitem__)
    return smoothed[bottom], max(smoothed[: bottom + 1])


def _save(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.removeprefix(".") or None, dpi=130)
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, drawn.getvalue())
