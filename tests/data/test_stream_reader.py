"""Streams that come to a position by being read again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lightkeras.data import as_feed
from lightkeras.data.stream_reader import StreamReader


def numbers(count: int, first: int = 0) -> Iterator[np.ndarray]:
    return (np.full(2, first + number, np.float32) for number in range(count))


def values(reading: StreamReader) -> list[float]:
    return [float(batch[0]) for batch in reading.batches()]


def test_what_is_left_after_the_batches_that_were_done() -> None:
    assert values(StreamReader(as_feed(lambda: numbers(5)), 0, step=3)) == [3.0, 4.0]


def test_a_function_that_takes_the_epoch_is_given_it() -> None:
    feed = as_feed(lambda epoch: numbers(2, first=10 * epoch))
    assert values(StreamReader(feed, 0)) == [0.0, 1.0]
    assert values(StreamReader(feed, 3)) == [30.0, 31.0]


def test_the_state_is_none_until_a_batch_was_read() -> None:
    reading = StreamReader(as_feed(lambda: numbers(5)), 0)
    assert reading.state() is None
    next(reading.batches())
    assert reading.state() is not None


def test_an_epoch_that_begins_as_before_continues() -> None:
    feed = as_feed(lambda epoch: numbers(5, first=epoch))
    before = StreamReader(feed, 2)
    next(before.batches())
    assert values(StreamReader(feed, 2, step=1, state=before.state())) == [3.0, 4.0, 5.0, 6.0]


def test_an_epoch_that_begins_with_another_batch_is_refused() -> None:
    feed = as_feed(lambda epoch: numbers(5, first=epoch))
    before = StreamReader(feed, 0)
    next(before.batches())
    with pytest.raises(ValueError, match="Epoch 2 of the stream begins with another batch"):
        StreamReader(feed, 1, step=1, state=before.state())


def test_an_epoch_that_became_shorter_is_refused() -> None:
    with pytest.raises(ValueError, match="Epoch 1 of the stream has 5 batches, but the run was saved after 6"):
        StreamReader(as_feed(lambda: numbers(5)), 0, step=6)
