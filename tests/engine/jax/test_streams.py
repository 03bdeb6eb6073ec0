"""Streams on JAX: blocks of batches, and bags in few lengths."""

import contextlib
import tracemalloc
import warnings

import jax
import keras
import numpy as np
import pytest
from by_hand import (
    LINE,
    Batches,
    Line,
    Noisy,
    assert_same,
    batches,
    learn,
    noisy_data,
    prepared,
    weights,
)
from keras import layers, ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.structure import aligned
from lightkeras.engine import make_engine
from lightkeras.engine.jax import streams
from lightkeras.task import Task


@pytest.mark.parametrize("kind", ["arrays", "generator"])
def test_whole_numbers_that_jax_would_cut_are_refused(kind):
    x = np.int64([[1], [2**31]])
    feed = ArrayFeed((x, x), 2) if kind == "arrays" else as_feed(lambda: iter([(x, x)]))
    with pytest.raises(ValueError, match="Array 0 is int64 and holds 2147483648, which JAX would cut to int32"):
        learn(Line(), feed)


def dataset(arrays, size):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


STREAMS = {
    "tf.data": dataset,
    "generator": lambda arrays, size: lambda: batches(arrays, size),
    "PyDataset": Batches,
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("count", [1, 8, 75])
def test_a_stream_gives_the_bits_of_arrays_in_the_same_order(kind, count):
    task, other = Noisy(), Noisy()
    expected = learn(other, ArrayFeed(noisy_data(203), 10), 7, epochs=2)
    logs = learn(task, as_feed(STREAMS[kind](noisy_data(203), 10)), count, epochs=2)
    assert logs["examples"].tolist() == ([10] * 20 + [3]) * 2
    np.testing.assert_array_equal(logs["loss"], expected["loss"])
    assert_same(weights(task), weights(other))


def test_a_stream_of_large_batches_is_copied_one_by_one(monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 1)
    task, other = Noisy(), Noisy()
    expected = learn(other, ArrayFeed(noisy_data(103), 10), 7)
    logs = learn(task, as_feed(STREAMS["generator"](noisy_data(103), 10)), 7)
    np.testing.assert_array_equal(logs["loss"], expected["loss"])


def test_a_stream_ends_with_what_there_is():
    feed = as_feed(STREAMS["generator"](noisy_data(203), 10))
    assert feed.steps is None
    engine, _trace, program = prepared(Noisy(), feed)
    stream = engine.open(feed)
    assert [program.run(stream, 8).steps for _ in range(5)] == [8, 8, 5, 0, 0]


def test_the_steps_before_a_batch_that_fails_are_run():
    def broken():
        yield from batches(LINE, 1)
        raise RuntimeError("the disk is on fire")

    feed = as_feed(broken)
    engine, _trace, program = prepared(Line(), feed)
    stream = engine.open(feed)
    assert program.run(stream, 3).steps == 3
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        program.run(stream, 1)


def test_a_dataset_is_read_no_further_than_its_steps_so_that_its_state_is_theirs():
    feed = as_feed(dataset((np.arange(40, dtype="float32")[:, None], np.zeros((40, 1), "float32")), 2))
    engine, _trace, program = prepared(Line(), feed)
    stream = engine.open(feed)
    program.run(stream, 7)
    again = engine.open(feed, 0, 7, state=stream.state())
    assert again.reread == 0
    assert again.next_batch()[0].ravel().tolist() == [14.0, 15.0]


def bags(count, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 30, count)
    splits = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(0, 50, splits[-1]).astype("int32")
    return Bags(ids, rng.normal(size=len(ids)).astype("float32"), splits)


class Bagged(Task):
    def build(self):
        self.model = keras.Sequential([keras.Input((), dtype="int32"), layers.Embedding(50, 4)])
        self.optimizer = keras.optimizers.Adam(0.01)
        self.sizes = set()

    def loss(self, batch, training):
        found, label = batch
        self.sizes.add((label.shape[0], found["ids"].shape[0]))
        rows = self.model(found["ids"]) * found["weights"][:, None]
        sums = ops.segment_sum(rows, found["rows"], num_segments=label.shape[0])
        return ops.mean(ops.square(ops.sum(sums, axis=1) - label))


def test_bags_come_in_batches_of_few_lengths_and_what_is_filled_in_changes_nothing():
    label = np.random.default_rng(1).normal(size=1003).astype("float32")
    task, feed = Bagged(), ArrayFeed((bags(1003), label), 10, shuffle=True)
    losses = learn(task, feed, 7, epochs=2)["loss"]
    assert len({size for size in task.sizes if size[0] == 10}) <= 3  # and the trace's own is one of them
    stream, expected = prepared(Bagged(), feed)[0].open(feed), []
    other = Bagged()
    other.set_up(0)
    engine = other.bind(make_engine)
    program = engine.program(other.run_train_step, ["loss"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the many lengths
        for number in range(5):
            batch, _ = stream.next_batch()
            whole = feed.arrays[0].take(feed.indices(0, number, 1)[0]).batch()
            count = len(whole["ids"])
            assert_same(
                [batch[name][:count] for name in ("ids", "weights", "rows")],
                [whole["ids"], whole["weights"], whole["rows"]],
            )
            assert not batch["weights"][count:].any()
            unpadded = (whole, label[feed.indices(0, number, 1)[0]])
            expected += program.run(engine.open_batch(unpadded), 1).values["loss"].tolist()
    np.testing.assert_allclose(losses[:5], expected, rtol=1e-5)


def test_lengths_are_rounded_up_in_steps_of_a_fifth():
    assert [streams.padded_length(n, 100) for n in (0, 99, 100, 101, 119, 120, 200, 201)] == [
        *(100, 100, 100, 119, 119, 142, 200, 238)
    ]


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_a_block_has_a_row_for_each_batch(capacity):
    batches = [(np.full(2, number, "float32"), np.full((2, 1), -number, "int32")) for number in range(capacity)]
    first, second = streams.on_device(batches, capacity)
    assert first.tolist() == [[number] * 2 for number in range(capacity)]
    assert (second.shape, second.dtype) == ((capacity, 2, 1), "int32")
    assert second[-1].tolist() == [[1 - capacity]] * 2


def numbered(count, size=2):
    return [(np.full((size, 1), number, "float32"),) for number in range(count)]


def left_in_blocks(stream, most):
    found = []
    while blocks := stream.next_blocks(most):
        found += [np.asarray(block.arrays[0])[block.start + n, 0, 0] for block in blocks for n in range(block.count)]
    return [int(number) for number in found]


@pytest.mark.parametrize("most", [1, 3, 16, 40])
def test_blocks_hold_all_batches_in_their_order(most):
    assert left_in_blocks(streams.PrefetchedStream(iter(numbered(35))), most) == list(range(35))
    source = streams.PrefetchedStream(iter(numbered(35)))
    assert left_in_blocks(streams.OnDemandStream(source), most) == list(range(35))


def test_a_block_has_up_to_sixteen_batches_of_one_shape(monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_SECONDS", 60.0)
    found = [len(batches) for batches, _ in streams._blocks(iter(numbered(33)))]
    assert found == [16, 16, 1]
    mixed = [*numbered(3), *numbered(2, size=4), *numbered(1)]
    assert [len(batches) for batches, _ in streams._blocks(iter(mixed))] == [3, 2, 1]
    monkeypatch.setattr(streams, "BLOCK_SECONDS", -1.0)  # a slow source: each batch is used as it comes
    assert [len(batches) for batches, _ in streams._blocks(iter(numbered(3)))] == [1, 1, 1]
    source = streams.OnDemandStream(streams.PrefetchedStream(iter(mixed)))
    assert [(block.start, block.count, block.size) for block in source.next_blocks(9)] == [
        (0, 3, 2),
        (0, 2, 4),
        (0, 1, 2),
    ]


@pytest.mark.parametrize(
    ("nbytes", "capacity"), [(1 << 22, 1), (1 << 21, 2), ((1 << 21) + 4, 1), (1 << 18, 16), (8, 16)]
)
def test_a_block_has_at_most_four_megabytes(nbytes, capacity):
    assert streams._capacity({"x": np.zeros(nbytes // 4, "float32")}) == capacity


def test_single_batches_and_blocks_of_a_stream_may_be_mixed(monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_SECONDS", 60.0)
    stream = streams.PrefetchedStream(iter(numbered(4)))
    assert stream.next_batch()[0][0, 0] == 0
    (block,) = stream.next_blocks(2)
    assert (block.start, block.count) == (1, 2)
    assert [int(batch[0][0, 0]) for batch in iter(stream.next_batch, None)] == [3]
    assert (stream.next_batch(), stream.next_blocks(3)) == (None, [])


@pytest.mark.parametrize(
    ("value", "fits"), [(2**31 - 1, True), (2**31, False), (-(2**31), True), (-(2**31) - 1, False)]
)
def test_whole_numbers_at_the_border_of_32_bits(value, fits):
    array = np.array([0, value])
    if fits:
        found = streams.narrowed({"x": array})["x"]
        assert (found.tolist(), found.dtype) == ([0, value], np.int32)
    else:
        with pytest.raises(ValueError, match=rf"^Array x is int64 and holds {value}, which JAX would cut to int32\."):
            streams.narrowed({"x": array})
    assert streams.narrowed(np.zeros(0, "int64")).dtype == np.int32
    assert streams.narrowed(np.float64([1.5])).dtype == np.float32


def test_almost_all_batches_fit_the_common_length():
    even = Bags(np.zeros(12, "int32"), np.zeros(12, "float32"), np.arange(0, 13, 3))
    assert streams._common_length(even, 2) == 6  # each bag has three: no batch is longer
    assert streams._common_length(Bags.from_lengths(even.ids, even.weights, np.array([12, 0, 0, 0])), 2) == 12
    lengths = np.array([0, 2] * 50)  # a mean of 1 and a deviation of 1: 16 + 4 * 4
    spread = Bags.from_lengths(np.zeros(100, "int32"), np.zeros(100, "float32"), lengths)
    assert streams._common_length(spread, 16) == 32
    assert streams._common_length(spread, 25) == 45
    nothing = Bags.from_lengths(np.zeros(0, "int32"), np.zeros(0, "float32"), np.zeros(3, int))
    assert streams._common_length(nothing, 2) == 1


@pytest.fixture
def host(monkeypatch):
    """All arrays count as large, and their blocks are small."""
    monkeypatch.setattr(streams, "LARGE_BYTES", 0)
    monkeypatch.setattr(streams, "ARRAY_BLOCK_BATCHES", 3)


def in_memory(count):
    x = np.arange(count * 3, dtype="float32").reshape(count, 3)
    return {"x": x, "y": np.arange(count)}  # int64, which JAX narrows


@pytest.mark.parametrize(("count", "size", "step"), [(20, 2, 0), (23, 2, 0), (23, 2, 4), (23, 2, 11), (3, 4, 0)])
def test_batches_of_large_arrays_are_gathered_in_the_order_of_the_epoch(host, count, size, step):
    feed = ArrayFeed(in_memory(count), size, shuffle=True, seed=1)
    found, lengths = [], []
    for batches_, block in streams.blocks_in_memory(feed, 2, step, 5):
        assert {str(array.dtype) for array in block.values()} == {"float32", "int32"}
        assert len({len(array) for array in block.values()}) == 1
        lengths.append(len(batches_))
        for number, batch in enumerate(batches_):
            np.testing.assert_array_equal(batch["x"], np.asarray(block["x"][number]))
            np.testing.assert_array_equal(batch["x"][:, 0], batch["y"] * 3)
            found += batch["y"].tolist()
    assert found == feed.order(2, 5)[step * size :].tolist()
    assert max(lengths) <= 3


@pytest.mark.parametrize("count", [1, 8, 75])
def test_large_arrays_give_the_bits_of_small_ones(monkeypatch, count):
    task, other = Noisy(), Noisy()
    expected = learn(other, ArrayFeed(noisy_data(203), 10, shuffle=True), 7, epochs=2)
    monkeypatch.setattr(streams, "LARGE_BYTES", 0)
    logs = learn(task, ArrayFeed(noisy_data(203), 10, shuffle=True), count, epochs=2)
    np.testing.assert_array_equal(logs["loss"], expected["loss"])
    assert_same(weights(task), weights(other))


def test_arrays_stay_on_the_host_if_a_copy_of_them_would_be_large(monkeypatch):
    x = np.zeros(300, "float32")
    monkeypatch.setattr(streams, "LARGE_BYTES", x.nbytes - 1)
    assert streams.stays_on_host(ArrayFeed(x, 2))
    assert not streams.stays_on_host(ArrayFeed(x[1:], 2))
    fixed = aligned((300,), x.dtype)
    assert streams.stays_on_host(ArrayFeed(fixed, 2))
    fixed.base.flags.writeable = fixed.flags.writeable = False  # as a file that is mapped for reading
    assert not streams.stays_on_host(ArrayFeed(fixed, 2))
    assert streams.stays_on_host(ArrayFeed((fixed, x), 2))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not streams.stays_on_host(ArrayFeed(x, 2))


def test_whole_numbers_of_large_arrays_are_refused_before_the_first_step(host):
    feed = ArrayFeed((np.zeros((5, 1), "float32"), np.int64([0, 1, 2, 3, 2**31])), 2)
    with pytest.raises(ValueError, match="Array 1 is int64 and holds 2147483648, which JAX would cut to int32"):
        make_engine().open(feed)
    with pytest.raises(ValueError, match="text"):
        make_engine().open(ArrayFeed(np.array(["a"], object), 2))


def test_an_epoch_over_large_arrays_takes_a_few_blocks_of_memory(host, monkeypatch):
    x = np.ones((4096, 1024), "float32")  # 16 MB, in blocks of 0.4
    engine = make_engine()
    tracemalloc.start()
    with contextlib.closing(engine.open(ArrayFeed(x, 32))) as stream:
        while stream.next_batch() is not None:
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes / 4
    assert sum(array.nbytes for array in jax.live_arrays()) < x.nbytes / 4
