"""Weights of examples by the class of their label, as Keras's `fit(class_weight=...)` computes them."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from lightkeras.data.structure import Structure

Tensor = Any
NAMED = 10
"""Maximum number of classes that a message names."""


def class_weights(labels: Tensor, class_weight: Mapping[int, float]) -> Tensor:
    """Returns the weight of each example, by the class of its label.

    Args:
        labels: Class numbers, `[batch]` or `[batch, 1]`, rounded if they are floats; or a number for each class,
            `[batch, classes]`, of which the largest counts, as in a one-hot label. More axes may stand between.
        class_weight: The weight of each class, by its number. Other classes have the weight 1, as in Keras's `fit`.

    Returns:
        Tensor of dtype `keras.config.floatx()`, in the shape of the labels without their last axis if that stands for
        the classes or is 1: `[batch]`.

    Raises:
        TypeError: `class_weight` is not a mapping of class numbers to numbers.
        ValueError: It is empty, a weight is negative or not finite, or the size of the labels' last axis is not known.

    Examples:
        >>> import keras
        >>> keras.ops.convert_to_numpy(class_weights([0, 1, 1, 2], {0: 1.0, 1: 3.0})).tolist()
        [1.0, 3.0, 3.0, 1.0]
    """
    weight = checked(class_weight)
    low, high = min(weight), max(weight)
    table = np.ones(high - low + 1, keras.config.floatx())
    table[[number - low for number in weight]] = list(weight.values())
    classes = _numbers(ops.convert_to_tensor(labels))
    listed = ops.logical_and(classes >= low, classes <= high)
    found = ops.take(ops.convert_to_tensor(table), ops.clip(classes - low, 0, high - low))
    return ops.where(listed, found, ops.ones_like(found))


def weighted_by_class(labels: Structure, sample_weight: Tensor | None, class_weight: Mapping[int, float]) -> Tensor:
    """Returns the weights of a batch of `(x, y, sample_weight)`: products, if it has weights of its own.

    Args:
        labels: The labels of a model with one output; see `class_weights`.
        sample_weight: `[batch]`, or with further axes; `None` for none.
        class_weight: The weight of each class.

    Raises:
        ValueError: There are no labels, or labels of several outputs.
    """
    if labels is None or isinstance(labels, (Mapping, tuple, list)):
        found = "no labels" if labels is None else "labels of several outputs"
        raise ValueError(
            f"class_weight was given, and the batch has {found}: expected one array, because a class weighs a whole "
            "example. Give batches of (x, y, sample_weight), with weights by lk.class_weights."
        )
    weights = class_weights(labels, class_weight)
    if sample_weight is None:
        return weights
    sample_weight = ops.cast(sample_weight, weights.dtype)
    axes = max(len(weights.shape), len(sample_weight.shape))
    return _with_axes(weights, axes) * _with_axes(sample_weight, axes)


def checked(class_weight: Any) -> dict[int, float]:
    """Returns `class_weight` as plain numbers.

    Raises:
        TypeError: It is not a mapping of whole numbers to numbers.
        ValueError: It is empty, or a weight is negative or not finite.
    """
    if not isinstance(class_weight, Mapping):
        raise TypeError(
            f"class_weight={class_weight!r}: expected a dict of class numbers and weights, such as {{0: 1.0, 1: 5.0}}. "
            "Weights in the order of the classes become one with dict(enumerate(weights))."
        )
    for number, weight in class_weight.items():
        if not _is(number, numbers.Integral):
            raise TypeError(f"class_weight has the class {number!r}: expected its number, a whole number from 0.")
        if not _is(weight, numbers.Real):
            raise TypeError(f"class_weight has the weight {weight!r} for class {number}: expected a number.")
        if not 0 <= weight < math.inf:
            raise ValueError(f"class_weight has the weight {weight} for class {number}: expected a number from 0.")
    if not class_weight:
        raise ValueError("class_weight is empty: expected the weight of a class, such as {0: 1.0, 1: 5.0}.")
    return {int(number): float(weight) for number, weight in class_weight.items()}


def recorded(class_weight: Mapping[int, float] | None) -> dict[str, float] | None:
    """Returns `class_weight` with keys as in JSON; `read` reverses this."""
    return None if class_weight is None else {str(number): weight for number, weight in sorted(class_weight.items())}


def read(found: Mapping[str, float] | None) -> dict[int, float] | None:
    """Returns the class weights of a record."""
    return None if found is None else {int(number): weight for number, weight in found.items()}


def check_class_weight(
    class_weight: Mapping[int, float], labels: Structure, split: str, ignored: int | None = None
) -> None:
    """Compares the classes of `class_weight` with the labels of a split in memory.

    Warns of labels without a weight, which have the weight 1.

    Args:
        class_weight: The weight of each class.
        labels: NumPy array, see `class_weights`; other structures are not checked.
        split: Name of the split.
        ignored: Class that the loss ignores; `None` for none.

    Raises:
        ValueError: No label has one of the classes.
    """
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "biuf":
        return
    if labels.ndim > 1:
        labels = labels[..., 0] if labels.shape[-1] == 1 else labels.argmax(axis=-1)
    found, counts = np.unique(
        np.round(labels[np.isfinite(labels)].astype("float64")).astype("int64"), return_counts=True
    )
    number_of = dict(zip(found.tolist(), counts.tolist(), strict=True))
    absent = sorted(set(class_weight) - set(number_of))
    if absent:
        raise ValueError(
            f"class_weight has a weight for {_listed(absent)}, and no label of {split} has that class: the labels are "
            f"of {_listed(sorted(number_of))}. Remove the weight, or correct the number; classes count from 0."
        )
    missing = sorted(set(number_of) - set(class_weight) - {ignored})
    if missing:
        count = sum(number_of[number] for number in missing)
        warnings.warn(
            f"class_weight has no weight for {_listed(missing)}, the label of {count:,} of {labels.size:,} examples of "
            f"{split}: they have the weight 1, as in Keras's fit. Add {missing[0]}: 1.0 if that is meant.",
            UserWarning,
            stacklevel=2,
        )


def _numbers(labels: Tensor) -> Tensor:
    """Class numbers, int32, without the last axis of labels of several axes, as Keras reads them."""
    if len(labels.shape) > 1:
        if labels.shape[-1] is None:
            raise ValueError(
                "class_weights: the size of the last axis of the labels is not known, so whether it stands for the "
                "classes is not either. Set its shape, for example with tf.ensure_shape."
            )
        labels = ops.squeeze(labels, -1) if labels.shape[-1] == 1 else ops.argmax(labels, axis=-1)
    is_float = "float" in keras.backend.standardize_dtype(labels.dtype)
    return ops.cast(ops.round(labels) if is_float else labels, "int32")


def _with_axes(weights: Tensor, axes: int) -> Tensor:
    """Adds axes at the end, so that weights of examples are multiplied with those of their parts."""
    for _ in range(axes - len(weights.shape)):
        weights = ops.expand_dims(weights, -1)
    return weights


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, (bool, np.bool_))


def _listed(classes: list[int]) -> str:
    more = len(classes) - NAMED
    words = ", ".join(map(str, classes[:NAMED])) + (f" and {more} more" if more > 0 else "")
    return f"class{'es' * (len(classes) > 1)} {words}"
