"""The TensorFlow engine: numbers worked out by hand, whatever the steps per call."""

import resource

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.base import Seen
from lightkeras.engine.tensorflow import TensorFlowEngine
from lightkeras.task import Task


def one_weight(value):
    return layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(value))


class Line(Task):
    """y = w x with w = 1 at first, squared error, SGD with a learning rate of 1/8: exact in float32."""

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
    """The engine, the trace and the compiled train step; optimizers are built."""
    task.set_up(seed)
    engine = task.bind(make_engine)
    trace = engine.trace(task.run_train_step, feed.spec)
    for update in trace.updates:
        if not update.optimizer.built:
            update.optimizer.build(list(update.variables))
    return engine, trace, engine.program(task.run_train_step, trace.names)


@pytest.mark.parametrize("built", [True, False])
def test_a_step_is_traced_once_and_again_only_where_its_model_builds_itself(built):
    runs = []

    class Counted(Line):
        def build_model(self):
            return super().build_model() if built else keras.Sequential([one_weight(1.0)])

        def loss(self, batch, training):
            runs.append(1)
            return super().loss(batch, training)

    task = Counted()
    _engine, trace, _program = prepared(task, ArrayFeed(LINE, 2))
    assert (len(runs) == 1) is built
    assert [update.variables for update in trace.updates] == [tuple(task.model.trainable_variables)]


def test_an_evaluation_is_traced_once_and_has_one_form_for_batches_of_any_size():
    runs = []

    class Counted(Line):
        def evaluate_step(self, batch):
            runs.append(1)
            return super().evaluate_step(batch)

    task, feed = Counted(), ArrayFeed(LINE, 2)
    task.set_up(0)
    engine = task.bind(make_engine)
    trace = engine.trace(task.run_evaluate_step, feed.spec)
    program = engine.program(task.run_evaluate_step, trace.names)
    stream = engine.open(feed)
    logs = [program.run(stream, 1) for _ in range(2)]
    # With w = 1 the errors are -1 and -2, then -3.
    assert [part.values["loss"].tolist() for part in logs] == [[2.5], [9.0]]
    assert [part.examples.tolist() for part in logs] == [[2], [1]]
    assert (len(runs), len(program.forms)) == (1, 1)
    task.model.set_weights([np.float32([[2.0]])])  # the trace holds the variables, and not their values
    assert program.run(engine.open(feed), 1).values["loss"].tolist() == [0.0]


@pytest.mark.parametrize("count", [3, 40])
def test_variables_that_are_not_finite_are_found_one_by_one_or_compiled(count):
    engine = make_engine()
    variables = {str(number): keras.Variable(np.ones(2, "float32")) for number in range(count)}
    variables |= {"large": keras.Variable(np.full(4, 3e38, "float32")), "whole": keras.Variable(1, dtype="int32")}
    assert engine.not_finite(variables) == []  # the sum of the large ones is not finite, and they are
    variables["1"].assign([1.0, np.nan])
    assert engine.not_finite(variables) == ["1"]


def learn(task, feed, count=8, epochs=1, seed=0):
    """Logs of every step over some epochs, `count` steps per call."""
    engine, _trace, program = prepared(task, feed, seed)
    parts = []
    for epoch in range(epochs):
        stream = engine.open(feed, epoch, seed=seed)
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


def test_the_engine_of_this_backend_is_tensorflows():
    assert isinstance(make_engine(), TensorFlowEngine)
    assert make_engine().backend == "tensorflow"


# ---------------------------------------------------------------------- steps


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_logs_of_every_step_and_the_weights_are_those_worked_out_by_hand(count):
    task = Line()
    logs = learn(task, ArrayFeed(LINE, 2), count)
    assert logs["loss"].tolist() == LINE_LOSSES
    assert logs["largest"].tolist() == [2.0, 3.0]
    assert logs["examples"].tolist() == [2, 1]  # the smaller last batch is part of the epoch
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[-1]
    assert int(task.optimizer.iterations) == 2


def test_logs_come_as_float32_and_numbers_of_examples_as_int64():
    engine, _trace, program = prepared(Line(), ArrayFeed(LINE, 1))
    logs = program.run(engine.open(ArrayFeed(LINE, 1)), 3)
    assert {column.dtype.name for column in logs.values.values()} == {"float32"}
    assert logs.examples.dtype == np.int64


def test_a_call_gives_what_was_asked_for_and_then_less_and_then_nothing():
    feed = ArrayFeed((np.zeros((11, 1)), np.zeros((11, 1))), 2)
    engine, _trace, program = prepared(Line(), feed)
    stream = engine.open(feed)
    assert [program.run(stream, 3).steps for _ in range(5)] == [3, 2, 1, 0, 0]


