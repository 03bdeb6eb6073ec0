"""Figures, drawn with matplotlib, without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightkeras import files

COLORS = {"train": "#8a8f98", "val": "#2563eb"}


def curves(history: Mapping[str, Sequence[float]], path: Path, *, best_epoch: int | None = None) -> None:
    """Draws one panel per value, with train and validation as its lines, over epochs.

    Args:
        history: Values per epoch by name, such as `FitResult.history`.
        path: The file to write, with an ending that matplotlib knows.
        best_epoch: Epoch, counted from 1, to mark; `None` marks none.

    Raises:
        ValueError: There is nothing to draw.
        OSError: The file could not be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name.split("/", 1)[1] for name in history))
    if not names:
        raise ValueError("There are no epochs to draw: the history is empty.")
    figure = Figure(figsize=(5.2 * len(names), 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for split, color in COLORS.items():
            values = history.get(f"{split}/{name}")
            if values:
                axes.plot(range(1, len(values) + 1), values, color=color, label=split, marker="o", markersize=3)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="#d97706", linestyle=":", label="best epoch")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False)
    beside = path.with_name(f".part-{path.name}")
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            figure.savefig(beside, dpi=130)
            files.move_synced(beside, path)
        finally:
            beside.unlink(missing_ok=True)
