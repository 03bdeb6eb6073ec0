"""Streams on torch: every source gives the same steps, from any position."""

import keras
import numpy as np
import pytest
import torch
from by_hand import (
    LINE,
    LINE_LOSSES,
    Batches,
    Iterable,
    Line,
    Noisy,
    assert_same,
    batches,
    learn,
    left_in,
    noisy_data,
    prepared,
    weights,
)
from keras import layers, ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.torch import TorchEngine
from lightkeras.task import Task


def test_a_stream_is_opened_at_a_position():
    feed = ArrayFeed((np.arange(10, dtype="float32")[:, None], np.zeros((10, 1))), 2)
    for source in (feed, as_feed(lambda: batches(feed.arrays, 2))):
        engine, _trace, program = prepared(Line(), source)
        assert program.run(engine.open(source, epoch=0, step=3), 5).values["largest"].tolist() == [7.0, 9.0]


def test_an_array_that_cannot_be_written_is_read_where_it_lies():
    x = LINE[0].copy()
    x.flags.writeable = False
    feed = ArrayFeed((x, LINE[1]), 2)
    stream = make_engine().open(feed)
    assert stream.arrays[0].data_ptr() == x.ctypes.data
    assert learn(Line(), feed)["loss"].tolist() == LINE_LOSSES


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_numbers_that_keras_holds_in_a_wider_type_arrive(dtype):
    class Largest(Line):
        def train_step(self, batch):
            self.log("over", ops.cast(ops.max(batch[0]) - 60_000, "float32"))
            return super().train_step([ops.zeros((1, 1)), ops.zeros((1, 1))])

    x = np.array([[60_001], [60_002]], dtype)
    for feed in (ArrayFeed((x,), 1), as_feed(lambda: batches((x,), 1))):
        assert learn(Largest(), feed)["over"].tolist() == [1.0, 2.0]


STREAMS = {
    "DataLoader": lambda arrays: torch.utils.data.DataLoader(Rows(arrays), 10),
    "generator": lambda arrays: lambda: batches(arrays, 10),
    "iterable": lambda arrays: Iterable(arrays),
    "PyDataset": lambda arrays: Batches(arrays, 10),
    "tf.data": lambda arrays: pytest.importorskip("tensorflow").data.Dataset.from_tensor_slices(arrays).batch(10),
}


class Rows(torch.utils.data.Dataset):
    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index):
        return tuple(array[index] for array in self.arrays)


@pytest.mark.parametrize("kind", STREAMS)
def test_every_kind_of_stream_gives_the_weights_of_arrays_to_the_bit(from_arrays, kind):
    task = Noisy()
    logs = learn(task, as_feed(STREAMS[kind](noisy_data(203))), 8, epochs=2)
    assert logs["examples"].tolist() == ([10] * 20 + [3]) * 2
    np.testing.assert_array_equal(logs["loss"], from_arrays[0]["loss"])
    assert_same(weights(task), from_arrays[1])


def test_a_tf_dataset_with_rows_of_another_length_in_each_batch_is_read():
    tf = pytest.importorskip("tensorflow")

    class Mean(Line):
        def loss(self, batch, training):
            return super().loss((ops.mean(batch, axis=1, keepdims=True), ops.zeros((1, 1))), training)

    dataset = tf.data.Dataset.range(1, 5).map(lambda n: tf.cast(tf.range(n), tf.float32)).padded_batch(1)
    logs = learn(Mean(), as_feed(dataset), 3)
    assert logs["largest"].tolist() == [0.0, 0.5, 1.0, 1.5]


def test_bags_come_without_padding():
    bags = Bags(np.int32([0, 1, 2, 3, 4, 5]), np.ones(6, "float32"), np.array([0, 1, 4, 4, 6]))

    class Sum(Task):
        def build(self):
            self.table = layers.Embedding(6, 1, embeddings_initializer="ones")
            self.optimizer = keras.optimizers.SGD(1.0)

        def train_step(self, batch):
            self.log("entries", float(len(batch["ids"])))
            self.log("rows", ops.max(batch["rows"]))
            return self.minimize(lambda: ops.sum(self.table(batch["ids"])[:, 0] * batch["weights"]))

    logs = learn(Sum(), ArrayFeed(bags, 2), 3)
    assert logs["entries"].tolist() == [4.0, 2.0]
    assert logs["rows"].tolist() == [1.0, 1.0]
    assert logs["examples"].tolist() == [2, 2]