def test_a_stream_is_opened_at_a_position():
    feed = ArrayFeed((np.arange(10, dtype="float32")[:, None], np.zeros((10, 1))), 2)
    dataset = as_feed(tf.data.Dataset.from_tensor_slices(feed.arrays).batch(2))
    for source in (feed, dataset):
        engine, _trace, program = prepared(Line(), source)
        assert program.run(engine.open(source, epoch=0, step=3), 5).values["largest"].tolist() == [7.0, 9.0]


class Noisy(Task):
    """Dropout, batch normalization, noise of its own and a stateful metric: all the state there is."""

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

        def loss():
            output = self.model(x, training=True)
            self.error.update_state(y, output)
            return ops.mean(ops.square(output - y))

        return self.minimize(loss)


def noisy_data(count=1003):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 4)).astype("float32"), rng.normal(size=(count, 1)).astype("float32")


@pytest.fixture(scope="module")
def one_step_at_a_time():
    task = Noisy()
    logs = learn(task, ArrayFeed(noisy_data(), 10, shuffle=True), 1, epochs=2)
    return logs, weights(task)


@pytest.mark.parametrize("count", [7, 75, 1000])
def test_steps_per_call_change_no_bit_of_any_variable_or_log(one_step_at_a_time, count):
    task = Noisy()
    logs = learn(task, ArrayFeed(noisy_data(), 10, shuffle=True), count, epochs=2)
    assert logs["examples"].tolist() == ([10] * 100 + [3]) * 2
    np.testing.assert_array_equal(logs["loss"], one_step_at_a_time[0]["loss"])
    assert_same(weights(task), one_step_at_a_time[1])


def test_seed_generators_and_metrics_move_on_and_noise_differs_from_step_to_step(one_step_at_a_time):
    task = Noisy()
    data = [np.repeat(array[:1], 20, axis=0) for array in noisy_data()]  # the same example every time
    task.set_up(0)
    before = task.seeds.state.numpy().copy()
    losses = learn(task, ArrayFeed(tuple(data), 1), 20)["loss"]
    assert len(set(losses.tolist())) == 20
    assert task.seeds.state.numpy().tolist() != before.tolist()
    assert float(task.error.count) == 20


def test_moving_averages_of_batch_normalization_update():
    class Normalized(Task):
        def build_model(self):
            return keras.Sequential([keras.Input((1,)), layers.BatchNormalization(momentum=0.5), layers.Dense(1)])

        def loss(self, batch, training):
            return ops.mean(self.model(batch, training=training))

    task = Normalized()
    learn(task, ArrayFeed(np.float32([[0], [4], [1], [5]]), 2))
    norm = task.model.layers[0]
    # Means 2 and 3, variances 4 and 4; averages start at 0 and 1 and move half the way each step.
    assert norm.moving_mean.numpy().tolist() == [(0 + 2) / 2 / 2 + 3 / 2]
    assert norm.moving_variance.numpy().tolist() == [((1 + 4) / 2 + 4) / 2]


def test_a_trace_changes_no_variable():
    task = Noisy()
    task.set_up(0)
    before = weights(task)
    trace = task.bind(make_engine).trace(task.run_train_step, ArrayFeed(noisy_data(20), 10).spec)
    assert_same(weights(task)[: len(before)], before)
    assert trace.names == ("loss",)
    assert [update.optimizer for update in trace.updates] == [task.optimizer]
    assert [update.unreached for update in trace.updates] == [()]
    assert float(task.error.count) == 0


def test_names_that_change_from_step_to_step_are_refused():
    class Moody(Line):
        def train_step(self, batch):
            if batch[0].shape[0] == 1:
                self.log("lonely", 1.0)
            return super().train_step(batch)

    with pytest.raises(ValueError, match=r"must log the same names .* now new: \['lonely'\]"):
        learn(Moody(), ArrayFeed(LINE, 2))


# ---------------------------------------------------------------------- forms of batches


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool"])
def test_numbers_of_any_dtype_reach_the_step(dtype):
    class Cast(Line):
        def loss(self, batch, training):
            self.dtype = batch[0].dtype.name
            return super().loss([ops.cast(part, "float32") for part in batch], training)

    x = np.array([[1], [0], [1]], dtype)
    task = Cast()
    logs = learn(task, ArrayFeed((x, x), 2))
    assert logs["largest"].tolist() == [1.0, 1.0]
    assert logs["loss"].tolist() == [0.0, 0.0]
    assert task.dtype == ("float32" if dtype == "float64" else dtype)  # as in Keras


def test_numbers_beyond_float32_stay_whole_in_integers():
    class Identity(Line):
        def train_step(self, batch):
            self.log("odd", ops.cast(ops.max(batch[0]) % 2, "float32"))
            return super().train_step([ops.zeros((1, 1)), ops.zeros((1, 1))])

    assert learn(Identity(), ArrayFeed((np.int64([[2**53 + 1]]), LINE[1][:1]), 1))["odd"].tolist() == [1.0]


