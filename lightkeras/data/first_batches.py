"""The first batches of a split, as a split of their own."""

from __future__ import annotations

import contextlib

from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed
from lightkeras.data.stream_reader import StreamReader
from lightkeras.data.structure import first_examples, map_structure


def first_batches(feed: Feed, count: int) -> Feed:
    """Returns the first batches of a feed, in the same order in every epoch; those of a stream are held in memory.

    Args:
        feed: The feed, before an encoder.
        count: Number of batches, at least 1; all if there are fewer.

    Raises:
        ValueError: The stream has no batch.
        TypeError: It is neither an `ArrayFeed` nor a `StreamFeed`.
    """
    if isinstance(feed, ArrayFeed):
        examples = count * feed.batch_size
        return ArrayFeed(map_structure(lambda leaf: first_examples(leaf, examples), feed.arrays), feed.batch_size)
    if not isinstance(feed, StreamFeed):
        raise TypeError(f"Expected an ArrayFeed or a StreamFeed, got {type(feed).__name__}.")
    feed.begin_pass()
    try:
        with contextlib.closing(StreamReader(feed, 0)) as reader:
            batches = list(reader.batches(count))
    finally:
        feed.end_pass(completed=False)
    if not batches:
        raise ValueError("The train split is empty; expected at least one batch.")
    return StreamFeed(lambda epoch: iter(batches), feed.spec, steps=len(batches), batch_size=feed.batch_size)
