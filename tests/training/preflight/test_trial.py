"""The steps tried on one batch: what is judged of their logs, gradients and updates."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from lightkeras import Runner
from lightkeras.data.feed import ArrayFeed, StreamFeed
from lightkeras.data.structure import map_structure, spec_of
from lightkeras.engine import make_engine
from lightkeras.engine.base import StepLogs
from lightkeras.task import Task
from lightkeras.testing import TwoMoons, two_moons
from lightkeras.training.preflight.trial import check_gradients, check_learned, check_logs, check_rates
from lightkeras.training.step_errors import TaskError
from lightkeras.training.tracing import trace_train


class Line(Task):
    """y = w x from w = 1, with the optimizer that it is given."""

    def __init__(self, optimizer):
        super().__init__()
        self._given = optimizer

    def build(self):
        self.model = keras.Sequential([keras.Input((1,)), layers.Dense(1, kernel_initializer="ones", name="line")])
        self.optimizer = self._given

    def loss(self, batch, training):
        return ops.mean(ops.square(self.model(batch[0]) - batch[1]))


X = np.float32([[1], [2], [3], [4]])


def checked(optimizer, y=2 * X):
    Runner().check(Line(optimizer), (X, y), batch_size=4)


def traced(optimizer):
    """A task, its trace, and its two variables."""
    task = Line(optimizer)
    task.set_up(0)
    return task, trace_train(task, task.bind(make_engine), ArrayFeed((X, X), 4)), task.trainable_variables()


def logs(**values):
    return StepLogs({name: np.float32([value]) for name, value in values.items()}, np.array([4]))


# ---------------------------------------------------------------------- gradients


def test_gradients_that_are_all_zero_are_refused_unless_the_loss_is_zero_too():
    task, trace, (kernel, bias) = traced(keras.optimizers.SGD())
    nothing = [(kernel, 0.0), (bias, 0.0)]
    with pytest.raises(TaskError, match=r"Line.train_step: on the first batch every gradient is exactly zero"):
        check_gradients(task, trace, nothing, logs(loss=1.0))
    with pytest.raises(TaskError, match=r"every gradient is exactly zero"):
        check_gradients(task, trace, nothing, logs(other=0.0))
    with pytest.warns(UserWarning, match=r"2 of 2 variables got a gradient of exactly zero.*line/kernel.*line/bias"):
        check_gradients(task, trace, nothing, logs(loss=0.0))


def test_a_variable_is_dead_only_if_no_minimize_reaches_it():
    task, trace, (kernel, bias) = traced(keras.optimizers.SGD())
    check_gradients(task, trace, [(kernel, 0.0), (bias, 1e-30), (kernel, 1.0)], logs(loss=1.0))
    with pytest.warns(UserWarning, match=r"1 of 2 variables .*: [^,]*line/kernel\. Freeze"):
        check_gradients(task, trace, [(kernel, 0.0), (bias, 1.0)], logs(loss=1.0))


def test_a_gradient_that_overflows_is_a_mistake_unless_the_loss_is_scaled():
    task, trace, (kernel, bias) = traced(keras.optimizers.SGD())
    with pytest.raises(TaskError, match=r"gradient with respect to [^,]*line/kernel is not finite, though the loss is"):
        check_gradients(task, trace, [(kernel, np.inf), (bias, 1.0)], logs(loss=1.0))
    task, trace, (kernel, bias) = traced(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()))
    check_gradients(task, trace, [(kernel, np.inf), (bias, 1.0)], logs(loss=1.0))


class Dead(Task):
    """A relu that is dead for inputs below zero: only the last of the batches has a gradient."""

    def build(self):
        unit = layers.Dense(1, "relu", kernel_initializer="ones", name="unit")
        self.model = keras.Sequential([keras.Input((1,)), unit])
        self.optimizer = keras.optimizers.SGD(0.1)

    def loss(self, batch, training):
        self.log("share", ops.sum(ops.cast(batch[0] > 0, "float32")) / ops.sum(ops.cast(batch[1] > 2, "float32")))
        return ops.mean(ops.square(self.model(batch[0]) - batch[1]))


@pytest.mark.parametrize("source", ["arrays", "stream", "tf.data"])
def test_further_batches_are_looked_at_before_zero_gradients_are_refused(source, tmp_path):
    def data(*signs):
        x = np.repeat(np.float32(signs), 2)[:, None]
        y = np.ones_like(x)
        if source == "arrays":
            return ArrayFeed((x, y), 2)
        if source == "tf.data":
            return tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
        return lambda: iter([(x[i : i + 2], y[i : i + 2]) for i in range(0, len(x), 2)])

    settings = {"max_epochs": 1, "progress": False, "pictures": False, "export": False}
    with pytest.warns(UserWarning, match=r"Dead.train_step: share is nan on the first batch"):
        result = Runner(run_dir=tmp_path / "run", **settings).fit(Dead(), data(-1, -2, -1, 3))
    assert not result.diverged
    assert np.isnan(result.history["train/share"][0])
    with (
        pytest.warns(UserWarning, match="share is nan"),
        pytest.raises(TaskError, match=r"on the first 3 batches every gradient is exactly zero"),
    ):
        Runner().check(Dead(), data(-1, -2, -3))


# ---------------------------------------------------------------------- updates


def test_a_step_that_moves_nothing_is_refused():
    with pytest.raises(TaskError, match=r"'SGD' changed none of its variables .*line/kernel.* rate is 0\. Raise"):
        checked(keras.optimizers.SGD(0.0, name="SGD"))


@pytest.mark.parametrize("rate", [-0.1, np.nan, np.inf])
def test_a_rate_that_is_not_a_number_above_zero_is_refused(rate):
    task, trace, _ = traced(keras.optimizers.SGD(rate))
    with pytest.raises(TaskError, match=rf"has a learning rate of {rate}"):
        check_rates(task, trace)


@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="newer than this Keras")
def test_the_rates_of_an_optimizer_for_each_part_are_looked_at_one_by_one():
    def both(first, second):
        parts = [keras.optimizers.SGD(first, name="first"), keras.optimizers.SGD(second, name="second")]
        return keras.optimizers.MultiOptimizer(lambda variable: parts["bias" in variable.path])

    checked(both(0.1, 0.0))
    task, trace, _ = traced(both(0.1, -0.1))
    with pytest.raises(TaskError, match=r"'second' has a learning rate of -0\.1"):
        check_rates(task, trace)
    with pytest.raises(TaskError, match=r"changed none of its variables .* rate is 0, 0\. Raise"):
        checked(both(0.0, 0.0))


def test_a_step_that_gathers_or_warms_up_or_has_nothing_to_learn_may_move_nothing():
    checked(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    warm_up = keras.optimizers.schedules.PolynomialDecay(0.0, 5, 0.1)
    checked(keras.optimizers.SGD(warm_up))
    with pytest.warns(UserWarning, match="2 of 2 variables got a gradient of exactly zero"):
        checked(keras.optimizers.SGD(0.1), X)  # w = 1 is right


def test_a_variable_that_is_not_finite_after_its_step_is_named():
    task, trace, (kernel, bias) = traced(keras.optimizers.SGD(0.1, name="sgd"))
    keys = {variable.path: key for key, variable in task.variables().items()}
    before = {key: np.zeros(1, "float32") for key in keys.values()}
    after = before | {keys[kernel.path]: np.float32([np.inf])}
    with pytest.raises(TaskError, match=r"after one step [^,]*line/kernel is not finite, .* optimizer 'sgd'"):
        check_learned(task, trace, [(kernel, 1.0), (bias, 1.0)], before, after)


# ---------------------------------------------------------------------- logs


def test_a_value_besides_the_loss_may_be_no_number_and_is_warned_of_once():
    task = TwoMoons()
    for method in ("train_step", "evaluate_step"):
        with pytest.warns(UserWarning, match=rf"TwoMoons.{method}: score is nan on the first batch. Its mean"):
            check_logs(task, logs(loss=1.0, score=np.nan), method, "first batch")
        check_logs(task, logs(loss=1.0, score=np.nan), method, "last batch")
    for method, values in (
        ("evaluate_step", {"loss": np.inf}),
        ("evaluate_step", {"score": np.inf}),  # without a loss in the logs
        ("train_step", {"score": np.inf}),
    ):
        with pytest.raises(TaskError, match=rf"TwoMoons.{method}: .* is inf on the last batch"):
            check_logs(task, logs(**values), method, "last batch")


class Rooted(Line):
    """A loss that is NaN where a target is below zero, on the train split alone."""

    def loss(self, batch, training):
        return super().loss(batch, training) + (ops.sum(ops.sqrt(batch[1])) if training else 0.0)


def test_a_first_batch_that_training_would_skip_is_warned_of(tmp_path):
    def data():
        return iter([(X, -X), (X, 2 * X), (X, 2 * X)])

    with pytest.raises(TaskError, match=r"train_step: loss is nan on the first batch"):
        Runner().check(Rooted(keras.optimizers.SGD(0.01)), data)
    runner = Runner(run_dir=tmp_path / "run", skip_broken=1, max_epochs=1, progress=False, pictures=False, export=False)
    with pytest.warns(UserWarning, match=r"loss is nan on the first batch.* Training skips such a batch"):
        result = runner.fit(Rooted(keras.optimizers.SGD(0.01)), data)
    assert not result.diverged
    assert np.isfinite(result.history["train/loss"]).all()


# ---------------------------------------------------------------------- batches


def test_a_stream_is_opened_once_and_one_batch_of_it_is_read():
    opened, read = [], []

    class Fed(TwoMoons):
        def build_data(self):
            return None

    def open_epoch(epoch):
        opened.append(epoch)
        for number in range(3):
            read.append(number)
            yield two_moons(32, seed=number)

    spec = map_structure(spec_of, two_moons(2))
    Runner().check(Fed(), StreamFeed(open_epoch, spec), StreamFeed(open_epoch, spec))
    assert opened == [0, 0]
    assert read.count(0) == 2  # what is prefetched besides depends on how fast it is


def test_the_smaller_last_batches_are_compiled_for_before_the_first_epoch(tmp_path):
    sizes, before = [], []

    class Sized(TwoMoons):
        def loss(self, batch, training):
            sizes.append(batch[0].shape[0])
            return super().loss(batch, training)

    class Before(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            before.append(len(sizes))

    task = Sized(TwoMoons.HParams(batch_size=48))  # 320 = 6 * 48 + 32 and 100 = 2 * 48 + 4
    Runner(max_epochs=1, callbacks=[Before()], progress=False, run_dir=tmp_path).fit(task)
    assert {48, 32} <= set(sizes)
    assert {4, None} & set(sizes)  # None: an evaluation is traced once, for batches of any size
    assert set(sizes[: before[0]]) == set(sizes)


def test_a_sound_task_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Runner().check(TwoMoons())


def test_a_rate_of_zero_is_warned_of_where_a_callback_may_set_it():
    with pytest.raises(TaskError, match="its learning rate is 0"):
        checked(keras.optimizers.SGD(0.0))
    warm_up = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 * (epoch + 1))
    with pytest.warns(UserWarning, match=r"'sgd' has a learning rate of 0, so nothing is learned until a callback"):
        Runner(callbacks=[warm_up]).check(Line(keras.optimizers.SGD(0.0, name="sgd")), (X, 2 * X), batch_size=4)


class Masked(Line):
    """Targets that are missing, as NaN, do not count."""

    def loss(self, batch, training):
        known = ops.logical_not(ops.isnan(batch[1]))
        errors = self.model(batch[0]) - ops.where(known, batch[1], 0.0)
        return ops.mean(ops.where(known, ops.square(errors), 0.0))


def test_numbers_that_are_not_finite_are_used_where_the_step_takes_them():
    y = np.float32([[2], [4], [6], [np.nan]])
    with pytest.raises(ValueError, match=r"Array 1 of train holds 1 of 4 numbers that are not finite.* example 3: nan"):
        Runner().check(Line(keras.optimizers.SGD(0.1)), (X, y), batch_size=2)
    task = Masked(keras.optimizers.SGD(0.1))
    with (
        pytest.warns(UserWarning, match="of train holds 1 of 4"),
        pytest.warns(UserWarning, match="of validation holds 1 of 4"),
    ):
        Runner().check(task, (X, y), (X[::-1] / 3, y), batch_size=2)
    assert task.model.get_weights()[0].item() == 1.0  # as before
