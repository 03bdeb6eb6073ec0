"""Tasks with hand-computed numbers, and functions that run their steps, for the tests of each engine."""

import keras
import numpy as np
from keras import layers, ops

from lightkeras.data.arrays import as_feed
from lightkeras.engine import make_engine
from lightkeras.task import Task


def one_weight(value):
    return layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(value))


class Line(Task):
    """y = w x with initial w = 1, squared error, SGD with a learning rate of 1/8: exact in float32."""

    def build_model(self):
        return keras.Sequential([keras.Input((1,)), one_weight(1.0)])

    def build_optimizer(self):
        return keras.optimizers.SGD(0.125)

    def loss(self, batch, training):
        x, y = batch
        error = ops.cast(self.model(x, training=training), "float32") - ops.cast(y, "float32")
        self.log("largest", ops.max(x))
        return ops.mean(ops.square(error))


LINE = (np.float32([[1], [2], [3]]), np.float32([[2], [4], [6]]))
# First batch: errors -1 and -2, loss (1 + 4) / 2, gradient (2(-1)1 + 2(-2)2) / 2 = -5, w = 1 + 5/8.
# Second: error 3 * 1.625 - 6 = -1.125, loss 1.265625, gradient 2(-1.125)3 = -6.75, w = 1.625 + 6.75/8.
LINE_LOSSES, LINE_WEIGHTS = [2.5, 1.265625], [1.625, 2.46875]


def prepared(task, feed, seed=0):
    """Returns the engine, the trace and the compiled train step, with built optimizers."""
    task.set_up(seed)
    engine = task.bind(make_engine)
    trace = engine.trace(task.run_train_step, feed.spec, feed.batch_size)
    for update in trace.updates:
        if not update.optimizer.built:
            update.optimizer.build(list(update.variables))
    return engine, trace, engine.program(task.run_train_step, trace.names)


def learn(task, feed, count=8, epochs=1, seed=0):
    """Returns the logs of every step of `epochs` epochs, `count` steps per call."""
    engine, _trace, program = prepared(task, feed, seed)
    parts = []
    for epoch in range(epochs):
        stream = engine.open(feed, epoch, seed=seed, program=program)
        while (logs := program.run(stream, count)).steps:
            assert logs.steps <= count
            parts.append(logs)
    values = {name: np.concatenate([logs.values[name] for logs in parts]) for name in parts[0].values}
    return values | {"examples": np.concatenate([logs.examples for logs in parts])}


def weights(task):
    return [ops.convert_to_numpy(variable).copy() for variable in task.variables().values()]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


class Noisy(Task):
    """Every kind of state: dropout, batch normalization, seeded and unseeded noise, and a stateful metric."""

    def build(self):
        self.model = keras.Sequential(
            [keras.Input((4,)), layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Dropout(0.5),
             layers.Dense(1)]
        )  # fmt: skip
        self.optimizer = keras.optimizers.Adam(0.01)
        self.seeds = keras.random.SeedGenerator(7)
        self.error = keras.metrics.MeanAbsoluteError("error")

    def train_step(self, batch):
        x, y = batch
        x = x + keras.random.normal(ops.shape(x), stddev=0.1, seed=self.seeds)
        x = x + keras.random.normal(ops.shape(x), stddev=0.1)

        def loss():
            output = self.model(x, training=True)
            self.error.update_state(y, output)
            return ops.mean(ops.square(output - y))

        return self.minimize(loss)


def noisy_data(count=1003):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 4)).astype("float32"), rng.normal(size=(count, 1)).astype("float32")


def batches(arrays, size):
    for start in range(0, len(arrays[0]), size):
        yield tuple(array[start : start + size] for array in arrays)


class Batches(keras.utils.PyDataset):
    def __init__(self, arrays, size):
        super().__init__()
        self.parts = list(batches(arrays, size))

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return self.parts[index]


class Iterable:
    def __init__(self, arrays):
        self.arrays = arrays

    def __iter__(self):
        return batches(self.arrays, 10)


class Square(Line):
    def predict_step(self, batch):
        return {"square": batch * batch, "pair": (batch + 1, ops.cast(batch[:, 0], "int32"))}


def predictions(task, data, count=4, batch_size=3):
    task.set_up(0)
    engine, feed = task.bind(make_engine), as_feed(data, batch_size)
    predictor, stream = engine.predictor(task.predict_step), engine.open(feed)
    parts = []
    while (part := predictor.run(stream, count)) is not None:
        parts.append(part)
    return parts


class HalfPrecision(Line):
    """The line in float16, where the scale of the loss decides whether gradients overflow."""

    scale = 4.0

    def build_model(self):
        kernel = keras.initializers.Constant(1.0)
        dense = layers.Dense(1, use_bias=False, kernel_initializer=kernel, dtype="mixed_float16")
        return keras.Sequential([keras.Input((1,)), dense])

    def build_optimizer(self):
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.125), initial_scale=self.scale)


class InBranch(Line):
    """Learns, and draws, in every second step alone."""

    def build(self):
        super().build()
        self.steps = keras.Variable(0, dtype="int32", trainable=False)
        self.holder = layers.Layer()
        self.holder.steps = self.steps
        self.noise = keras.random.SeedGenerator(1)

    def train_step(self, batch):
        def learns():
            return self.minimize(lambda: self.squares(batch) + 0.0 * keras.random.uniform((), seed=self.noise))

        loss = ops.cond(self.steps % 2 == 0, learns, lambda: ops.convert_to_tensor(-1.0))
        self.steps.assign_add(1)
        return loss

    def squares(self, batch):
        return ops.mean(ops.square(self.model(batch[0]) - batch[1]))


def left_in(stream) -> list[list[int]]:
    found = []
    while (batch := stream.next_batch()) is not None:
        found.append(batch[0].tolist())
    return found


def sizes(task, feed):
    """Returns gradient sizes of the first batch by variable path, and the weights before and after."""
    engine, _trace, _program = prepared(task, feed)
    before = weights(task)
    found = engine.gradient_sizes(task.run_train_step, engine.open(feed))
    return [(variable.path, size) for variable, size in found], before, weights(task)
