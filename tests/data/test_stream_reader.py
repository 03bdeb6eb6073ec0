"""Streams that come to a position by being read again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lightkeras.data import as_feed, stream_reader
from lightkeras.data.stream_reader import Continued, StreamReader
from lightkeras.system import random_states


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


# ---------------------------------------------------------------------- memory of the source


@pytest.mark.parametrize("first", [np.zeros(4, np.float32), np.array([b"a", b"b"], object), np.zeros((2, 0), np.int8)])
def test_a_batch_does_not_change_when_the_source_uses_its_memory_again(first: np.ndarray) -> None:
    def again() -> Iterator[Any]:
        for value in (b"x", b"y") if first.dtype == object else (1, 2):
            first[...] = value
            yield {"x": first}, first[::-1]

    one, two = StreamReader(as_feed(again), 0).batches()
    for leaf, value in [(one[0]["x"], 1), (one[1], 1), (two[0]["x"], 2), (two[1], 2)]:
        assert (
            leaf.tolist() == np.full_like(first, {1: b"x", 2: b"y"}[value] if first.dtype == object else value).tolist()
        )
        assert leaf.dtype == first.dtype
        assert not np.shares_memory(leaf, first)


def test_the_memory_of_a_batch_is_aligned_so_that_no_backend_copies_it_again() -> None:
    def odd() -> Iterator[np.ndarray]:
        memory = np.zeros(4 * 7 + 1, np.uint8)
        for _ in range(20):
            yield memory[1:].view(np.float32)

    batches = list(StreamReader(as_feed(odd), 0).batches())
    assert {batch.ctypes.data % 64 for batch in batches} == {0}


# ---------------------------------------------------------------------- one reader


class Watched:
    """Batches of an endless source that counts how many were asked for, and notes when it is closed."""

    def __init__(self) -> None:
        self.given, self.closed = 0, 0

    def __call__(self) -> Iterator[np.ndarray]:
        try:
            while True:
                self.given += 1
                yield np.full(2, self.given, np.float32)
        finally:
            self.closed += 1


def test_no_more_batches_are_read_than_the_limit() -> None:
    source = Watched()
    feed = as_feed(source)
    source.given = source.closed = 0
    reader = StreamReader(feed, 0)
    assert [len(list(reader.batches(3))), source.given] == [3, 3]
    assert [len(list(reader.batches(2))), source.given, source.closed] == [2, 5, 0]
    reader.close()
    assert source.closed == 1
    assert list(reader.batches(1)) == []


def test_a_second_reader_of_a_feed_ends_the_first() -> None:
    source = Watched()
    feed = as_feed(source)
    source.given = source.closed = 0
    first = StreamReader(feed, 0)
    next(first.batches())
    second = StreamReader(feed, 0)
    assert source.closed == 1
    assert list(first.batches(1)) == []
    assert len(list(second.batches(2))) == 2
    second.close()


class Slow:
    """A source that makes a batch only when it may, and notes whether two batches were made at the same time."""

    def __init__(self) -> None:
        self.may, self.making, self.overlapped = threading.Semaphore(1), 0, False
        self.entered = threading.Event()

    def __call__(self) -> Iterator[np.ndarray]:
        while True:
            self.making += 1
            self.overlapped |= self.making > 1
            self.entered.set()
            self.may.acquire()
            self.making -= 1
            yield np.zeros(2, np.float32)

    def validation(self) -> Iterator[np.ndarray]:
        return self()

    train = validation


def test_closing_waits_for_the_batch_that_is_being_made() -> None:
    source = Slow()
    reader = StreamReader(as_feed(source), 0)
    source.entered.clear()
    reading = threading.Thread(target=lambda: list(reader.batches(1)))
    reading.start()
    source.entered.wait()
    closing = threading.Thread(target=reader.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    source.may.release()
    closing.join()
    reading.join()


def test_the_end_of_a_run_does_not_wait_for_a_source_that_returns_no_batch() -> None:
    source = Slow()
    feed = as_feed(source)
    reader = StreamReader(feed, 0)
    source.entered.clear()
    reading = threading.Thread(target=lambda: list(reader.batches(1)))
    reading.start()
    source.entered.wait()
    reader.close(patience=0)
    assert reading.is_alive()
    opening = threading.Thread(target=StreamReader, args=(feed, 0))
    opening.start()
    opening.join(0.05)
    assert opening.is_alive()  # the next reader does
    source.may.release()
    opening.join()
    reading.join()


@pytest.mark.parametrize(
    "splits",
    [
        lambda source: (source, source),
        lambda source: (source.train, source.validation),
        lambda source: (lambda: source.train(), lambda: source.validation()),
    ],
    ids=["object", "methods", "functions"],
)
def test_two_splits_of_one_source_take_turns(splits: Any) -> None:
    source = Slow()
    for _ in range(2):
        source.may.release()
    feeds = [as_feed(split) for split in splits(source)]
    train = StreamReader(feeds[0], 0)
    source.entered.clear()
    taken: list[Any] = []
    reading = threading.Thread(target=lambda: taken.extend(train.batches(2)))
    reading.start()
    source.entered.wait()
    for _ in range(8):
        source.may.release()
    validation = StreamReader(feeds[1], 0)
    assert len(list(validation.batches(3))) == 3
    if len(taken) == 2:  # train had come to its end, and waits for nothing
        reading.join(30)
        assert not reading.is_alive()
    validation.close()
    reading.join()
    assert len(taken) == 2
    assert not source.overlapped
    train.close()


def test_a_reader_that_came_to_its_end_lets_the_others_read_again() -> None:
    train = StreamReader(as_feed(lambda: numbers(9)), 0)
    assert values(StreamReader(as_feed(lambda: numbers(2)), 0)) == [0.0, 1.0]
    kept = StreamReader(as_feed(lambda: numbers(2)), 0)
    assert values(kept) == [0.0, 1.0]
    assert len(values(train)) == 9
    left = StreamReader(as_feed(lambda: numbers(2)), 0)
    again = StreamReader(as_feed(lambda: numbers(1)), 0)
    del again
    assert values(left) == [0.0, 1.0]


def test_a_source_that_makes_no_batch_is_not_waited_for_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_reader, "PATIENCE", 0.01)
    source = Slow()
    stuck = StreamReader(as_feed(source), 0)
    source.entered.clear()
    reading = threading.Thread(target=lambda: list(stuck.batches(1)))
    reading.start()
    source.entered.wait()
    assert values(StreamReader(as_feed(lambda: numbers(2)), 0)) == [0.0, 1.0]
    source.may.release()
    reading.join()
    stuck.close()


# ---------------------------------------------------------------------- epochs that continue one another


def test_an_epoch_that_continues_begins_after_the_batches_of_those_before() -> None:
    random = random_states.read()
    feed = as_feed(lambda: numbers(9))
    assert values(StreamReader(feed, 1, step=2, continued=Continued(4, 0, random))) == [6.0, 7.0, 8.0]


def test_what_earlier_epochs_drew_is_drawn_again_and_the_random_state_of_the_epoch_is_kept() -> None:
    def drawn() -> Iterator[np.ndarray]:
        while True:
            yield np.random.random(2)

    np.random.seed(1)
    opened = random_states.read()
    whole = StreamReader(as_feed(drawn), 0)
    np.random.seed(1)
    expected = [batch.tolist() for batch in whole.batches(3)]
    np.random.random(5)  # drawn by something else at the end of the epoch
    began = random_states.read()
    expected += [batch.tolist() for batch in whole.batches(3)]
    feed = as_feed(drawn)
    np.random.seed(7)
    random_states.write(began)
    again = StreamReader(feed, 1, step=1, state=whole.state(), continued=Continued(3, 0, opened))
    assert [batch.tolist() for batch in again.batches(2)] == expected[4:]


def test_a_reader_that_two_others_interrupted_continues_when_both_are_closed() -> None:
    def source() -> Iterator[np.ndarray]:
        return iter([np.full(2, number, np.float32) for number in range(4)])

    train = StreamReader(as_feed(source), 0)
    assert [batch[0] for batch in train.batches(1)] == [0]
    validation = StreamReader(as_feed(source), 0)
    pictures = StreamReader(as_feed(source), 0)  # inside the validation
    taken: list[Any] = []
    reading = threading.Thread(target=lambda: taken.extend(batch[0] for batch in train.batches()), daemon=True)
    reading.start()
    pictures.close()
    reading.join(0.05)
    assert reading.is_alive()
    validation.close()
    reading.join(30)
    assert taken == [1, 2, 3]
