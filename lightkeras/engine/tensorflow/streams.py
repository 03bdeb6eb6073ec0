"""Feeds as `tf.data` iterators at a position."""

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
from lightkeras.engine.tf_data import IteratorStream


@final
class PipelineStream(IteratorStream):
    """Arrays in memory, whose only state is the position."""


@final
class ReaderStream(IteratorStream):
    """The batches of a reader, fed into a `tf.data.Dataset`."""

    @contextlib.contextmanager
    def source_errors(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError:
            if self._reader is None or self._reader.error is None:
                raise
            raise self._reader.error from None  # the error of `tf.data` only quotes its text


def generated(reader: StreamReader) -> tf.data.Dataset:
    signature = map_structure(tensor_spec, reader.spec)
    return tf.data.Dataset.from_generator(reader.batches, output_signature=signature)


@dataclasses.dataclass(frozen=True)
class HeldBags:
    """The tensors of `Bags`, on the device."""

    ids: Tensor
    weights: Tensor
    splits: Tensor


def on_device(leaf: np.ndarray | Bags) -> Tensor | HeldBags:
    """Converts an array or bags to tensors."""
    if isinstance(leaf, Bags):
        return HeldBags(*map(tf.convert_to_tensor, (leaf.ids, leaf.weights, leaf.splits)))
    return tf.convert_to_tensor(leaf)


def gathered(held: Tensor | HeldBags, indices: Tensor) -> Structure:
    """Gathers examples from a result of `on_device`, by index; bags become the tensors of `Bags.batch`."""
    if not isinstance(held, HeldBags):
        return tf.gather(held, indices)
    starts = tf.gather(held.splits, indices)
    counts = tf.gather(held.splits, indices + 1) - starts
    rows = tf.repeat(tf.range(tf.size(indices)), counts)
    # Entry e of the batch is entry e - (number of entries of earlier examples) of its example.
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