def test_an_error_in_a_stream_comes_out_with_its_message():
    def broken():
        yield LINE
        raise RuntimeError("the disk is on fire")

    with pytest.raises(Exception, match="the disk is on fire"):
        learn(Line(), as_feed(broken))


def streams_of(arrays, size):
    def generator():
        for start in range(0, len(arrays[0]), size):
            yield tuple(array[start : start + size] for array in arrays)

    return {
        "arrays": ArrayFeed(arrays, size),
        "generator": as_feed(generator),
    }


@pytest.mark.parametrize("kind", ["arrays", "generator"])
def test_a_batch_at_hand_gives_what_it_gives_inside_its_feed_to_the_bit(kind):
    """Convolutions and matrix products: where the memory is not aligned some are computed in another order."""

    class Images(Task):
        def build_model(self):
            return keras.Sequential(
                [keras.Input((12, 12, 1)), layers.Conv2D(8, 3, activation="relu"), layers.BatchNormalization(),
                 layers.Flatten(), layers.Dense(64, "relu"), layers.Dropout(0.3), layers.Dense(1)]
            )  # fmt: skip

        def loss(self, batch, training):
            x, y = batch
            return ops.mean(ops.square(self.model(x, training=training) - y))

    rng = np.random.default_rng(0)
    arrays = (rng.normal(size=(66, 12, 12, 1)).astype("float32"), rng.normal(size=(66, 1)).astype("float32"))
    feed, task = streams_of(arrays, 33)[kind], Images()
    engine, _trace, program = prepared(task, feed)
    variables = list(task.variables().values())
    before = weights(task)
    stream = engine.open(feed)
    logs, after = program.run(stream, 1), weights(task)
    again = engine.open(feed)
    batch, shapes = again.next_batch(), again.shapes()
    np.testing.assert_array_equal(batch[0], arrays[0][:33])
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    found = program.run(engine.open_batch(batch, shapes), 1)
    assert found.values["loss"].tobytes() == logs.values["loss"].tobytes()
    assert_same(weights(task), after)
    assert shapes is None


def test_a_batch_at_hand_is_given_once_in_its_own_form():
    seen = []

    def step(given):
        seen.append(keras.tree.map_structure(lambda tensor: str(tensor.dtype), given))
        return {"loss": ops.sum(given["b"][0])}

    engine = make_engine()
    program = engine.program(step, ["loss"])
    stream = engine.open_batch({"b": [np.float64([[1.0]])], "a": np.int32([2])})
    assert program.run(stream, 5).values["loss"].tolist() == [1.0]
    assert program.run(stream, 5).steps == 0
    assert seen == [{"b": ["torch.float64"], "a": "torch.int32"}]


def test_a_shuffled_tf_dataset_continues_inside_an_epoch_as_on_tensorflow():
    tf = pytest.importorskip("tensorflow")

    def shuffled():
        tf.random.set_seed(3)
        return as_feed(tf.data.Dataset.range(40).map(lambda n: (n,)).shuffle(15).batch(4))

    engine, feed = TorchEngine(), shuffled()
    expected = [left_in(engine.open(feed, epoch)) for epoch in range(3)]
    engine, feed = TorchEngine(), shuffled()
    engine.open(feed, 0)
    stream = engine.open(feed, 1)
    found = [stream.next_batch()[0].tolist() for _ in range(3)]
    state = stream.state()
    engine, feed = TorchEngine(), shuffled()  # as in another process
    engine.skip_epochs(feed, 1)
    assert found + left_in(engine.open(feed, 1, 3, state=state)) == expected[1]
    assert left_in(engine.open(feed, 2)) == expected[2]


def test_arrays_are_taken_up_at_any_position():
    engine, feed = TorchEngine(), ArrayFeed((np.arange(10, dtype="float32"),), 4, shuffle=True)
    whole = left_in(engine.open(feed, 2, seed=7))
    assert left_in(engine.open(feed, 2, 1, seed=7)) == whole[1:]
    assert engine.open(feed, 2, 1, seed=7).state() is None
