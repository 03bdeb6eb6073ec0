"""What breaks a run is found: the step, its batch, and the first layer, gradient or variable."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.precompute import compute_ahead
from lightkeras.system import random_states
from lightkeras.system.variables import read_variables, write_variables
from lightkeras.task import SupervisedTask, Task
from lightkeras.training.divergence.explain import explain_step
from lightkeras.training.divergence.locate import digests_of, locate
from lightkeras.training.divergence.watchdog import Alarm, Position, Watchdog, first_not_finite
from lightkeras.training.stepper import Stepper, bound_engine
from lightkeras.training.tracing import trace_train


class Clock:
    """A fake clock: it advances when set, and by `tick` at each reading."""

    def __init__(self, tick=0.0):
        self.now, self.tick = 0.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now


@dataclasses.dataclass
class Run:
    """Runs calls of some steps as the runner does, with a check after each."""

    task: Task
    feed: object
    seed: int = 5
    clock: Clock = dataclasses.field(default_factory=Clock)
    limit: int | None = None

    def __post_init__(self):
        self.task.set_up(self.seed)
        self.engine = bound_engine(self.task)
        trace = trace_train(self.task, self.engine, self.feed)
        program = self.engine.program(self.task.run_train_step, trace.names)
        self.train_stepper = Stepper(self.task, self.engine, self.feed, program, self.limit, self.seed)
        self.watchdog = Watchdog(self.task, self.engine, self.clock)
        self.losses = []

    def train(self, epochs=1, count=4, between=None):
        """Trains until something is not finite. Returns what."""
        step = 0
        for epoch in range(epochs):
            random = random_states.read()
            stream, done, steps = self.train_stepper.begin(epoch), 0, self.train_stepper.steps
            alarm = self._watch(Position(step, epoch, done), stream, random, epoch_begins=True)
            while alarm is None and (steps is None or done < steps):
                logs = self.train_stepper.program.run(stream, count if steps is None else min(count, steps - done))
                if not logs.steps:
                    break
                self.train_stepper.add(logs, 0.1)
                self.losses.extend(next(iter(logs.values.values())).tolist())
                alarm = first_not_finite(logs, step)
                step, done = step + logs.steps, done + logs.steps
                if alarm is None and between is not None:
                    between(step)
                alarm = alarm or self._watch(Position(step, epoch, done), stream, random)
            if alarm is not None:
                return alarm
        return None

    def _watch(self, position, stream, random, **begins):
        return self.watchdog.watch(position, stream, self.train_stepper.state(), random, **begins)

    def locate(self, alarm):
        return locate(
            self.task,
            self.train_stepper,
            self.watchdog.snapshot,
            alarm,
            unwatched=self.watchdog.unwatched,
        )

    def assert_breaks_again(self, found):
        """From the state that `locate` leaves, the step on its batch gives what it gave, to the bit."""
        variables = self.task.variables()
        before = read_variables(variables)
        assert all(np.isfinite(array).all() for array in before.values() if array.dtype.kind == "f")
        stream = self.engine.open_batch(found.batch, found.shapes, self.train_stepper.program)
        logs = self.train_stepper.program.run(stream, 1)
        values = {name: float(column[0]) for name, column in logs.values.items()}
        assert {name: repr(value) for name, value in values.items()} == {n: repr(v) for n, v in found.logs.items()}
        assert digests_of(variables) == found.digests
        write_variables(variables, before)


class Exp(layers.Layer):
    """Overflows where its input is above about 88."""

    def call(self, x):
        return ops.exp(x)


def regression(count=40, width=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, width)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


class Regression(Task):
    """Squared error of a model that a test gives."""

    def __init__(self, make, rate=0.01, **optimizer):
        super().__init__()
        self._make, self._rate, self._optimizer = make, rate, optimizer

    def build_model(self):
        return self._make()

    def build_optimizer(self):
        return keras.optimizers.SGD(self._rate, **self._optimizer)

    def loss(self, batch, training):
        x, y = batch
        return ops.mean(ops.square(self.model(x, training=training) - y))


def sequential(*inner, width=3):
    return lambda: keras.Sequential([keras.Input((width,)), *(make() for make in inner)])


def zeros_dense(units=1, name="dense", value=0.0):
    return lambda: layers.Dense(units, use_bias=False, kernel_initializer=keras.initializers.Constant(value), name=name)


# ---------------------------------------------------------------------- decisions


def test_digests_take_every_nan_for_the_same_and_tell_the_signs_of_zero():
    variable = keras.Variable(np.zeros(2, "float32"))
    quiet, other = np.array([0x7FC00000, 0xFFC00001], np.uint32).view(np.float32)
    variable.assign([quiet, 0.0])
    one = digests_of({"a": variable})
    variable.assign([other, 0.0])
    assert digests_of({"a": variable}) == one
    variable.assign([quiet, -0.0])
    assert digests_of({"a": variable}) != one


# ---------------------------------------------------------------------- broken runs


@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_layer_that_overflows_is_named_with_the_step_whatever_the_steps_per_call(count):
    x, y = regression(40)
    x[26] = 1000.0  # in batch 7 of 4, in the order as given
    make = sequential(zeros_dense(2, "first", 0.1), lambda: Exp(name="overflow"), zeros_dense(1, "last", 0.001))
    run = Run(Regression(make, rate=0.0), ArrayFeed((x, y), 4))
    alarm = run.train(count=count)
    found = run.locate(alarm)
    broken = found.broken
    assert (broken.step, broken.epoch, broken.batch, broken.what, broken.value) == (7, 1, 7, "train/loss", math.inf)
    assert broken.examples == (24, 25, 26, 27)
    assert broken.where.startswith("the first layer whose output is not finite is sequential")
    assert broken.where.endswith("/overflow (Exp): inf; its inputs were finite")
    assert found.repeated
    run.assert_breaks_again(found)


def test_the_example_that_holds_a_nan_is_named_in_a_shuffled_epoch_too():
    x, y = regression(40)
    x[17, 2] = math.nan
    run = Run(Regression(sequential(zeros_dense()), rate=0.1), ArrayFeed((x, y), 4, shuffle=True))
    found = run.locate(run.train(count=3))
    row = found.broken.examples.index(17)
    assert found.broken.where.startswith(
        f"the batch itself is not finite: array 0 holds nan in row {row} (example 17 of the data, counted from 0); "
        "the first layer whose output is not finite is sequential"
    )
    assert math.isnan(found.batch[0][row, 2])
    run.assert_breaks_again(found)


def test_a_logarithm_of_zero_in_the_loss_is_distinguished_from_the_layers():
    class Log(Regression):
        def loss(self, batch, training):
            x, y = batch
            return ops.mean(ops.log(ops.abs(y)) + 0.0 * self.model(x, training=training))

    x, y = regression(20)
    y[9] = 0.0
    run = Run(Log(sequential(zeros_dense())), ArrayFeed((x, y), 2))
    found = run.locate(run.train())
    assert (found.broken.step, found.broken.value) == (5, -math.inf)
    assert found.broken.where == "the outputs of all layers are finite, but the loss computed from them is -inf"
    run.assert_breaks_again(found)


def test_a_gradient_that_is_not_finite_is_named_though_the_loss_is_finite():
    class Root(Regression):
        def loss(self, batch, training):
            x, y = batch
            return ops.mean(ops.sqrt(ops.abs(self.model(x, training=training) - y)))

    x, y = regression(12)
    x[6], y[6] = 0.0, 0.0  # the slope of a square root at zero is infinite
    run = Run(Root(sequential(zeros_dense(value=0.5)), rate=0.01), ArrayFeed((x, y), 1))
    found = run.locate(run.train(count=5))
    assert found.broken.step == 7
    assert found.broken.what.endswith("/dense/kernel")
    assert "the gradient of sequential" in found.broken.where
    assert found.broken.where.endswith("/dense/kernel is not finite though the loss is: nan")
    assert math.isfinite(found.logs["loss"])
    run.assert_breaks_again(found)


def test_a_variable_that_turns_infinite_is_found_while_the_loss_is_still_finite():
    """The second weight is never looked at by the loss but for its gradient: only its update breaks."""

    class Lost(Regression):
        def loss(self, batch, training):
            x, _ = batch
            slope = ops.where(x[0, 0] > 5.0, 3e38, 0.0)
            return ops.mean(0.0 * self.model(x, training=training)) + ops.minimum(
                ops.sum(self.model.layers[0].kernel) * slope, 1e6 + ops.sum(self.model.layers[0].kernel) * slope
            )

    x, y = np.ones((12, 3), "float32"), np.ones((12, 1), "float32")
    x[8] = 9.0
    run = Run(Lost(sequential(zeros_dense()), rate=1e5), ArrayFeed((x, y), 1))
    alarm = run.train(count=3)
    assert alarm.what.endswith("/dense/kernel")
    found = run.locate(alarm)
    assert (found.broken.step, found.broken.what, found.broken.value) == (9, alarm.what, -math.inf)
    assert "the update of sequential" in found.broken.where
    assert found.broken.where.endswith("made it -inf, though its gradient is finite, at most 3e+38 in size")
    assert math.isfinite(found.logs["loss"])
    run.assert_breaks_again(found)


def test_a_learning_rate_that_blows_up_is_found_where_it_first_overflows():
    run = Run(Regression(sequential(zeros_dense()), rate=1e4), ArrayFeed(regression(40), 4))
    alarm = run.train(epochs=3, count=7)
    found = run.locate(alarm)
    assert found.repeated
    assert 1 < found.broken.step <= alarm.step
    assert all(math.isfinite(loss) for loss in run.losses[: found.broken.step - 1])
    run.assert_breaks_again(found)


class Noise(Regression):
    """Dropout and batch normalization, whose seeds and averages are state like any other."""

    def build_model(self):
        return keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(8, "relu"),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
                layers.Dense(1),
            ]
        )

    def build_optimizer(self):
        return keras.optimizers.Adam(0.01)


def stream_of(arrays, kind):
    batches = tf.data.Dataset.from_tensor_slices(arrays)
    if kind == "arrays":
        return ArrayFeed(arrays, 4, shuffle=True)
    if kind == "dataset":
        return as_feed(batches.shuffle(16, seed=3).batch(4))
    if kind == "whole batches":
        return as_feed(batches.batch(4, drop_remainder=True))

    def generator(epoch):
        order = np.random.default_rng(epoch).permutation(len(arrays[0]))
        for rows in np.array_split(order, len(order) // 4):
            yield tuple(array[rows] for array in arrays)

    return as_feed(generator)


@pytest.mark.parametrize("kind", ["arrays", "dataset", "whole batches", "generator"])
def test_noise_and_streams_are_repeated_to_the_bit_and_the_batch_can_be_skipped(kind):
    x, y = regression(42)
    x[30] = math.nan
    run = Run(Noise(None), stream_of((x, y), kind))
    sizes = [5, 5, *[4] * 8] if kind == "generator" else [4] * 10
    alarm = run.train(epochs=2, count=3)
    # TensorFlow's relu makes zero of a NaN: the loss stays finite, and the weights are NaN by the gradient.
    assert alarm.what == "train/loss" or alarm.what.endswith("/kernel")
    found = run.locate(alarm)
    assert found.repeated
    assert alarm.step - 3 < found.broken.step <= alarm.step
    assert np.isnan(found.batch[0]).any()
    assert found.broken.where.startswith("the batch itself is not finite: array 0 holds nan in row ")
    # The means contain the steps before it, and the stream continues after it.
    before = found.broken.batch - 1
    assert run.train_stepper.means()["loss"] == pytest.approx(np.average(run.losses[:before], weights=sizes[:before]))
    run.assert_breaks_again(found)
    rest = []
    while (logs := run.train_stepper.program.run(found.stream, 8)).steps:
        rest.extend(logs.values["loss"].tolist())
    steps = {"arrays": 11, "dataset": 11, "whole batches": 10, "generator": 10}
    assert len(rest) == steps[kind] - found.broken.batch
    assert all(map(math.isfinite, rest))


def test_a_skipped_batch_leaves_what_a_run_without_it_would_have():
    x, y = regression(20)
    x[8:12] = math.nan
    run = Run(Noise(None), ArrayFeed((x, y), 4))
    found = run.locate(run.train(count=5))
    while run.train_stepper.program.run(found.stream, 2).steps:
        pass
    keep = np.r_[0:8, 12:20]
    keras.utils.clear_session()
    other = Run(Noise(None), ArrayFeed((x[keep], y[keep]), 4))
    assert other.train(count=5) is None
    mine, others = digests_of(run.task.variables()), digests_of(other.task.variables())
    assert list(mine.values()) == list(others.values())


class Two(Task):
    """A generator and a critic, with an optimizer each, that log no `loss`."""

    def build(self):
        self.generator = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="made")], name="generator")
        inner = keras.Sequential([keras.Input((2,)), layers.Dense(2), Exp(name="blow")], name="inner")
        self.critic = keras.Sequential([keras.Input((2,)), inner, layers.Dense(1, name="judge")], name="critic")
        self.optimizers = [keras.optimizers.SGD(0.01), keras.optimizers.SGD(0.01)]

    def train_step(self, batch):
        real = batch
        made = self.generator(real * 0.5)
        critic_loss = self.minimize(
            lambda: ops.mean(self.critic(made)) - ops.mean(self.critic(real)),
            self.critic.trainable_variables,
            self.optimizers[0],
        )
        self.log("critic_loss", critic_loss)
        self.log(
            "generator_loss",
            self.minimize(
                lambda: -ops.mean(self.critic(self.generator(real * 0.5))),
                self.generator.trainable_variables,
                self.optimizers[1],
            ),
        )


def test_of_two_models_the_one_that_broke_is_named_with_the_way_to_its_layer():
    x = np.random.default_rng(0).normal(size=(16, 2)).astype("float32")
    x[11] = 400.0
    run = Run(Two(), ArrayFeed(x, 2))
    alarm = run.train(count=8)
    found = run.locate(alarm)
    assert found.broken.step == 6
    assert found.broken.what in ("train/critic_loss", "train/generator_loss")
    assert "critic/inner/blow (Exp): inf; its inputs were finite" in found.broken.where
    run.assert_breaks_again(found)


# ---------------------------------------------------------------------- from one epoch into the next, and no repetition


def test_a_snapshot_of_the_epoch_before_is_enough_where_nothing_but_steps_changed_the_state():
    run = Run(Regression(sequential(zeros_dense()), rate=50.0), ArrayFeed(regression(20), 4, shuffle=True))
    run.clock.tick = 1.0  # so that no check but the first is ever due
    found = run.locate(run.train(epochs=9, count=2))
    assert run.watchdog.snapshot.position == Position(0, 0, 0)
    assert found.repeated
    broken = found.broken
    assert broken.epoch > 1
    assert broken.step == 5 * (broken.epoch - 1) + broken.batch
    assert broken.examples == tuple(run.feed.indices(broken.epoch - 1, broken.batch - 1, 1, run.seed)[0])
    run.assert_breaks_again(found)


def test_an_epoch_of_which_only_some_batches_are_used_ends_where_it_did():
    run = Run(Regression(sequential(zeros_dense()), rate=50.0), ArrayFeed(regression(20), 4), limit=3)
    run.clock.tick = 1.0
    found = run.locate(run.train(epochs=9, count=2))
    assert found.repeated
    broken = found.broken
    assert broken.epoch > 1
    assert broken.step == 3 * (broken.epoch - 1) + broken.batch
    run.assert_breaks_again(found)


def test_a_generator_that_was_first_drawn_from_after_the_snapshot_hinders_nothing():
    run = Run(Regression(sequential(zeros_dense()), rate=50.0), ArrayFeed(regression(60), 4))
    run.clock.tick = 1.0
    keras.utils.set_random_seed(0)
    before = set(run.task.variables())
    alarm = run.train(count=2, between=lambda step: keras.random.normal((1,)))
    assert {"keras.random.0000"} == set(run.task.variables()) - before
    found = run.locate(alarm)
    assert found.repeated
    run.assert_breaks_again(found)


def test_a_supervised_model_with_metrics_is_looked_into():
    x, y = regression(24)
    y[13] = 1e30
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(1, name="out")(inputs))
    run = Run(SupervisedTask(model, loss="mse", optimizer="sgd", metrics=["mae"]), ArrayFeed((x, y), 4))
    found = run.locate(run.train(count=6))
    assert (found.broken.step, found.broken.what, found.broken.value) == (4, "train/loss", math.inf)
    assert found.broken.where == "the outputs of all layers are finite, but the loss computed from them is inf"
    run.assert_breaks_again(found)


def test_a_step_that_breaks_only_because_something_changed_the_state_is_not_reproduced():
    run = Run(Regression(sequential(zeros_dense()), rate=0.01), ArrayFeed(regression(20), 4))
    run.clock.tick = 1.0

    def poison(step):
        if step == 2:
            run.task.model.layers[0].kernel.assign(np.full((3, 1), 1e30))

    alarm = run.train(count=1, between=poison)
    assert alarm == Alarm("train/loss", math.inf, 3)
    found = run.locate(alarm)
    assert not found.repeated
    assert (found.batch, found.stream, found.logs) == (None, None, {})
    assert (found.broken.step, found.broken.epoch, found.broken.batch) == (3, 1, 3)
    assert found.broken.where == (
        "the step could not be reproduced: none of the 3 steps after step 0 broke when rerun. Something else changed "
        "the state or the batches, such as a callback or a stream whose order cannot be restored; or the step is not "
        "deterministic, as some operations are not on a GPU. The task holds the state after step 0"
    )
    assert np.isfinite(run.task.model.get_weights()[0]).all()


def test_a_step_of_a_stream_that_gives_other_batches_the_second_time_is_not_reproduced():
    opened = []

    def generator(epoch):
        opened.append(epoch)
        rng = np.random.default_rng(len(opened))
        for number in range(6):
            x = rng.normal(size=(4, 3)).astype("float32")
            yield np.full_like(x, np.nan) if number == 4 else x, x[:, :1]

    run = Run(Regression(sequential(zeros_dense())), as_feed(generator))
    run.clock.tick = 0.001
    stream = run.train_stepper.begin(0)
    run.train_stepper.program.run(stream, 2)
    run.clock.now += 10.0
    run.watchdog.watch(Position(2, 0, 2), stream, run.train_stepper.state(), random_states.read())
    alarm = first_not_finite(run.train_stepper.program.run(stream, 3), 2)
    found = run.locate(alarm)
    assert not found.repeated
    assert "begins with another batch than it did before" in found.broken.where


# ---------------------------------------------------------------------- layers


class Block(layers.Layer):
    """A layer made of layers, in an attribute that Keras does not track."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = {"kept": layers.Dense(2, name="kept")}
        self.shared = layers.Dense(2, use_bias=False, kernel_initializer="ones", name="shared")

    def call(self, x):
        return ops.log(ops.abs(self.shared(self.shared(self.inner["kept"](x)))) * 0.0)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.block = Block(name="block")

    def call(self, x):
        return self.block(x)