def test_text_reaches_the_step_as_strings():
    class Lengths(Line):
        def loss(self, batch, training):
            length = tf.cast(tf.strings.length(batch["text"]), tf.float32)[:, None]
            return super().loss((length, batch["label"]), training)

    arrays = {"text": np.array(["a", "ab", "abc"]), "label": np.int32([[2], [4], [6]])}
    for feed in (ArrayFeed(arrays, 2), as_feed(tf.data.Dataset.from_tensor_slices(arrays).batch(2))):
        task = Lengths()
        assert learn(task, feed)["loss"].tolist() == LINE_LOSSES
        assert task.model.get_weights()[0].item() == LINE_WEIGHTS[-1]


def test_dicts_tuples_and_lists_keep_their_form():
    class Nested(Line):
        def loss(self, batch, training):
            assert type(batch) is tuple
            assert type(batch[0]) is dict
            assert type(batch[0]["b"]) is tuple
            return super().loss((batch[0]["b"][0], batch[0]["a"]), training)

    arrays = ({"b": (LINE[0], np.zeros((3, 2, 2))), "a": LINE[1]}, np.zeros(3))
    assert learn(Nested(), ArrayFeed(arrays, 2))["loss"].tolist() == LINE_LOSSES


# ---------------------------------------------------------------------- streams


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


STREAMS = {
    "tf.data": lambda arrays: tf.data.Dataset.from_tensor_slices(arrays).batch(10),
    "tf.data of unknown length": lambda arrays: (
        tf.data.Dataset.from_tensor_slices(arrays).filter(lambda x, y: True).batch(10)
    ),
    "generator": lambda arrays: lambda: batches(arrays, 10),
    "iterable": lambda arrays: Iterable(arrays),
    "PyDataset": lambda arrays: Batches(arrays, 10),
}


class Iterable:
    def __init__(self, arrays):
        self.arrays = arrays

    def __iter__(self):
        return batches(self.arrays, 10)


@pytest.fixture(scope="module")
def from_arrays():
    task = Noisy()
    return learn(task, ArrayFeed(noisy_data(203), 10), 7, epochs=2), weights(task)


@pytest.fixture(scope="module")
def from_tf_data():
    task = Noisy()
    return learn(task, as_feed(STREAMS["tf.data"](noisy_data(203))), 1, epochs=2), weights(task)


def test_a_stream_gives_the_weights_of_arrays_in_the_same_order(from_arrays, from_tf_data):
    # Not bit for bit: a stream's batch may have any size, and TensorFlow rounds a mean over a size that
    # is known to it in another way.
    np.testing.assert_allclose(from_tf_data[0]["loss"], from_arrays[0]["loss"], rtol=1e-5)
    for found, expected in zip(from_tf_data[1], from_arrays[1], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", STREAMS)
def test_every_kind_of_stream_gives_the_same_weights_whatever_the_steps_per_call(from_tf_data, kind):
    task = Noisy()
    logs = learn(task, as_feed(STREAMS[kind](noisy_data(203))), 8, epochs=2)
    assert logs["examples"].tolist() == ([10] * 20 + [3]) * 2
    np.testing.assert_array_equal(logs["loss"], from_tf_data[0]["loss"])
    assert_same(weights(task), from_tf_data[1])


def test_a_stream_of_unknown_length_ends_with_what_there_is():
    feed = as_feed(STREAMS["generator"](noisy_data(203)))
    assert feed.steps is None
    engine, _trace, program = prepared(Noisy(), feed)
    stream = engine.open(feed)
    assert [program.run(stream, 8).steps for _ in range(5)] == [8, 8, 5, 0, 0]


def test_a_stream_with_rows_of_another_length_in_each_batch_is_read():
    class Mean(Line):
        def loss(self, batch, training):
            return super().loss((ops.mean(batch, axis=1, keepdims=True), ops.zeros((1, 1))), training)

    dataset = tf.data.Dataset.range(1, 5).map(lambda n: tf.cast(tf.range(n), tf.float32)).padded_batch(1)
    logs = learn(Mean(), as_feed(dataset), 3)
    assert logs["largest"].tolist() == [0.0, 0.5, 1.0, 1.5]


def test_batches_of_many_shapes_are_compiled_for_once():
    class Mean(Line):
        def loss(self, batch, training):
            return super().loss((ops.mean(batch, axis=1, keepdims=True), ops.zeros((1, 1))), training)

    dataset = tf.data.Dataset.range(1, 21).map(lambda n: tf.cast(tf.range(n), tf.float32)).padded_batch(1)
    traces = []

    class Counted(Mean):
        def loss(self, batch, training):
            traces.append(batch.shape)
            return super().loss(batch, training)

    task = Counted()
    engine, trace, program = prepared(task, feed := as_feed(dataset))
    traces.clear()
    stream = engine.open(feed, ahead=trace.ahead)
    assert [program.run(stream, 7).steps for _ in range(3)] == [7, 7, 6]
    assert program.forms == ["float32(None, None)"]
    assert {tuple(shape) for shape in traces} == {(None, None)}
    assert len(traces) == 1


def test_an_error_in_a_stream_comes_out_with_its_message():
    def broken():
        yield LINE
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match=r"^the disk is on fire$"):
        learn(Line(), as_feed(broken))


