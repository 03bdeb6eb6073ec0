"""Feeds as `tf.data` iterators at a position."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, final

import numpy as np
import tensorflow as tf

from lightkeras.data.bags import Bags
from lightkeras.data.feed import StreamFeed
from lightkeras.data.stream_reader import StreamReader
from lightkeras.data.structure import ArraySpec, Structure, map_structure
from lightkeras.engine.base import Tensor
from lightkeras.engine.streams import Prefetcher
from lightkeras.engine.tf_data import IteratorStream, Precomputed, staged

AHEAD = 2
"""Batches of a `Prefetcher` that `tf.data` has ready."""


@final
class PipelineStream(IteratorStream):
    """Arrays in memory, whose only state is the position."""


@final
class ReaderStream(IteratorStream):
    """The batches of a reader, fed into a `tf.data.Dataset`.

    A thread of the host reads the source, and not one of TensorFlow's few, because the reader may have to wait.
    """

    def __init__(
        self, feed: StreamFeed, precomputed: Precomputed, reader: StreamReader, reread: int, limit: int | None
    ) -> None:
        self._feed, self._source = feed, reader
        self._batches = Prefetcher(reader.batches(limit))
        super().__init__(self._dataset(precomputed), feed.spec if precomputed else None, precomputed, reread, reader)

    def allow(self, count: int | None) -> None:
        self._batches = Prefetcher(self._source.batches(count))
        self.iterator = iter(self._dataset(self.precomputed))

    def close(self) -> None:
        self._source.close()
        self._batches.close()
        super().close()

    @contextlib.contextmanager
    def source_errors(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError:
            if self._source.error is None:
                raise
            raise self._source.error from None  # the error of `tf.data` only quotes its text

    def _dataset(self, precomputed: Precomputed) -> tf.data.Dataset:
        signature = map_structure(tensor_spec, self._feed.spec)
        # The dataset refers to the batches and not to this object, so that it is collected when nothing uses it.
        batches = tf.data.Dataset.from_generator(self._batches.__iter__, output_signature=signature)
        return staged(batches, self._feed, precomputed, ahead=AHEAD)


class HeldBags(tf.experimental.ExtensionType):  # type: ignore[misc]
    """The tensors of `Bags`, on the device."""

    ids: tf.Tensor
    weights: tf.Tensor
    splits: tf.Tensor


def on_device(leaf: np.ndarray | Bags) -> Tensor | HeldBags:
    """Converts an array or bags to tensors."""
    if isinstance(leaf, Bags):
        return HeldBags(*map(tf.convert_to_tensor, (leaf.ids, leaf.weights, leaf.splits)))
    return tf.convert_to_tensor(leaf)


def any_length(held: Tensor | HeldBags) -> Any:
    """The spec of a result of `on_device` for any number of examples."""
    if isinstance(held, HeldBags):
        return HeldBags.Spec(*(tf.TensorSpec([None], leaf.dtype) for leaf in (held.ids, held.weights, held.splits)))
    return tf.TensorSpec([None, *held.shape[1:]], held.dtype)


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
