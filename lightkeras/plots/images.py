"""Figures of images: grids, before and after, and images with predicted probabilities."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightkeras.plots.style import (
    GREY,
    RIGHT,
    RIGHT_MARK,
    WRONG,
    WRONG_MARK,
    check_same_length,
    checked_labels,
    escaped,
    panels,
    short_names,
    shortened,
)
from lightkeras.system.messages import check_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Images = Sequence[Any] | np.ndarray
"""Images: `[n, height, width]` or `[n, height, width, 1]` in grey, `[n, height, width, 3]` or `4` in colour; float
from 0 to 1, or uint8. A list may hold images of different sizes."""

MOST_BARS = 10
_LONGEST = 22  # characters of a class name beside its bar
_TOLERANCE = 1e-3  # rounding error of 0, of 1 and of a sum of probabilities


def image_grid(images: Images, titles: Sequence[str] | None = None, columns: int = 5) -> Figure:
    """Images in rows, each with its title.

    Args:
        images: `[n, height, width]`, or with 1, 3 or 4 channels as the last axis; float from 0 to 1, or uint8.
        titles: A title per image; `None` for none.
        columns: Largest number of images in a row.

    Raises:
        ValueError: No images, another shape or range, or another number of titles.

    Examples:
        >>> figure = image_grid(np.zeros((7, 28, 28)), titles=list("abcdefg"))
        >>> len(figure.axes)
        7
    """
    checked = _images(images, "image_grid")
    check_whole("image_grid", "columns", columns, 1)
    if titles is not None:
        check_same_length("image_grid", images=checked, titles=titles)
    in_a_row = min(columns, len(checked))
    side = 1.05 if in_a_row > 6 else 1.5 if in_a_row > 2 else 2.6
    height = min(max(image.shape[0] / image.shape[1] for image in checked), 3.0) * side
    figure, all_axes = panels(len(checked), columns, (side, height + (0.0 if titles is None else 0.3)))
    for number, (image, axes) in enumerate(zip(checked, all_axes, strict=True)):
        _show(axes, image)
        if titles is not None:
            axes.set_title(_wrapped(titles[number], int(12 * side)), fontsize=8 if side > 1.2 else 7)
    return figure


def before_after(rows: Mapping[str, Images]) -> Figure:
    """The same images in several states, one row per state, such as noisy, restored and true.

    Args:
        rows: Images by the title of their row, the same number in each; see `image_grid`.

    Raises:
        ValueError: No rows, rows of different lengths, another shape or range.

    Examples:
        >>> noisy, restored = np.full((3, 8, 8), 0.5), np.zeros((3, 8, 8))
        >>> figure = before_after({"noisy": noisy, "restored": restored})
        >>> len(figure.axes)
        6
    """
    if not rows:
        raise ValueError("before_after: got no rows; expected images by the title of their row.")
    checked = {title: _images(images, f"before_after({title!r})") for title, images in rows.items()}
    lengths = {title: len(images) for title, images in checked.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{length} in {title!r}" for title, length in lengths.items())
        raise ValueError(f"before_after: got {listed} images; expected the same number in each row.")
    columns = next(iter(lengths.values()))
    figure, all_axes = panels(len(checked) * columns, columns, (1.3, 1.3))
    width = max(len(line) for title in checked for line in _wrapped(title, 16, lines=3).split("\n"))
    figure.set_figwidth(1.3 * columns + 0.1 * width)
    left = iter(all_axes)
    for title, images in checked.items():
        for number, image in enumerate(images):
            axes = next(left)
            _show(axes, image)
            if number == 0:
                axes.set_ylabel(
                    _wrapped(title, 16, lines=3), rotation=0, ha="right", va="center", fontsize=9, labelpad=6
                )
    return figure


def prediction_bars(
    images: Images, probabilities: Any, labels: Any, class_names: Sequence[str], columns: int = 3
) -> Figure:
    """Images and their predicted probabilities: right ones blue with a check mark, wrong ones red with a cross.

    Of more than ten classes the most likely ones and the true one are shown. After "Basic classification: classify
    images of clothing", https://www.tensorflow.org/tutorials/keras/classification

    Args:
        images: `[n, height, width]`, or with 1, 3 or 4 channels as the last axis; float from 0 to 1, or uint8.
        probabilities: `[n, classes]`, from 0 to 1; each row sums to 1.
        labels: `[n]`, the true classes, from 0.
        class_names: Names of the classes.
        columns: Largest number of examples in a row.

    Raises:
        ValueError: Lengths differ, another shape or range, rows that are not probabilities, a label without a name.

    Examples:
        >>> images, probabilities = np.zeros((2, 8, 8)), [[0.9, 0.1], [0.3, 0.7]]
        >>> figure = prediction_bars(images, probabilities, labels=[0, 0], class_names=["cat", "dog"])
        >>> len(figure.axes)  # an image and its bars, twice
        4
    """
    checked = _images(images, "prediction_bars")
    check_whole("prediction_bars", "columns", columns, 1)
    rows = _probabilities(probabilities, class_names)
    true = checked_labels(labels, "labels", "prediction_bars", class_names)
    check_same_length("prediction_bars", images=checked, probabilities=rows, labels=true)
    shown = min(len(class_names), MOST_BARS)
    columns = min(columns, len(checked))
    longest = max(map(len, short_names(class_names, _LONGEST)))
    # Two axes per example; the bars need room for the names of the classes.
    figure, all_axes = panels(2 * len(checked), 2 * columns, (1.75, max(1.5, 0.17 * shown + 0.5)))
    figure.set_figwidth(columns * (3.6 + 0.07 * longest))
    figure.get_layout_engine().set(w_pad=0.08)
    short = short_names(class_names, 16)
    for number, (image, row, label) in enumerate(zip(checked, rows, true, strict=True)):
        _show(all_axes[2 * number], image)
        _bars(all_axes[2 * number + 1], row, int(label), class_names)
        guess = int(row.argmax())
        right = guess == label
        title = f"{RIGHT_MARK if right else WRONG_MARK} {short[guess]} ({100 * row[guess]:.0f} %)"
        title = title if right else f"{title}\n    true: {short[int(label)]}"
        all_axes[2 * number].set_title(title, loc="left", fontsize=8, color=RIGHT if right else WRONG)
    return figure


def _bars(axes: Axes, row: np.ndarray, label: int, class_names: Sequence[str]) -> None:
    guess = int(row.argmax())
    order = list(range(len(row)))
    if len(row) > MOST_BARS:
        order = sorted(np.argsort(-row, kind="stable")[:MOST_BARS].tolist())
        order = order if label in order else sorted([*np.argsort(-row, kind="stable")[: MOST_BARS - 1].tolist(), label])
    colors = [RIGHT if number == label else WRONG if number == guess else GREY for number in order]
    axes.barh(range(len(order)), row[order], color=colors, height=0.75)
    axes.set_yticks(range(len(order)), short_names([class_names[number] for number in order], _LONGEST), fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "50", "100 %"], fontsize=7)
    axes.tick_params(length=2)
    axes.spines[["top", "right"]].set_visible(False)
    for text, number in zip(axes.get_yticklabels(), order, strict=True):
        if number in (label, guess):
            text.set_color(RIGHT if number == label else WRONG)
            text.set_fontweight("bold")


def _show(axes: Axes, image: np.ndarray) -> None:
    if image.ndim == 2:
        axes.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1, interpolation="nearest")
    else:
        axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=GREY, linewidth=0.5)


def _images(images: Images, function: str) -> list[np.ndarray]:
    """Images as `[height, width]` or `[height, width, 3 or 4]`, uint8 or float from 0 to 1."""
    if isinstance(images, np.ndarray) and images.ndim not in (3, 4):
        raise ValueError(
            f"{function}: the images have the shape {images.shape}; expected [n, height, width] or "
            "[n, height, width, channels]. One image alone is images[None]."
        )
    if not len(images):
        raise ValueError(f"{function}: got no images; expected at least one.")
    return [_image(np.asarray(image), number, function) for number, image in enumerate(images)]


def _image(image: np.ndarray, number: int, function: str) -> np.ndarray:
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[-1] in (3, 4))) or 0 in image.shape:
        raise ValueError(
            f"{function}: image {number} has the shape {image.shape}; expected [height, width], or 1, 3 or 4 channels "
            "as the last axis."
        )
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind not in "fiub":
        raise ValueError(f"{function}: image {number} has the dtype {image.dtype}; expected float or uint8.")
    image = np.asarray(image, np.float32)
    if not np.isfinite(image).all():
        raise ValueError(f"{function}: image {number} has values that are not finite.")
    if image.min() < -_TOLERANCE or image.max() > 1 + _TOLERANCE:
        raise ValueError(
            f"{function}: image {number} has values from {image.min():.4g} to {image.max():.4g}; expected 0 to 1, or "
            "uint8 from 0 to 255. Scale them, as in images / 255."
        )
    clipped: np.ndarray = np.clip(image, 0, 1)
    return clipped


def _probabilities(given: Any, class_names: Sequence[str]) -> np.ndarray:
    rows = np.asarray(given)
    if rows.ndim != 2 or rows.shape[1] != len(class_names) or rows.dtype.kind not in "fiub":
        raise ValueError(
            f"prediction_bars(probabilities=...): got {rows.dtype} of the shape {rows.shape}; expected [n, "
            f"{len(class_names)}], one for each of the {len(class_names)} class_names."
        )
    rows = rows.astype(np.float64)
    sums = rows.sum(1)
    wrong = ~(np.isfinite(sums) & (rows >= -_TOLERANCE).all(1) & (np.abs(sums - 1) <= 10 * _TOLERANCE))
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"prediction_bars(probabilities=...): row {first} has values from {rows[first].min():.4g} to "
            f"{rows[first].max():.4g} and sums to {sums[first]:.4g}: these are not probabilities. Apply "
            "keras.ops.softmax to logits."
        )
    return rows


def _wrapped(title: Any, width: int, lines: int = 2) -> str:
    """A title, wrapped to at most `lines` lines."""
    found = textwrap.wrap(str(title), width)
    if len(found) > lines:
        found = [*found[: lines - 1], shortened(" ".join(found[lines - 1 :]), width)]
    return escaped("\n".join(found))