def test_memory_stays_flat_over_many_steps_of_a_stream():
    class Endless:
        def __iter__(self):
            batch = (np.zeros((1, 1), "float32"), np.zeros((1, 1), "float32"))
            return iter([batch] * 4_000)

    feed = as_feed(Endless())
    engine, _trace, program = prepared(Line(), feed)

    def epoch(number):
        stream, steps = engine.open(feed, number), 0
        while (logs := program.run(stream, 500)).steps:
            steps += logs.steps
        assert steps == 4_000
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    after_one = epoch(0)
    assert epoch(1) - after_one < 4  # MB


# ---------------------------------------------------------------------- predictions


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


@pytest.mark.parametrize("examples", [1, 2, 3, 10, 12])
def test_predictions_keep_order_and_structure_for_any_number_of_inputs(examples):
    x = np.arange(examples, dtype="float32")[:, None]
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(3)
    for data in (x, dataset):
        parts = predictions(Square(), data, count=2)
        joined = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        np.testing.assert_array_equal(joined["square"], x * x)
        np.testing.assert_array_equal(joined["pair"][0], x + 1)
        assert joined["pair"][1].tolist() == list(range(examples))
        assert joined["pair"][1].dtype == np.int32


def test_text_comes_out_of_a_prediction():
    class Shout(Line):
        def predict_step(self, batch):
            return tf.strings.upper(batch)

    (part,) = predictions(Shout(), np.array(["a", "b"]))
    assert part.tolist() == [b"A", b"B"]


def test_a_prediction_that_is_a_scalar_is_refused():
    class Total(Line):
        def predict_step(self, batch):
            return ops.sum(batch)

    with pytest.raises(ValueError, match="predict_step returned a scalar; expected outputs whose axis 0"):
        predictions(Total(), LINE[0])


# ---------------------------------------------------------------------- minimize and gradients


def test_two_optimizers_each_update_their_own_variables():
    class Gan(Task):
        def build(self):
            self.generator = keras.Sequential([keras.Input((1,)), one_weight(0.5)])
            self.critic = keras.Sequential([keras.Input((1,)), one_weight(1.0)])
            self.slow, self.fast = keras.optimizers.SGD(0.25), keras.optimizers.SGD(0.5)

        def train_step(self, batch):
            noise = ops.ones_like(batch)

            def critic_loss():
                return ops.mean(self.critic(self.generator(noise))) - ops.mean(self.critic(batch))

            def generator_loss():
                return -ops.mean(self.critic(self.generator(noise)))

            self.log("critic", self.minimize(critic_loss, self.critic.trainable_variables, self.fast))
            self.log("generator", self.minimize(generator_loss, self.generator.trainable_variables, self.slow))

    task = Gan()
    logs = learn(task, ArrayFeed(np.float32([[2], [2]]), 1))
    # c = 1, g = 1/2: loss gc - 2c = -1.5, gradient g - 2 = -1.5, c = 1.75; then loss -gc = -0.875, gradient
    # -c = -1.75, g = 0.9375. Next: (0.9375 - 2) 1.75 = -1.859375, c = 2.28125; loss -2.138671875, g = 1.5078125.
    assert logs["critic"].tolist() == [-1.5, -1.859375]
    assert logs["generator"].tolist() == [-0.875, -2.138671875]
    assert task.critic.get_weights()[0].item() == 2.28125
    assert task.generator.get_weights()[0].item() == 1.5078125
    assert (int(task.slow.iterations), int(task.fast.iterations)) == (2, 2)


def test_a_gradient_penalty_is_itself_minimized():
    class Penalty(Line):
        def train_step(self, batch):
            def penalty():
                found = self.gradients(lambda x: ops.sum(ops.square(self.model(x))), batch)
                return ops.mean(ops.square(found))

            return self.minimize(penalty)

    task = Penalty()
    # f = (wx)^2, df/dx = 2 w^2 x, penalty 4 w^4 x^2 = 1, its gradient 16 w^3 x^2 = 4, w = 1 - 4/8.
    assert learn(task, ArrayFeed(np.float32([[0.5]]), 1))["loss"].tolist() == [1.0]
    assert task.model.get_weights()[0].item() == 0.5


