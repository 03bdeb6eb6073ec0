"""Two splits as one."""

from __future__ import annotations

import numpy as np
import pytest

from lightkeras.data import ArrayFeed, as_feed
from lightkeras.data.bags import Bags
from lightkeras.data.join import join_feeds


def arrays(count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.arange(start, start + count)
    return numbers.astype(np.float32)[:, None], numbers.astype(np.int32)


def test_arrays_are_put_together_and_shuffled_as_the_first():
    found = join_feeds(ArrayFeed(arrays(5), 3, shuffle=True, seed=7), ArrayFeed(arrays(4, 5), 2))
    assert (found.examples, found.batch_size, found.steps) == (9, 3, 3)
    assert found.shuffle
    assert found.seed == 7
    np.testing.assert_array_equal(found.arrays[1], np.arange(9))
    np.testing.assert_array_equal(found.arrays[0][:, 0], np.arange(9))


def test_bags_are_put_together():
    first = Bags.from_lengths(np.array([1, 2, 3]), np.ones(3, np.float32), np.array([1, 2]))
    second = Bags.from_lengths(np.array([4, 5]), np.ones(2, np.float32), np.array([0, 2]))
    found = join_feeds(ArrayFeed((first,), 2), ArrayFeed((second,), 2)).arrays[0]
    assert found.ids.tolist() == [1, 2, 3, 4, 5]
    assert found.splits.tolist() == [0, 1, 3, 3, 5]


def test_of_streams_the_second_comes_after_the_first():
    first, second = (as_feed(lambda start=start: iter([np.full(2, start)] * 2)) for start in (0, 1))
    found = join_feeds(first, second)
    assert [batch.tolist() for batch in found.open_epoch(0)] == [[0, 0], [0, 0], [1, 1], [1, 1]]


class Batches:
    """So many batches, anew each time."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        return iter([np.zeros(2)] * self.count)


def test_the_length_of_joined_streams_is_known_if_both_are():
    known, unknown = as_feed(Batches(3)), as_feed(lambda: iter(Batches(2)))
    assert join_feeds(known, as_feed(Batches(2))).steps == 5
    assert (join_feeds(known, unknown).steps, join_feeds(unknown, known).steps) == (None, None)


def test_splits_of_another_form_cannot_be_joined():
    with pytest.raises(ValueError, match=r"The splits differ: .*float32\[batch, 1\].* and .*int32"):
        join_feeds(ArrayFeed(arrays(5), 3), ArrayFeed((arrays(5)[1],), 3))


def test_arrays_and_a_stream_cannot_be_joined():
    with pytest.raises(TypeError, match=r"A ArrayFeed and a StreamFeed cannot be joined"):
        join_feeds(ArrayFeed((arrays(5)[0],), 3), as_feed(lambda: iter([(arrays(2)[0],)])))
