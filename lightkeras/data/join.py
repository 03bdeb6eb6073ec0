"""Two splits as one, to train on both."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed
from lightkeras.data.structure import Structure, flatten, map_structure


def join_feeds(first: Feed, second: Feed) -> Feed:
    """Joins two feeds, with the batch size of the first.

    Arrays are concatenated, and shuffled as the first feed shuffles; the batches of a second stream follow those of
    the first.

    Args:
        first: The train split.
        second: The other split.

    Raises:
        ValueError: Their batches differ in structure, shape or dtype.
        ValueError: The first is endless.
        TypeError: One holds arrays, and the other is a stream.
    """
    found, expected = flatten(second.spec), flatten(first.spec)
    if found != expected:
        raise ValueError(f"The splits differ: {_listed(expected)} and {_listed(found)}; expected the same arrays.")
    if isinstance(first, ArrayFeed) and isinstance(second, ArrayFeed):
        left = iter([leaf for _, leaf in flatten(second.arrays)])
        arrays = map_structure(lambda leaf: _together(leaf, next(left)), first.arrays)
        return ArrayFeed(arrays, first.batch_size, shuffle=first.shuffle, seed=first.seed)
    if isinstance(first, StreamFeed) and isinstance(second, StreamFeed):
        return _chained(first, second)
    raise TypeError(
        f"A {type(first).__name__} and a {type(second).__name__} cannot be joined: expected two of the same kind."
    )


def _chained(first: StreamFeed, second: StreamFeed) -> StreamFeed:
    def open_epoch(epoch: int) -> Iterator[Structure]:
        return itertools.chain(first.open_epoch(epoch), second.open_epoch(epoch))

    if first.endless:
        raise ValueError("The first split is endless, so the second would never be read: give it an end, `.take(n)`.")
    steps = None if first.steps is None or second.steps is None else first.steps + second.steps
    datasets = first.dataset is not None and second.dataset is not None
    return StreamFeed(
        open_epoch,
        first.spec,
        steps=steps,
        batch_size=first.batch_size,
        dataset=first.dataset.concatenate(second.dataset) if datasets else None,
        continues=first.continues or second.continues,
        endless=second.endless,
    )


def _together(first: np.ndarray | Bags, second: np.ndarray | Bags) -> np.ndarray | Bags:
    if isinstance(first, Bags) and isinstance(second, Bags):
        lengths = [np.diff(bags.splits) for bags in (first, second)]
        ids, weights = np.concatenate([first.ids, second.ids]), np.concatenate([first.weights, second.weights])
        return Bags.from_lengths(ids, weights, np.concatenate(lengths))
    return np.concatenate([first, second])


def _listed(leaves: list[tuple[str, object]]) -> str:
    return "{" + ", ".join(f"{path or '0'}: {spec}" for path, spec in leaves) + "}"
