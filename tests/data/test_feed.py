"""Feeds: batches with a position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeras.data.feed import ArrayFeed, StreamFeed, raw_feed
from lightkeras.data.structure import ArraySpec


def epoch_in_chunks(feed: ArrayFeed, epoch: int, chunks: list[int]) -> list[list[int]]:
    """Batches of an epoch as example numbers, taken with chunk sizes that are used in turn."""
    batches: list[list[int]] = []
    while len(batches) < feed.steps:
        block = feed.indices(epoch, len(batches), chunks[len(batches) % len(chunks)])
        batches.extend(row.tolist() for row in block)
    return batches


@given(
    examples=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 1000),
)
def test_every_example_comes_exactly_once_an_epoch(examples, batch_size, shuffle, seed, epoch):
    feed = ArrayFeed(np.zeros(examples), batch_size, shuffle=shuffle, seed=seed)
    batches = epoch_in_chunks(feed, epoch, [3])
    assert sorted(number for batch in batches for number in batch) == list(range(examples))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (feed.steps - 1)


@given(
    examples=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    chunks=st.lists(st.integers(1, 8), min_size=1, max_size=4),
)
def test_the_size_of_the_chunks_does_not_change_the_batches(examples, batch_size, chunks):
    feed = ArrayFeed(np.zeros(examples), batch_size, shuffle=True, seed=5)
    assert epoch_in_chunks(feed, 2, chunks) == epoch_in_chunks(feed, 2, [1])


@given(seed=st.integers(0, 2**32), epoch=st.integers(0, 100), other=st.integers(0, 100))
def test_the_order_depends_on_seed_and_epoch_alone(seed, epoch, other):
    asked_before = ArrayFeed(np.zeros(50), 7, shuffle=True, seed=seed)
    asked_before.order(other)
    fresh = ArrayFeed(np.ones((50, 2)), 3, shuffle=True, seed=seed)
    assert asked_before.order(epoch).tolist() == fresh.order(epoch).tolist()


def test_another_epoch_and_another_seed_have_another_order():
    feed = ArrayFeed(np.zeros(50), 7, shuffle=True, seed=1)
    other = ArrayFeed(np.zeros(50), 7, shuffle=True, seed=2)
    assert len({tuple(feed.order(0)), tuple(feed.order(1)), tuple(other.order(0))}) == 3


def test_the_last_smaller_batch_comes_in_a_block_of_its_own():
    feed = ArrayFeed(np.zeros(7), 3)
    assert (feed.steps, feed.examples, feed.batch_size) == (3, 7, 3)
    assert feed.indices(0, 0, 10).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert feed.indices(0, 2, 10).tolist() == [[6]]
    assert feed.indices(0, 1, 1).dtype == np.int32


def test_without_shuffling_every_epoch_is_in_order():
    feed = ArrayFeed(np.zeros(4), 2)
    assert feed.order(0).tolist() == feed.order(9).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("step", "count"), [(3, 1), (-1, 1), (0, 0)])
def test_a_position_outside_the_epoch_is_an_error(step, count):
    with pytest.raises(IndexError, match=rf"Received count={count}, step={step}: .* a step of 0 to 2\."):
        ArrayFeed(np.zeros(7), 3).indices(0, step, count)


def test_the_spec_has_the_form_of_the_arrays():
    feed = ArrayFeed(({"image": np.zeros((2, 28, 28), "float32")}, np.array([b"a", b"bc"])), 1)
    assert feed.spec == ({"image": ArraySpec((28, 28), "float32")}, ArraySpec((), "string"))
    assert str(feed.spec[0]["image"]) == "float32[batch, 28, 28]"
    assert str(feed.spec[1]) == "string[batch]"


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, "8"])
def test_a_batch_size_that_is_not_a_positive_whole_number_is_an_error(batch_size):
    with pytest.raises(ValueError, match=rf"batch_size={batch_size!r}: expected a whole number of at least 1"):
        ArrayFeed(np.zeros(3), batch_size)


def test_a_negative_seed_is_an_error():
    with pytest.raises(ValueError, match="seed=-1: expected a whole number of at least 0"):
        ArrayFeed(np.zeros(3), 1, shuffle=True, seed=-1)


def test_lengths_that_differ_are_named():
    with pytest.raises(ValueError, match=r"array 0 has 3, array 1/a has 2\. Axis 0 must agree"):
        ArrayFeed((np.zeros(3), {"a": np.zeros(2)}), 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((), "Received no arrays: expected at least one"),
        (np.zeros((0, 3)), "The arrays are empty: expected at least one example"),
        ((np.zeros(2), None), r"Received None .* leave it out, `\(x,\)`"),
        (np.float32(3), "Received the scalar .*3.0.*: expected an array with one row per example"),
        ([[1, 2], [3]], "Pad rows of different lengths to one length"),
    ],
)
def test_a_value_that_is_not_an_array_is_refused_with_a_remedy(arrays, message):
    with pytest.raises(ValueError, match=message):
        ArrayFeed(arrays, 1)


def test_objects_that_are_not_text_are_refused():
    with pytest.raises(TypeError, match="dtype object holds int; expected text"):
        ArrayFeed(["a", 1], 1)


def test_the_fingerprint_changes_with_content_form_and_dtype():
    def fingerprint(arrays):
        return ArrayFeed(arrays, 2).fingerprint()

    x = np.arange(6).reshape(3, 2)
    assert fingerprint(x) == fingerprint(x.copy(order="F"))
    texts = [fingerprint(["ab", "c"]), fingerprint(["a", "bc"])]
    numbers = [fingerprint(x), fingerprint(x + 1), fingerprint(x.astype("int32")), fingerprint((x,))]
    assert len({*texts, *numbers}) == 6
    assert fingerprint(["ab"]) == fingerprint([b"ab"])


def test_a_stream_keeps_its_arguments():
    feed = StreamFeed(lambda epoch: iter([epoch]), ArraySpec((), "int64"), steps=4, batch_size=2)
    assert (feed.steps, feed.batch_size, feed.examples, feed.fingerprint()) == (4, 2, None, None)
    assert list(feed.open_epoch(7)) == [7]


def test_a_stream_without_batches_is_an_error():
    with pytest.raises(ValueError, match="steps=0: the feed is empty"):
        StreamFeed(lambda epoch: iter([]), ArraySpec((), "int64"), steps=0)


def test_a_batch_size_and_a_seed_may_be_of_numpy():
    feed = ArrayFeed(np.zeros(50), np.int64(2), shuffle=True, seed=np.uint8(7))
    assert (feed.batch_size, type(feed.batch_size)) == (2, int)
    assert feed.order(3).tolist() == ArrayFeed(np.zeros(50), 2, shuffle=True, seed=7).order(3).tolist()
    assert feed.order(3, run_seed=1).tolist() != feed.order(3).tolist()
    assert ArrayFeed(np.zeros(5), 2).order(3, run_seed=1).dtype == np.int32


def test_of_many_lengths_the_first_and_the_last_are_named():
    def named(count):
        with pytest.raises(ValueError, match="Arrays differ in their number of examples") as caught:
            ArrayFeed({f"a{number}": np.zeros(9 - number) for number in range(count)}, 1)
        return str(caught.value).partition(": ")[2].partition(". Axis")[0].split(", ")

    assert named(6) == [f"array a{number} has {9 - number}" for number in range(6)]
    assert named(7) == [*(f"array a{number} has {9 - number}" for number in range(4)), "...", "array a6 has 3"]


@pytest.mark.parametrize(
    ("arrays", "advice"),
    [
        (
            ([np.zeros(3)] * 2, np.zeros(2)),
            "A list of 2 arrays is read as 2 inputs: make it one array with",
        ),
        (([np.zeros(3), np.zeros(4)], np.zeros(2)), "2 inputs: pad them to one shape and make them one array with"),
        (([np.zeros(3)], np.zeros(2)), None),
        ((np.zeros(3), np.zeros(2)), None),
        ({"a": [np.zeros(3), np.zeros(3)], "b": np.zeros(2)}, None),
    ],
)
def test_a_list_of_examples_is_advised_to_be_stacked(arrays, advice):
    with pytest.raises(ValueError, match=r"Axis 0 must agree\.") as caught:
        ArrayFeed(arrays, 1)
    assert ("np.stack" in str(caught.value)) == (advice is not None)
    assert advice is None or advice in str(caught.value)


def test_the_feed_before_an_encoder_identifies_the_data_and_is_found():
    raw = ArrayFeed(np.arange(4), 2)
    encoded = ArrayFeed(np.zeros((4, 3)), 2, raw=raw)
    assert encoded.fingerprint() == raw.fingerprint()
    assert (raw_feed(encoded), raw_feed(raw)) == (raw, raw)
    assert not raw.holds_bags
    stream = StreamFeed(lambda epoch: iter([]), ArraySpec((), "int64"))
    stream.note_first((np.zeros((5, 2)), np.zeros(5)))
    again = StreamFeed(lambda epoch: iter([]), ArraySpec((), "int64"), raw=stream)
    assert (stream.first_size, again.first_size, raw_feed(again)) == (5, 5, stream)


def test_a_stream_without_an_end_continues_and_others_if_they_are_told_to():
    def made(**settings):
        return StreamFeed(lambda epoch: iter([]), ArraySpec((), "int64"), **settings)

    assert [made(**given).continues for given in ({}, {"endless": True}, {"continues": True})] == [False, True, True]


class Hooks:
    """Notes its calls."""

    def __init__(self):
        self.calls = []

    def on_epoch_begin(self):
        self.calls.append("begin")

    def on_epoch_end(self):
        self.calls.append("end")


def test_the_hooks_of_a_source_are_called_by_its_outermost_pass_if_that_comes_to_its_end():
    hooks, other = Hooks(), Hooks()
    feeds = [StreamFeed(lambda epoch: iter([]), ArraySpec((), "int64"), hooks=found) for found in (hooks, hooks, other)]
    feeds[0].begin_pass()
    feeds[1].begin_pass()  # such as a validation on the train split
    feeds[2].begin_pass()
    feeds[2].end_pass()
    feeds[1].end_pass()
    assert (hooks.calls, other.calls) == (["begin"], ["begin", "end"])
    feeds[0].end_pass()
    feeds[0].end_pass()  # which has ended
    assert hooks.calls == ["begin", "end"]
    feeds[0].begin_pass()
    feeds[0].end_pass(completed=False)
    assert hooks.calls == ["begin", "end", "begin"]
    StreamFeed(lambda epoch: iter([]), ArraySpec((), "int64")).begin_pass()
