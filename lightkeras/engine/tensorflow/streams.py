"""Feeds, opened at a position, as iterators over `tf.data`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import final

import numpy as np
import tensorflow as tf

from lightkeras.data.bags import Bags
from lightkeras.data.stream_reader import StreamReader
from lightkeras.data.structure import ArraySpec, Structure, map_structure
from lightkeras.engine.base import Tensor
from lightkeras.engine.tf_data import Ahead, IteratorStream


@final
class PipelineStream(IteratorStream):
    """Arrays in memory, whose position says all."""

    def state(self) -> bytes | None:
        return None


@final
class ReadingStream(IteratorStream):
    """A stream without a state of its own, fed into a `tf.data.Dataset`."""

    def __init__(
        self, dataset: tf.data.Dataset, structure: Structure, ahead: Ahead, reading: StreamReader, reread: int
    ) -> None:
        super().__init__(dataset, structure, ahead, reread)
        self._reading = reading

    def state(self) -> bytes | None:
        return self._reading.state()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError:
            if self._reading.error is None:
                raise
            raise self._reading.error from None  # `tf.data` gives its text, among much else


def generated(reading: StreamReader) -> tf.data.Dataset:
    signature = map_structure(tensor_spec, reading.spec)
    return tf.data.Dataset.from_generator(reading.batches, output_signature=signature)


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
