"""Streams for every backend: indices of examples, and batches that a thread prefetches."""

import gc
import threading

import numpy as np
import pytest

from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine.streams import (
    PREFETCH,
    ArrayStream,
    Prefetcher,
    batch_of,
    batches_in_memory,
    holds_bags,
)

FEED = ArrayFeed((np.arange(10, dtype="float32"),), 4, shuffle=True)
BAGS = Bags(np.int32([5, 6, 7]), np.float32([1, 2, 3]), np.array([0, 1, 1, 3]))


def test_arrays_are_given_in_the_order_of_the_epoch_from_a_position():
    stream = ArrayStream(FEED, FEED.arrays, epoch=2, step=1, seed=7)
    order = FEED.order(2, 7)
    assert stream.order.tolist() == order.tolist()
    assert stream.batch_size == 4
    assert (stream.state(), stream.shapes()) == (None, None)
    assert stream.next_indices(1).tolist() == [order[4:8].tolist()]
    assert stream.next_batch()[0].tolist() == order[8:].tolist()
    assert (stream.next_batch(), stream.next_indices(1), stream.next_steps(1)) == (None, None, None)


def test_steps_are_of_one_size_and_end_with_the_epoch():
    stream = ArrayStream(FEED, FEED.arrays, 0, 0, 0)
    assert [stream.next_steps(5), stream.next_steps(5), stream.next_steps(5)] == [range(2), range(2, 3), None]


def test_an_error_of_the_source_is_raised_where_it_is_reached_and_ends_the_stream():
    def broken():
        yield 1
        raise KeyError("two")

    items = Prefetcher(broken())
    assert items.take() == 1
    with pytest.raises(KeyError, match="two"):
        items.take()
    assert items.take() is None


def test_no_more_is_prefetched_than_was_asked_for_and_the_thread_ends_with_its_reader():
    made = []

    def numbers():
        for number in range(100):
            made.append(number)
            yield number

    before = set(threading.enumerate())
    items = Prefetcher(numbers(), ahead=3)
    (thread,) = set(threading.enumerate()) - before
    assert [items.take() for _ in range(2)] == [0, 1]
    del items
    gc.collect()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert len(made) <= 2 + 3 + 1  # taken, prefetched, and the one that waits for its place


def test_bags_become_arrays_of_a_batch():
    batch = batch_of({"bag": BAGS, "label": np.array([1, 2, 3])}, np.array([2, 0]))
    assert batch["label"].tolist() == [3, 1]
    assert batch["bag"]["ids"].tolist() == [6, 7, 5]
    assert batch["bag"]["rows"].tolist() == [0, 0, 1]
    assert holds_bags((np.zeros(3), {"x": BAGS}))
    assert not holds_bags((np.zeros(3),))


def test_batches_in_memory_begin_at_a_step_and_end_with_the_smaller_one():
    order = FEED.order(1, 3)
    found = [batch[0].tolist() for batch in batches_in_memory(FEED, epoch=1, step=1, seed=3)]
    assert found == [order[4:8].tolist(), order[8:].tolist()]


def test_a_prefetcher_reads_eight_ahead_and_drops_them_when_it_is_closed():
    made = []

    def numbers():
        for number in range(100):
            made.append(number)
            yield number

    items = Prefetcher(numbers())
    assert items.take() == 0
    while len(made) < 1 + PREFETCH + 1:  # taken, prefetched, and the one that waits for its place
        threading.Event().wait(0.001)
    items.close()
    assert not items._thread.is_alive()
    assert items._items.maxsize == PREFETCH == 8
    assert items.take() is None


def test_a_prefetcher_is_an_iterator_of_its_items():
    assert list(Prefetcher(iter("abc"))) == ["a", "b", "c"]
