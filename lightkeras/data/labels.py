"""Checks the labels of a whole split against the loss, before training.

Keras does not check them: a class that the model does not have becomes a NaN, or silently a wrong loss, at the step
where it occurs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from lightkeras.data.structure import Structure, spec_of


def outputs_by_name(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """The outputs of a model by name; empty for a subclassed model, whose outputs are known only when it is called."""
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) == 1:
        return {"": outputs[0]}
    if not isinstance(getattr(model, "output", None), Mapping):
        return dict(zip(getattr(model, "output_names", None) or [], outputs, strict=False))
    return dict(model.output)


def check_labels(losses: Any, labels: Structure, outputs: Mapping[str, keras.KerasTensor], split: str) -> None:
    """Checks labels against a loss of `model.compile`. Dicts of losses and labels are matched by name.

    Lists of losses, and losses other than the cross entropies, are left to Keras. A ValueError if a label is outside
    the range of its loss, is not a whole number where a class is expected, or is one class where a number for each
    class is expected, and the other way round.
    """
    if isinstance(losses, Mapping) and isinstance(labels, Mapping):
        for name in [name for name in losses if name in labels]:
            only = {"": outputs[name]} if name in outputs else {}
            check_labels(losses[name], labels[name], only, f"{split} ({name})")
    elif isinstance(labels, np.ndarray) and labels.size and not isinstance(losses, (Mapping, list, tuple)):
        loss = keras.losses.get(losses) if isinstance(losses, str) else losses
        if _is(loss, keras.losses.CategoricalCrossentropy, keras.losses.categorical_crossentropy):
            _check_one_hot(labels, outputs.get(""), split)
        elif takes_class_numbers(loss):
            _check_classes(labels, outputs.get(""), getattr(loss, "ignore_class", None), split)
        elif _is(loss, keras.losses.BinaryCrossentropy, keras.losses.binary_crossentropy):
            _check_numeric(labels, split)
            low, high = labels.min(), labels.max()
            if not (low >= 0 and high <= 1):
                raise ValueError(
                    f"The labels of {split} hold {high if low >= 0 else low}; binary cross entropy takes numbers "
                    "from 0 to 1. Map the two classes to 0 and 1; more than two are for sparse categorical "
                    "cross entropy."
                )


def takes_class_numbers(loss: Any) -> bool:
    """Whether a loss of `model.compile` takes the number of the class of each label, not one-hot labels."""
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    return _is(loss, keras.losses.SparseCategoricalCrossentropy, keras.losses.sparse_categorical_crossentropy)


def _check_one_hot(labels: np.ndarray, output: keras.KerasTensor | None, split: str) -> None:
    _check_numeric(labels, split)
    if output is None or len(output.shape) < 2 or output.shape[-1] is None:
        return
    if labels.ndim < len(output.shape) or labels.shape[-1] != output.shape[-1]:
        raise ValueError(
            f"The labels of {split} are {spec_of(labels)}; categorical cross entropy takes a number for each of the "
            f"model's {output.shape[-1]} outputs. Use sparse categorical cross entropy for numbers of classes, or "
            "make them one-hot with keras.utils.to_categorical."
        )


def _check_classes(labels: np.ndarray, output: keras.KerasTensor | None, ignored: int | None, split: str) -> None:
    _check_numeric(labels, split)
    if output is not None and labels.ndim == len(output.shape) and labels.shape[-1] > 1:
        raise ValueError(
            f"The labels of {split} are {spec_of(labels)}; sparse categorical cross entropy takes the number of the "
            "class. Use categorical cross entropy for one-hot labels, or give their numpy.argmax."
        )
    if ignored is not None:
        labels = labels[labels != ignored]
    classes = None if output is None else output.shape[-1]
    top = "up" if classes is None else f"to {classes - 1}"
    expected = f"sparse categorical cross entropy takes whole numbers from 0 {top}"
    if labels.dtype.kind == "f":
        broken = labels[labels != np.floor(labels)]  # NaN is one of them
        if broken.size:
            raise ValueError(f"The labels of {split} hold {broken[0]}; {expected}. Give the number of the class.")
    low, high = (labels.min(), labels.max()) if labels.size else (0, 0)
    if low < 0 or (classes is not None and high >= classes):
        units = "" if classes is None else f", one for each of the model's {classes} outputs"
        raise ValueError(
            f"The labels of {split} hold {low if low < 0 else high}; {expected}{units}. "
            "Count the classes from 0, and give the last layer a unit for each."
        )


def _check_numeric(labels: np.ndarray, split: str) -> None:
    if labels.dtype.kind not in "biuf":
        raise ValueError(
            f"The labels of {split} are {'text' if labels.dtype == object else labels.dtype.name}; the loss takes "
            "numbers. Map each label to a number, for example with keras.layers.StringLookup."
        )


def _is(loss: Any, kind: type, function: Any) -> bool:
    return loss is function or isinstance(loss, kind)