def test_gradients_keep_the_structure_of_the_inputs():
    class Saliency(Line):
        def predict_step(self, batch):
            return self.gradients(lambda b: ops.sum(b["x"] * b["x"] * b["y"]), batch)

        def train_step(self, batch):
            found = self.gradients(lambda b: ops.sum(b["x"] * b["x"] * b["y"]), batch)
            self.log("dx", ops.max(found["x"]))  # 2 x y
            self.log("dy", ops.max(found["y"]))  # x^2
            return super().train_step((batch["x"], batch["y"]))

    logs = learn(Saliency(), ArrayFeed({"x": np.float32([[3]]), "y": np.float32([[5]])}, 1))
    assert (logs["dx"].item(), logs["dy"].item()) == (30.0, 9.0)


def test_gradients_of_what_does_not_depend_on_an_input_name_it():
    class Lost(Line):
        def train_step(self, batch):
            self.gradients(lambda b: ops.sum(b["x"]), batch)

    with pytest.raises(ValueError, match="gradients: the value does not depend on y"):
        learn(Lost(), ArrayFeed({"x": np.float32([[3]]), "y": np.float32([[5]])}, 1))


def test_a_loss_that_is_no_scalar_is_refused_with_its_shape():
    class Rows(Line):
        def loss(self, batch, training):
            return ops.square(self.model(batch[0]) - batch[1])

    with pytest.raises(ValueError, match=r"minimize: the loss has shape \(None, 1\); expected a scalar"):
        learn(Rows(), ArrayFeed(LINE, 2))


def test_frozen_weights_stay_and_the_others_move():
    class Frozen(Task):
        def build_model(self):
            return keras.Sequential([keras.Input((1,)), one_weight(1.0), one_weight(1.0)])

        def build_optimizer(self):
            return keras.optimizers.SGD(0.125)

        def build(self):
            super().build()
            self.model.layers[0].trainable = False

        def loss(self, batch, training):
            return ops.mean(ops.square(self.model(batch[0]) - batch[1]))

    task = Frozen()
    assert learn(task, ArrayFeed(LINE, 2))["loss"].tolist() == LINE_LOSSES
    assert [weight.item() for weight in task.model.get_weights()] == [1.0, LINE_WEIGHTS[-1]]


def test_a_model_that_builds_itself_on_its_first_call_learns():
    class Late(keras.Model):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 1), initializer="ones")

        def call(self, x):
            return x @ self.kernel

    class Lazy(Line):
        def build_model(self):
            return Late()

    task = Lazy()
    assert learn(task, ArrayFeed(LINE, 2))["loss"].tolist() == LINE_LOSSES
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[-1]


def test_gradients_are_clipped_by_the_optimizer():
    class Clipped(Line):
        def build_optimizer(self):
            return keras.optimizers.SGD(0.125, global_clipnorm=1.0)

    task = Clipped()
    learn(task, ArrayFeed([array[:2] for array in LINE], 2))
    assert task.model.get_weights()[0].item() == pytest.approx(1 + 0.125, abs=1e-6)  # -5 becomes -1


def test_the_optimizer_averages_the_weights():
    class Averaged(Line):
        def build_optimizer(self):
            return keras.optimizers.SGD(0.125, use_ema=True, ema_momentum=0.75)

    task = Averaged()
    learn(task, ArrayFeed(LINE, 2))
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[-1]
    average = 0.75 * LINE_WEIGHTS[0] + 0.25 * LINE_WEIGHTS[1]  # the first step sets it
    assert task.optimizer._model_variables_moving_average[0].numpy().item() == average


class HalfPrecision(Line):
    """The line in float16, where the scale of the loss decides whether gradients overflow."""

    scale = 4.0

    def build_model(self):
        kernel = keras.initializers.Constant(1.0)
        dense = layers.Dense(1, use_bias=False, kernel_initializer=kernel, dtype="mixed_float16")
        return keras.Sequential([keras.Input((1,)), dense])

    def build_optimizer(self):
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.125), initial_scale=self.scale)


@pytest.mark.parametrize("count", [1, 8])
def test_mixed_precision_gives_the_same_numbers_where_they_are_exact(count):
    task = HalfPrecision()
    assert learn(task, ArrayFeed(LINE, 2), count)["loss"].tolist() == LINE_LOSSES
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[-1]


def test_a_step_whose_scaled_gradient_overflows_is_skipped_and_the_scale_halved():
    class Overflowing(HalfPrecision):
        scale = 2.0**15  # times 5 is beyond float16's 65504

    task = Overflowing()
    assert learn(task, ArrayFeed([array[:2] for array in LINE], 2))["loss"].tolist() == [2.5]
    assert task.model.get_weights()[0].item() == 1.0
    assert float(task.optimizer.dynamic_scale) == 2.0**14


# ---------------------------------------------------------------------- one step, looked into


def streams_of(arrays, size):
    batches = tf.data.Dataset.from_tensor_slices(arrays)

    def generator():
        for start in range(0, len(arrays[0]), size):
            yield tuple(array[start : start + size] for array in arrays)

    return {
        "arrays": ArrayFeed(arrays, size),
        "dataset": as_feed(batches.batch(size)),
        "whole batches": as_feed(batches.batch(size, drop_remainder=True)),
        "generator": as_feed(generator),
    }


