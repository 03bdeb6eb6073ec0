"""The examples on which an artifact and its model are compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lightkeras.data.datasets.sample_reviews import sample_reviews
from lightkeras.data.feed import Feed
from lightkeras.data.held_out import held_out_of
from lightkeras.data.structure import Structure
from lightkeras.encoders.base import batches_of, inputs_of
from lightkeras.exports.errors import ExportError
from lightkeras.exports.ports import Port, Ports
from lightkeras.task import Task

COUNT = 32
OPEN = 8
"""Size of an axis that is open, of drawn examples."""


def examples_of(task: Task, inputs: Ports) -> tuple[dict[str, np.ndarray], str]:
    """Examples of the test split of a task, else of the validation split, by the names of a model's inputs.

    Returns:
        The examples, and the name of the split.

    Raises:
        ExportError: The task has no such split, or the split has other inputs.
    """
    parts: list[dict[str, np.ndarray]] = []
    split, feed = held_out_feed(task)
    for batch in batches_of(feed):
        parts.append({name: np.asarray(array[:COUNT]) for name, array in by_name(inputs, inputs_of(batch)).items()})
        if sum(len(part[inputs.names[0]]) for part in parts) >= COUNT:
            break
    return {name: plain(np.concatenate([part[name] for part in parts])[:COUNT]) for name in inputs.names}, split


def held_out_feed(task: Task) -> tuple[str, Feed]:
    """Name and feed of the test split of a task, else of the validation split; of several sets the first."""
    if task.data is None:
        raise ExportError(f"{type(task).__name__} has no data module: leave out --task to compare on drawn examples.")
    task.data.prepare(task.lookup)
    for split in ("test", "validation"):
        for feed in held_out_of(task.data, split, COUNT).values():
            return split, feed
    raise ExportError(f"{type(task).__name__} has neither a test nor a validation split to compare on.")


def by_name(inputs: Ports, structure: Structure) -> dict[str, Any]:
    """The arrays of a batch's inputs by the names of a model's inputs."""
    try:
        return inputs.unpack(structure)
    except ValueError as error:
        raise ExportError(f"The task's data does not fit the model's inputs: {error}.") from error


def plain(array: Any) -> np.ndarray:
    """An array that a file holds without pickle: texts as bytes of one length."""
    found = np.asarray(array)
    if found.dtype.kind in "OU":
        return np.array([text.encode() if isinstance(text, str) else bytes(text) for text in found.ravel()]).reshape(
            found.shape
        )
    return found


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays by name, for `reader.py`."""
    np.savez(path, **arrays)


def drawn_examples(model: keras.Model, inputs: Ports, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws examples from the shapes and dtypes of a model's inputs alone: texts are reviews of the built-in sample."""
    random = np.random.default_rng(seed)
    sizes = [layer.input_dim for layer in layers_of(model) if isinstance(layer, keras.layers.Embedding)]
    return {port.name: _drawn(port, random, min(sizes, default=2)) for port in inputs.each}


def _drawn(port: Port, random: np.random.Generator, numbers: int) -> np.ndarray:
    shape = (COUNT, *(OPEN if size is None else size for size in port.shape[1:]))
    if port.is_text:
        texts, _ = sample_reviews(COUNT, seed=int(random.integers(1 << 16)))
        return plain(np.resize(np.array(texts, dtype=object), shape))
    if port.dtype == "bool":
        return random.random(shape) < 0.5
    if port.dtype.startswith(("int", "uint")):
        return random.integers(0, numbers, shape).astype(port.dtype)
    return random.random(shape).astype(port.dtype)


def layers_of(model: keras.Model) -> list[keras.Layer]:
    """All layers of a model, also those inside others."""
    return list(model._flatten_layers(include_self=False))