def where_of(model, x, y=None):
    task = Regression(lambda: model)
    feed = ArrayFeed((x, np.zeros((len(x), 2), "float32") if y is None else y), len(x))
    run = Run(task, feed)
    before, call = digests_of(task.variables()), keras.Operation.__call__
    where = explain_step(task, run.engine, feed.arrays)
    assert digests_of(task.variables()) == before
    assert keras.Operation.__call__ is call
    return where


def test_subclassed_models_and_layers_inside_of_layers_are_looked_into():
    x = np.ones((2, 2), "float32")
    assert where_of(Subclassed(), x).endswith("/block (Block): -inf; its inputs were finite")


def test_an_operation_of_a_functional_model_is_named_like_a_layer():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, ops.log(layers.ReLU(name="relu")(layers.Dense(2)(inputs)) * 0.0))
    assert " (Log): -inf; its inputs were finite" in where_of(model, np.ones((2, 2), "float32"))


@pytest.mark.backends("tensorflow", reason="the others run all or nothing of it uncompiled")
def test_a_step_that_cannot_be_run_uncompiled_is_reported():
    class Compiled(Regression):
        def loss(self, batch, training):
            if tf.executing_eagerly():
                raise RuntimeError("graphs only")
            return super().loss(batch, training)

    task = Compiled(sequential(zeros_dense()))
    run = Run(task, ArrayFeed(regression(4), 4))
    call = keras.Operation.__call__
    assert explain_step(task, run.engine, run.feed.arrays) == (
        "its layers could not be inspected: uncompiled it raises RuntimeError: graphs only"
    )
    assert keras.Operation.__call__ is call