@pytest.mark.parametrize("kind", ["arrays", "dataset", "whole batches", "generator"])
def test_a_batch_at_hand_gives_what_it_gives_inside_its_feed_to_the_bit(kind):
    """Convolutions and matrix products: with an unknown batch size some are computed in another order."""

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
    found = program.run(engine.open_batch(batch, (), shapes), 1)
    assert found.values["loss"].tobytes() == logs.values["loss"].tobytes()
    assert_same(weights(task), after)
    assert shapes == {
        "arrays": None,
        "whole batches": [[33, 12, 12, 1], [33, 1]],
    }.get(kind, [[None, 12, 12, 1], [None, 1]])


def test_a_batch_at_hand_is_given_once_in_its_own_form():
    batch = {"b": [np.float64([[1.0]])], "a": np.array([b"x"], object)}
    engine = make_engine()
    seen = []

    def step(given):
        seen.append({"b": [given["b"][0].dtype.name], "a": given["a"].dtype.name})
        return {"loss": ops.sum(given["b"][0])}

    program = engine.program(step, ["loss"])
    stream = engine.open_batch(batch)
    assert program.run(stream, 5).values["loss"].tolist() == [1.0]
    assert program.run(stream, 5).steps == 0
    assert {"b": ["float64"], "a": "string"} in seen


def test_a_step_that_is_looked_into_shows_layers_losses_and_gradients_in_order():
    task = Line()
    engine, _trace, _program = prepared(task, ArrayFeed(LINE, 2))
    call = keras.Operation.__call__
    logs, seen = engine.run_eagerly(task.run_train_step, tuple(array[:2] for array in LINE))
    assert logs == {"largest": 2.0, "loss": LINE_LOSSES[0]}
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[0]
    assert keras.Operation.__call__ is call
    name, dense = task.model.name, task.model.layers[0].name
    assert seen == [
        Seen("layer", f"{name}/{dense} (Dense)", None, largest=2.0),
        Seen("layer", f"{name} (Sequential)", None, largest=2.0),
        Seen("loss", "loss", None, largest=2.5),
        Seen("gradient", task.model.layers[0].kernel.path, None, largest=5.0),
    ]


def test_a_step_that_raises_while_it_is_looked_into_leaves_keras_as_it_was():
    engine, call = make_engine(), keras.Operation.__call__

    def step(batch):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        engine.run_eagerly(step, LINE)
    assert keras.Operation.__call__ is call


def test_row_sparse_gradients_are_looked_into():
    class Sparse(Line):
        def build_model(self):
            return keras.Sequential([keras.Input((1,), dtype="int32"), layers.Embedding(4, 1), layers.Flatten()])

    task = Sparse()
    batch = (np.int32([[1], [2]]), np.float32([[np.inf], [0.0]]))
    engine, _trace, _program = prepared(task, ArrayFeed(batch, 2))
    _, seen = engine.run_eagerly(task.run_train_step, batch)
    assert seen[-1] == Seen("gradient", task.model.layers[0].embeddings.path, -np.inf)


def test_variables_that_are_not_finite_are_found_whatever_their_dtype():
    values = {
        "fine": np.float32([1.0, 2.0]),
        "large": np.float32([3e38, 3e38]),  # their sum is not finite, and they are
        "nan": np.float32([0.0, np.nan]),
        "cancelled": np.float32([np.inf, -np.inf]),
        "half": np.float16([np.inf]),
        "half and fine": np.float16([6e4, 6e4]),
        "whole": np.int32([2**31 - 1]),
    }
    variables = {
        key: keras.Variable(value, dtype=value.dtype.name, trainable=value.dtype.kind == "f")
        for key, value in values.items()
    }
    variables["brain"] = keras.Variable([np.nan], dtype="bfloat16")
    engine = make_engine()
    assert engine.not_finite(variables) == ["nan", "cancelled", "half", "brain"]
    assert engine.not_finite({key: variables[key] for key in ("fine", "large", "whole")}) == []
    assert engine.not_finite({"whole": variables["whole"]}) == []
    variables["fine"].assign([np.nan, 0.0])
    assert engine.not_finite({"fine": variables["fine"]}) == ["fine"]


# ---------------------------------------------------------------------- going on inside an epoch of a stream


def shuffled():
    keras.utils.set_random_seed(3)
    return as_feed(tf.data.Dataset.range(40).map(lambda n: (n,)).shuffle(15).batch(4))


def left_in(stream) -> list[list[int]]:
    found = []
    while (batch := stream.next_batch()) is not None:
        found.append(batch[0].tolist())
    return found


