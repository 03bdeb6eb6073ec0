"""Feeds, opened at a position: arrays that lie on the device, and iterators over `tf.data`."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import final

import numpy as np
import safetensors.numpy
import tensorflow as tf

from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed, ArraySpec, StreamFeed, Structure, flatten, map_structure
from lightkeras.data.reading import Reading
from lightkeras.engine.base import (
    Ahead,
    Stream,
    Tensor,
)

AUTO = tf.data.AUTOTUNE
_ITERATOR = "iterator"  # name of a saved iterator's files


@final
class ArrayStream(Stream):
    """Examples on the device, and the numbers of those that come next."""

    def __init__(self, feed: ArrayFeed, arrays: Structure, epoch: int, step: int, seed: int) -> None:
        super().__init__()
        self.arrays = arrays
        self._feed, self._epoch, self._step, self._seed = feed, epoch, step, seed

    def state(self) -> bytes | None:
        return None

    def next_batch(self) -> Structure | None:
        indices = self.next_indices(1)
        return None if indices is None else map_structure(lambda array: array[indices[0]], self._feed.arrays)

    def shapes(self) -> list[list[int | None]] | None:
        return None

    def next_indices(self, count: int) -> np.ndarray | None:
        if self._step >= self._feed.steps:
            return None
        indices = self._feed.indices(self._epoch, self._step, count, self._seed)
        self._step += len(indices)
        return indices


class IteratorStream(Stream):
    """An iterator over a `tf.data.Dataset`.

    Args:
        dataset: The dataset of batches, or of pairs of a batch's arrays and what was computed ahead.
        structure: Form of a batch in the second case, else `None`.
        reread: See `Stream`.
    """

    def __init__(self, dataset: tf.data.Dataset, structure: Structure = None, reread: int = 0) -> None:
        super().__init__(reread)
        self.iterator = iter(dataset)
        self.structure = structure

    def next_batch(self) -> Structure | None:
        element = next(self.iterator, None)
        if element is None:
            return None
        if self.structure is not None:
            leaves = iter(element[0])
            element = map_structure(lambda _: next(leaves), self.structure)
        return map_structure(lambda tensor: tensor.numpy(), element)

    def shapes(self) -> list[list[int | None]] | None:
        spec = self.iterator.element_spec
        return [leaf.shape.as_list() for _, leaf in flatten(spec if self.structure is None else spec[0])]


@final
class PipelineStream(IteratorStream):
    """Arrays in memory, whose position says all."""

    def state(self) -> bytes | None:
        return None


@final
class ReadingStream(IteratorStream):
    """A stream without a state of its own, fed into a `tf.data.Dataset`."""

    def __init__(self, dataset: tf.data.Dataset, structure: Structure, reading: Reading, reread: int) -> None:
        super().__init__(dataset, structure, reread)
        self._reading = reading

    def state(self) -> bytes | None:
        return self._reading.state()


@final
class DatasetStream(IteratorStream):
    """A `tf.data.Dataset` that was given: its iterator can be saved, if all its parts can."""

    def state(self) -> bytes | None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                tf.train.Checkpoint(iterator=self.iterator).write(f"{folder}/{_ITERATOR}")
            except tf.errors.FailedPreconditionError:  # a part of it, such as a Python function, has a state of its own
                return None
            found = {path.name: np.fromfile(path, np.uint8) for path in Path(folder).iterdir()}
        return safetensors.numpy.save(found)

    def restore(self, state: bytes) -> None:
        """Brings the iterator to where `state` was called."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in safetensors.numpy.load(state).items():
                content.tofile(Path(folder) / Path(name).name)
            tf.train.Checkpoint(iterator=self.iterator).read(f"{folder}/{_ITERATOR}").assert_consumed()


def staged(dataset: tf.data.Dataset, feed: StreamFeed, ahead: Ahead) -> tf.data.Dataset:
    """The batches of a stream, with what is computed ahead, made while steps run."""
    if ahead:
        stage = functools.partial(computed_ahead, ahead=ahead)
        dataset = dataset.map(lambda *batch: stage(batch if isinstance(feed.spec, tuple) else batch[0]), AUTO)
    return dataset.prefetch(AUTO)


def generated(reading: Reading) -> tf.data.Dataset:
    signature = map_structure(tensor_spec, reading.spec)
    return tf.data.Dataset.from_generator(reading.batches, output_signature=signature)


def computed_ahead(batch: Structure, ahead: Ahead) -> Structure:
    """The arrays of a batch, and what each function makes of the array at its position."""
    leaves = tuple(leaf for _, leaf in flatten(batch))
    return leaves, tuple(function(leaves[position]) for function, position in ahead)


@dataclasses.dataclass(frozen=True)
class HeldBags:
    """Bags on the device: the tensors of `Bags`."""

    ids: Tensor
    weights: Tensor
    splits: Tensor


def on_device(leaf: np.ndarray | Bags) -> Tensor | HeldBags:
    """A split's array, or its bags, as tensors."""
    if isinstance(leaf, Bags):
        return HeldBags(*map(tf.convert_to_tensor, (leaf.ids, leaf.weights, leaf.splits)))
    return tf.convert_to_tensor(leaf)


def gathered(held: Tensor | HeldBags, indices: Tensor) -> Structure:
    """Some examples of what `on_device` gave, in the order of `indices`; of bags what `Bags.batch` gives."""
    if not isinstance(held, HeldBags):
        return tf.gather(held, indices)
    starts = tf.gather(held.splits, indices)
    counts = tf.gather(held.splits, indices + 1) - starts
    rows = tf.repeat(tf.range(tf.size(indices)), counts)
    # Entry number e of the batch is entry number e - (entries of the examples before it) of its own example.
    shift = starts - tf.cumsum(counts, exclusive=True)
    entries = tf.range(tf.reduce_sum(counts)) + tf.gather(shift, rows)
    return {
        "counts": tf.cast(counts, tf.int32),
        "ids": tf.gather(held.ids, entries),
        "weights": tf.gather(held.weights, entries),
        "rows": rows,
    }


def tensor_spec(spec: ArraySpec) -> tf.TensorSpec:
    return tf.TensorSpec([None, *spec.shape], tf.as_dtype(spec.dtype))
