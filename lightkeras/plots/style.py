"""Shared by all figures: colours, panels, text, and checks of arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# M. Okabe and K. Ito, "Color Universal Design", 2008.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
MANY = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)  # their yellow is too light for lines on white
GREY = "#8a8f98"  # for neutral parts
RIGHT, WRONG = BLUE, VERMILLION
RIGHT_MARK, WRONG_MARK = "\N{CHECK MARK}", "\N{BALLOT X}"


def panels(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Creates a figure with at most `columns` panels in a row, each of `size` (width, height) in inches."""
    from lightkeras.plots.figure import ShownFigure

    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = ShownFigure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def set_grid(axes: Axes, grid: str = "y") -> None:
    """Hides the upper and right spines, and draws a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)
    axes.set_axisbelow(True)


def escaped(text: Any) -> str:
    """Escapes dollar signs: matplotlib reads text between two of them as a formula."""
    return str(text).replace("$", r"\$")


def shortened(text: Any, most: int) -> str:
    """Text in one line, shortened to at most `most` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"


def short_names(names: Sequence[str], most: int) -> list[str]:
    """Names of classes, shortened to `most` characters in the middle: their ends distinguish them."""
    lines = [" ".join(str(name).split()) for name in names]
    head, tail = most // 2, most - most // 2 - 1
    return [
        escaped(line if len(line) <= most else f"{line[:head].rstrip()}\N{HORIZONTAL ELLIPSIS}{line[-tail:].lstrip()}")
        for line in lines
    ]


def checked_numbers(values: Any, name: str, function: str) -> np.ndarray:
    """Returns finite numbers as float64 `[n]`, n at least 1; a ValueError if they are anything else."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{function}({name}=...): expected numbers, got an array of dtype {array.dtype}.")
    array = array.astype(np.float64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{function}({name}=...): expected the shape [n] with n of at least 1, got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{function}({name}=...): {int((~np.isfinite(array)).sum())} of {len(array)} values are not finite."
        )
    return array


def checked_labels(values: Any, name: str, function: str, class_names: Sequence[str]) -> np.ndarray:
    """Returns class numbers as int64 `[n]`; a ValueError if one is not whole, or has no name."""
    array = checked_numbers(values, name, function)
    if (array != np.round(array)).any():
        raise ValueError(f"{function}({name}=...): expected class numbers, got {array[array != np.round(array)][0]}.")
    wrong = array[(array < 0) | (array >= len(class_names))]
    if len(wrong):
        raise ValueError(
            f"{function}({name}=...): got the class {int(wrong[0])}, but the {len(class_names)} class_names are "
            f"for 0 to {len(class_names) - 1}."
        )
    return array.astype(np.int64)


def check_same_length(function: str, **found: Sequence[Any] | np.ndarray) -> None:
    """Raises a ValueError if the arguments differ in length."""
    lengths = {name: len(value) for name, value in found.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"{function}: got {listed}; expected the same number of each.")


def with_unit(name: str, unit: str | None) -> str:
    """Label of an axis: name and unit, if any."""
    return escaped(f"{name} ({unit})" if unit else name)
