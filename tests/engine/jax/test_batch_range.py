"""Ranges of batches of one shape on JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.jax.batch_range import fetch, next_ranges

X = np.arange(10, dtype="float32")


def taken(stream, most):
    """The batches of each range, and the number of ranges."""
    ranges = next_ranges(stream, most)
    return [[fetch(one.source, one.size, one.start, number).tolist() for number in range(one.count)] for one in ranges]


def test_ranges_of_arrays_end_before_the_smaller_batch_and_with_the_epoch():
    stream = make_engine().open(ArrayFeed(X, 4))
    assert taken(stream, 5) == [[[0, 1, 2, 3], [4, 5, 6, 7]]]
    (last,) = next_ranges(stream, 5)
    assert (last.size, last.start, last.count) == (2, 8, 1)
    assert last.batch == jax.ShapeDtypeStruct((2,), jnp.float32)
    assert taken(stream, 5) == []


def test_ranges_of_a_stream_hold_no_more_batches_than_were_asked_for():
    feed = as_feed(lambda: iter([X[:4], X[4:8], X[8:]]))
    stream = make_engine().open(feed)
    assert taken(stream, 1) == [[[0, 1, 2, 3]]]
    rest = [batch for part in iter(lambda: taken(stream, 5), []) for batches in part for batch in batches]
    assert rest == [[4, 5, 6, 7], [8, 9]]


def test_ranges_of_other_shapes_have_other_keys():
    stream = make_engine().open(ArrayFeed(X, 4))
    first, last = next_ranges(stream, 2)[0], next_ranges(stream, 2)[0]
    assert first.key(8) != last.key(8)
    assert first.key(8) != first.key(16)
    again = make_engine().open(ArrayFeed(X, 4))
    assert next_ranges(again, 1)[0].key(8) == first.key(8)


def test_what_no_engine_opened_is_refused():
    with pytest.raises(TypeError, match="Expected a stream that this engine opened, got list"):
        next_ranges([], 1)