@pytest.mark.parametrize("stops", [[3], [9], [10], [2, 9], [1, 2, 3]])
def test_a_shuffled_dataset_goes_on_inside_an_epoch_and_its_later_epochs_are_as_before(stops):
    engine, feed = TensorFlowEngine(), shuffled()
    expected = [left_in(engine.open(feed, epoch)) for epoch in range(4)]
    assert len({str(epoch) for epoch in expected}) == 4

    engine, feed = TensorFlowEngine(), shuffled()
    engine.open(feed, 0)
    stream, state, found = engine.open(feed, 1), None, []
    for before, stop in zip([0, *stops], stops, strict=False):
        found += [stream.next_batch()[0].tolist() for _ in range(stop - before)]
        state = stream.state()
        engine, feed = TensorFlowEngine(), shuffled()  # as in another process
        engine.skip_epochs(feed, 1)
        stream = engine.open(feed, 1, stop, state=state)
        assert stream.reread == 0
    assert found + left_in(stream) == expected[1]
    assert [left_in(engine.open(feed, epoch)) for epoch in (2, 3)] == expected[2:]


@pytest.mark.parametrize("stop", [0, 3, 9, 10])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_step_back_inside_an_epoch_leaves_the_orders_of_later_epochs(stop, resumed):
    engine, feed = TensorFlowEngine(), shuffled()
    engine.open(feed, 0).next_batch()  # to be tried
    expected = [left_in(engine.open(feed, epoch)) for epoch in range(4)]

    engine, feed = TensorFlowEngine(), shuffled()
    engine.open(feed, 0).next_batch()
    stream = engine.open(feed, 0)
    found = [stream.next_batch()[0].tolist() for _ in range(stop)]
    state = stream.state()
    if resumed:  # as in another process, where the stream is tried as well
        engine, feed = TensorFlowEngine(), shuffled()
        engine.open(feed, 0).next_batch()
        engine.skip_epochs(feed, 0)
        stream = engine.open(feed, 0, stop, state=state)
    for _ in range(3):
        stream.next_batch()
        stream = engine.open(feed, 0, stop, state=state)
    assert found + left_in(stream) == expected[0]
    second = engine.open(feed, 1)
    state = second.state()
    left_in(second)
    assert left_in(engine.open(feed, 1, 0, state=state)) == expected[1]
    assert [left_in(engine.open(feed, epoch)) for epoch in (2, 3)] == expected[2:]


def test_a_dataset_that_cannot_be_saved_is_read_again():
    def numbers():
        yield from range(40)

    dataset = tf.data.Dataset.from_generator(numbers, output_signature=tf.TensorSpec([], tf.int64))
    engine, feed = TensorFlowEngine(), as_feed(dataset.map(lambda n: (n,)).batch(4))
    stream = engine.open(feed, 0)
    stream.next_batch()
    assert stream.state() is None
    again = engine.open(feed, 0, 3)
    assert again.reread == 3
    assert left_in(again)[0] == [12, 13, 14, 15]


def test_arrays_are_taken_up_at_any_position():
    engine, feed = TensorFlowEngine(), ArrayFeed((np.arange(10, dtype="float32"),), 4, shuffle=True)
    whole = left_in(engine.open(feed, 2, seed=7))
    assert left_in(engine.open(feed, 2, 1, seed=7)) == whole[1:]
    assert engine.open(feed, 2, 1, seed=7).state() is None


# ---------------------------------------------------------------------- memory


def test_an_allocation_that_failed_is_told_from_other_errors():
    """A step that really fails is in the test of `find_batch_size`: TensorFlow takes ten seconds to give up."""
    with pytest.raises(MemoryError) as host:
        np.empty(2**55)
    with pytest.raises(tf.errors.InvalidArgumentError) as other:
        tf.reshape(tf.zeros([4]), [3])
    engine = make_engine()
    assert engine.is_out_of_memory(host.value)
    assert engine.is_out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"))
    assert not engine.is_out_of_memory(other.value)


# ---------------------------------------------------------------------- gradients of one batch


def sizes(task, feed):
    """Sizes of the gradients on the first batch by the variable's path, and what there was before and after."""
    engine, _trace, _program = prepared(task, feed)
    before = weights(task)
    found = engine.gradient_sizes(task.run_train_step, engine.open(feed))
    return [(variable.path, size) for variable, size in found], before, weights(task)


@pytest.mark.parametrize("kind", ["arrays", "tf.data"])
def test_the_size_of_a_gradient_is_that_worked_out_by_hand_and_nothing_is_updated(kind):
    feed = ArrayFeed(LINE, 2)
    if kind == "tf.data":
        feed = as_feed(tf.data.Dataset.from_tensor_slices(LINE).batch(2))
    ((path, size),), before, after = sizes(Line(), feed)
    assert path.endswith("/kernel")
    assert size == 5.0  # see LINE_WEIGHTS
    assert_same(after, before)


