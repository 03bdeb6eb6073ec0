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
    weights,
)
from keras import layers, ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.torch import TorchEngine
from lightkeras.task import Task


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