class Lengths(layers.Layer):
    """Logarithms of the lengths of texts less one, computed ahead."""

    def call(self, text):
        return ops.log(compute_ahead(_lengths, text) - 1.0)[:, None]


def _lengths(text):
    return tf.cast(tf.strings.length(text), tf.float32)


@pytest.mark.backends("tensorflow", reason="the step reads text")
@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_a_text_that_breaks_a_step_with_work_done_ahead_is_found(kind):
    texts = np.array(["good film", "bad", "fine", "x", "awful", "great", "no", "yes"], object)
    labels = np.ones((8, 1), "float32")

    def model():
        text = keras.Input((), dtype="string")
        return keras.Model(text, layers.Dense(1, name="out")(Lengths(name="lengths")(text)))

    feed = ArrayFeed((texts, labels), 2)
    if kind == "dataset":
        feed = as_feed(tf.data.Dataset.from_tensor_slices((texts, labels)).batch(2))
    run = Run(Regression(model), feed)
    found = run.locate(run.train(count=3))
    assert (found.broken.step, found.broken.what) == (2, "train/loss")
    assert "/lengths (Lengths): -inf; its inputs were finite" in found.broken.where
    assert [t if isinstance(t, str) else t.decode() for t in found.batch[0]] == ["fine", "x"]
    run.assert_breaks_again(found)
