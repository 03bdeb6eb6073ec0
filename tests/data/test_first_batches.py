"""The first batches of a split are the same in every epoch."""

import numpy as np
import pytest

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.first_batches import first_batches

X, Y = np.arange(14, dtype="float32").reshape(7, 2), np.arange(7, dtype="int32")


@pytest.mark.parametrize(("count", "examples"), [(1, 3), (2, 6), (3, 7), (9, 7)])
def test_of_arrays_they_are_the_first_examples_in_order(count, examples):
    found = first_batches(ArrayFeed((X, Y), 3, shuffle=True), count)
    assert (found.examples, found.batch_size, found.shuffle) == (examples, 3, False)
    np.testing.assert_array_equal(found.arrays[1], Y[:examples])


def test_of_a_stream_they_are_read_once():
    opened = []

    def batches():
        opened.append(True)
        shared = np.zeros((2, 2), "float32")
        for number in range(5):
            shared[:] = number  # the source uses its buffer again
            yield shared, np.full(2, number)

    feed = as_feed(batches)
    before = len(opened)  # to read its spec
    found = first_batches(feed, 3)
    for epoch in range(2):
        parts = list(found.open_epoch(epoch))
        assert [batch[0][0, 0] for batch in parts] == [0, 1, 2]
        assert [batch[1][0] for batch in parts] == [0, 1, 2]
    assert (found.steps, found.spec, len(opened) - before) == (3, feed.spec, 1)
