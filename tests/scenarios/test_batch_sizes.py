"""Steps are traced with a batch that occurs, where the backend traces for one size."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import lightkeras as lk
from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed, StreamFeed
from lightkeras.engine import make_engine
from lightkeras.testing import two_moons
from lightkeras.training.tracing import form_to_trace

X, Y = two_moons(48)
SIZE = 12


class Grouped(lk.Task):
    """Halves of the batch are compared: a batch of another size than `SIZE` fails."""

    def build_model(self):
        return keras.Sequential([keras.Input((2,)), layers.Dense(3)])

    def grouped(self, batch):
        x = ops.reshape(self.model(batch[0]), (4, SIZE // 4, 3))  # four groups
        return ops.mean(ops.square(x - ops.mean(x, axis=1, keepdims=True)))

    def loss(self, batch, training):
        return self.grouped(batch)

    def predict_step(self, batch):
        return self.model(batch[0]) + 0 * self.grouped(batch)


class PerRow(layers.Layer):
    """A weight for each row of a batch."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(SIZE, 1), initializer="ones")

    def call(self, inputs):
        return inputs * self.scale


class Fixed(lk.Task):
    """A model of one batch size."""

    def build_model(self):
        inputs = keras.Input(batch_shape=(SIZE, 2))
        return keras.Model(inputs, PerRow()(layers.Dense(3)(inputs)))

    def loss(self, batch, training):
        return ops.mean(ops.square(self.model(batch[0], training=training) - 1.0))


class Data(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[SIZE * index : SIZE * index + SIZE], Y[SIZE * index : SIZE * index + SIZE]


def batches():
    data = Data()
    return (data[index] for index in range(len(data)))  # Keras 3.10's has no end


def dataset(drop=False):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(SIZE, drop_remainder=drop)


SOURCES = {
    "generator": lambda: lambda: batches(),
    "PyDataset": Data,
    "iterable": lambda: list(batches()).__iter__,
    "tf.data": dataset,
    "tf.data of one size": lambda: dataset(drop=True),
    "feed": lambda: StreamFeed(lambda epoch: batches(), as_feed(batches).spec),
}


# Both ways to need a size with each source, with and without a preflight; the other pairs repeat them.
PAIRS = [
    pytest.param(task, preflight, marks=pytest.mark.long if (task is Grouped) == preflight else ())
    for task in (Grouped, Fixed)
    for preflight in (True, False)
]


@pytest.mark.parametrize(("task", "preflight"), PAIRS)
@pytest.mark.parametrize("name", SOURCES)
def test_a_step_that_needs_the_size_of_the_batch_runs_at_every_way_in(name, task, preflight, tmp_path):
    runner = lk.Runner(max_epochs=1, run_dir=tmp_path / "run", preflight=preflight, pictures=False, export=False)
    task = task()
    assert runner.fit(task, SOURCES[name](), SOURCES[name]()).steps == 4
    assert runner.evaluate(task, SOURCES[name]()).examples == 48
    assert runner.predict(task, SOURCES[name]()).shape == (48, 3)
    if name == "generator":
        assert len(runner.find_learning_rate(task, batches, steps=10, low=1e-4, high=1e-3).rates) == 10


def test_arrays_are_traced_with_the_size_of_their_first_batch():
    engine = make_engine()
    assert form_to_trace(engine, ArrayFeed((X, Y), 16))[1] == 16
    assert form_to_trace(engine, ArrayFeed((X, Y), 100))[1] == 48


def test_open_sizes_are_those_of_the_first_batch_where_the_backend_needs_sizes():
    import tensorflow as tf

    signature = tf.TensorSpec((None, None, 3), tf.float32)
    found = as_feed(tf.data.Dataset.from_generator(lambda: iter([np.zeros((5, 7, 3))]), output_signature=signature))
    spec, size = form_to_trace(make_engine(), found)
    assert (spec.shape, size) == ((None, 3), None) if keras.backend.backend() == "tensorflow" else ((7, 3), 5)


def test_a_small_split_is_one_batch(tmp_path):
    runner = lk.Runner(max_epochs=2, run_dir=tmp_path / "run", pictures=False, export=False)
    task = lk.SupervisedTask(keras.Sequential([keras.Input((2,)), layers.Dense(1)]), loss="mse")
    result = runner.fit(task, (X[:20], Y[:20].astype("float32")), (X[:5], Y[:5].astype("float32")))
    assert result.steps == 2
