"""Summaries of the models of a task: their layers, parameters, and which of them are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from lightkeras.runs.results import counted
from lightkeras.system.tables import Table
from lightkeras.task import Task

_ENDS = 10
"""Layers at both ends of a longer model that `table_of` lists."""


def models_of(task: Task) -> dict[str, dict[str, Any]]:
    """Returns a summary of each model and each layer among the task's attributes, by path, as `config.json` holds it.

    A layer that is part of a model before it is left out. A nested model counts as one layer.
    """
    found: dict[str, dict[str, Any]] = {}
    inside: set[int] = set()
    for path, part in task.tracked().items():
        if isinstance(part, keras.Layer) and id(part) not in inside:
            layers = part.layers if isinstance(part, keras.Model) else [part]
            inside |= {id(layer) for layer in layers}
            found[path] = {
                "class": type(part).__name__,
                "parameters": _count(part.weights),
                "trained": _count(part.trainable_weights),
                "layers": [_layer(layer) for layer in layers],
            }
    return found


def are_alike(models: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether summaries differ in the names of layers at most: Keras numbers them through the whole process."""

    def unnamed(found: Mapping[str, Any]) -> dict[str, Any]:
        return {
            path: {**model, "layers": [{**layer, "name": ""} for layer in model["layers"]]}
            for path, model in found.items()
        }

    return unnamed(models) == unnamed(others)


def line_of(path: str, model: dict[str, Any]) -> str:
    """Returns a model in a line: its layers and parameters."""
    parameters, trained = model["parameters"], model["trained"]
    share = "all trained" if trained == parameters else f"{trained:,} of them trained"
    return f"{path}: {counted(len(model['layers']), 'layer')}, {counted(parameters, 'parameter')}, {share}"


def table_of(model: dict[str, Any]) -> Table:
    """Returns a table of the layers of a model; of a long one those at both ends."""
    layers: Sequence[dict[str, Any]] = model["layers"]
    left_out = len(layers) - 2 * _ENDS
    rows = [
        [layer["name"], layer["class"], layer["output"], f"{layer['parameters']:,}", _share(layer)] for layer in layers
    ]
    if left_out > 1:
        rows[_ENDS:-_ENDS] = [[f"({counted(left_out, 'more layer')})", "", "", "", ""]]
    return Table(["layer", "class", "output", "parameters", "trained"], rows, texts=[1, 2, 4])


def _layer(layer: keras.Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "class": type(layer).__name__,
        "output": _output_of(layer),
        "parameters": _count(layer.weights),
        "trained": _count(layer.trainable_weights),
    }


def _output_of(layer: keras.Layer) -> str:
    """The shape of the output, `-` for axes of any size; empty if it is not known, as in a subclassed model."""
    try:
        shapes = [tuple(tensor.shape) for tensor in keras.tree.flatten(layer.output)]
    except (AttributeError, ValueError):  # never called on symbolic inputs, or called several times
        return ""
    return ", ".join(" x ".join("-" if size is None else str(size) for size in shape) or "scalar" for shape in shapes)


def _share(layer: dict[str, Any]) -> str:
    if not layer["parameters"]:
        return ""
    return "yes" if layer["trained"] == layer["parameters"] else "partly" if layer["trained"] else "no"


def _count(weights: Sequence[keras.Variable]) -> int:
    """Number of values. The states of metrics and of random generators are not among the weights of a layer."""
    return sum(math.prod(variable.shape) for variable in weights)