@pytest.mark.parametrize("scaled", ["LossScaleOptimizer", "loss_scale_factor"])
def test_what_an_optimizer_scales_the_loss_by_is_taken_out_of_the_size(scaled):
    class Scaled(Line):
        def build_optimizer(self):
            if scaled == "loss_scale_factor":
                return keras.optimizers.SGD(0.125, loss_scale_factor=64.0)
            return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.125))

    assert [size for _, size in sizes(Scaled(), ArrayFeed(LINE, 2))[0]] == [5.0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_size_of_a_gradient_with_one_value_that_is_not_finite_is_not_finite(value):
    class Wide(Line):
        def build_model(self):
            return keras.Sequential([keras.Input((2,)), one_weight(1.0)])

    x = np.float32([[1, 2], [3, value]])
    ((_, size),), *_ = sizes(Wide(), ArrayFeed((x, np.ones((2, 1), "float32")), 2))
    assert not np.isfinite(size)


def test_rows_of_an_embedding_have_sizes_too_and_what_the_loss_misses_has_none():
    class Rows(Task):
        def build(self):
            self.table = layers.Embedding(4, 2, embeddings_initializer="ones")
            self.unused = layers.Dense(1)
            self.unused.build((None, 2))
            self.optimizer = keras.optimizers.SGD()

        def loss(self, batch, training):
            return ops.mean(self.table(batch) * ops.convert_to_tensor([1.0, -8.0]))

    (_, *others), *_ = sizes(Rows(), ArrayFeed(np.int32([2, 2, 1, 3]), 4))
    found, *_ = sizes(Rows(), ArrayFeed(np.int32([2, 1]), 2))
    assert found[0][1] == 2.0  # -8 over the 4 numbers of two rows
    assert [size for _, size in others] == [0.0, 0.0]


def test_a_minimize_in_a_branch_is_left_out_of_the_sizes():
    class Now(Line):
        def train_step(self, batch):
            again = ops.cond(
                ops.max(batch[0]) > 100.0,
                lambda: self.minimize(lambda: self.loss(batch, training=True)),
                lambda: ops.convert_to_tensor(0.0),
            )
            return super().train_step(batch) + again

    class Plain(Now):
        def loss(self, batch, training):
            return ops.mean(ops.square(self.model(batch[0]) - batch[1]))

    assert [size for _, size in sizes(Plain(), ArrayFeed(LINE, 2))[0]] == [5.0]


def test_gradients_of_a_step_that_was_not_traced_and_of_no_batch_are_refused():
    feed = ArrayFeed(LINE, 3)
    task = Line()
    engine, _trace, _program = prepared(task, feed)
    with pytest.raises(ValueError, match="this step is not the one that was traced last: expected `trace` before"):
        engine.gradient_sizes(task.run_evaluate_step, engine.open(feed))
    stream = engine.open(feed)
    engine.gradient_sizes(task.run_train_step, stream)
    with pytest.raises(ValueError, match="the stream has no batch left; expected one"):
        engine.gradient_sizes(task.run_train_step, stream)


@pytest.mark.parametrize("make", [lambda: layers.Dense(1), lambda: layers.Dropout(0.5)], ids=["weights", "seeds"])
def test_a_step_that_makes_variables_each_time_is_refused(make):
    class Anew(Line):
        def loss(self, batch, training):
            return super().loss((make()(batch[0], training=True), batch[1]), training)

    with pytest.raises(ValueError, match=r"makes new variables each time it is run.* Make layers, .* in `build`"):
        prepared(Anew(), ArrayFeed(LINE, 2))


def test_a_trace_names_the_variables_that_a_step_uses_its_own_or_not():
    elsewhere = keras.Variable(1.0)

    class Counting(Line):
        def loss(self, batch, training):
            elsewhere.assign_add(1.0)
            return super().loss(batch, training)

    _engine, trace, _program = prepared(Counting(), ArrayFeed(LINE, 2))
    assert any(variable is elsewhere.value for variable in trace.variables)
    assert len(trace.variables) == 2
    assert float(elsewhere) == 1.0


def test_a_row_looked_up_twice_gets_one_gradient():
    """Keras's Adam squares the parts of a row's gradient as they come: the square of their sum is meant."""
    engine = make_engine()
    table, dense = (keras.Variable(np.ones((4, 2), "float32")) for _ in range(2))
    hot = ops.one_hot(np.array([1, 1, 2]), 4, dtype="float32")
    for variable, looked_up in ((table, lambda: ops.take(table, [1, 1, 2], 0)), (dense, lambda: hot @ dense)):
        optimizer = keras.optimizers.Adam(0.1, clipnorm=3.0)
        for scale in (1.0, 5.0, 2.0):
            weights = np.arange(6, dtype="float32").reshape(3, 2) * np.float32(scale)
            loss = lambda looked_up=looked_up, weights=weights: ops.sum(looked_up() * weights)  # noqa: E731
            engine.minimize(loss, lambda variable=variable: [variable], optimizer)
    np.testing.assert_allclose(table, dense, rtol=1e-6)
