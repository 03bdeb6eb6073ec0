"""Mistakes are found before the first epoch: they are explained, and nothing is written."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from lightkeras import Runner, SupervisedTask
from lightkeras.data.structure import ArraySpec
from lightkeras.task import Task
from lightkeras.testing import TwoMoons, two_moons
from lightkeras.training.step_errors import TaskError


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Fits below an empty folder, which must be empty afterwards."""
    monkeypatch.chdir(tmp_path)

    def run(task, *data, batch_size=32, **settings):
        Runner(**{"max_epochs": 2, "progress": False} | settings).fit(task, *data, batch_size=batch_size)

    yield run
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- monitors


def test_a_monitor_whose_name_does_not_tell_its_mode_is_refused(fit):
    class Scored(TwoMoons):
        def loss(self, batch, training):
            self.log("reward", 1.0)
            return super().loss(batch, training)

    with pytest.raises(ValueError, match=r"'val/reward' does not show whether lower or higher is better: .*mode='max'"):
        fit(Scored(), monitor="val/reward")


@pytest.mark.parametrize(
    "callback",
    [
        keras.callbacks.EarlyStopping("val_acuracy"),
        keras.callbacks.ReduceLROnPlateau("val_acuracy"),
        keras.callbacks.ModelCheckpoint("best.keras", "val_acuracy", save_best_only=True),
    ],
)
def test_a_misspelled_monitor_of_a_callback_is_refused(fit, callback):
    name = type(callback).__name__
    with pytest.raises(ValueError, match=rf"{name}\(monitor='val_acuracy'\): .* Did you mean 'val_accuracy'\?"):
        fit(TwoMoons(), callbacks=[callback])


def test_a_value_that_is_not_a_callback_is_refused(fit):
    with pytest.raises(TypeError, match=r"A callback must be a keras.callbacks.Callback, got str"):
        fit(TwoMoons(), callbacks=["early_stopping"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_misspelled_metric_or_loss_of_a_supervised_task_is_refused(fit):
    def model():
        return keras.Sequential([keras.Input((2,)), layers.Dense(1)])

    with pytest.raises(ValueError, match="Could not interpret metric identifier: acuracy"):
        fit(SupervisedTask(model(), loss="mse", metrics=["acuracy"]), two_moons(64))
    with pytest.raises(ValueError, match=r"SupervisedTask\(loss='msee'\): .* Did you mean 'mse'"):
        fit(SupervisedTask(model(), loss="msee"), two_moons(64))


# ---------------------------------------------------------------------- tasks


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_first_batch_that_gives_no_number_is_refused_and_no_weight_moved(fit, value):
    class Broken(TwoMoons):
        def build(self):
            super().build()
            self.calls = keras.metrics.Sum("calls")
            self.noise = keras.random.SeedGenerator(1)

        def loss(self, batch, training):
            self.calls.update_state(1.0)
            keras.random.normal((1,), seed=self.noise)
            return super().loss(batch, training) * value

    task = Broken()
    task.set_up(0)
    task.optimizer.build(task.trainable_variables())
    before = {key: variable.numpy() for key, variable in task.variables().items()}
    with pytest.raises(TaskError, match=rf"Broken.train_step: loss is -?{abs(value)} on the first batch. Look for a"):
        fit(task)
    after = task.variables()
    assert list(after) == list(before)
    assert len(before) > 10  # weights, moments of Adam, the metric, the seed
    for key, variable in after.items():
        np.testing.assert_array_equal(variable.numpy(), before[key], err_msg=key)


def test_a_try_of_one_batch_leaves_no_trace_in_the_run():
    plain, checked = TwoMoons(), TwoMoons()
    plain.set_up(0)
    Runner().check(checked)
    for found, expected in zip(checked.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert int(checked.optimizer.iterations) == 0


def test_a_log_that_is_not_a_scalar_is_refused(fit):
    class Rows(TwoMoons):
        def loss(self, batch, training):
            self.log("rows", batch[0][:, 0])
            return super().loss(batch, training)

    with pytest.raises(
        ValueError, match=r"log\('rows'\): the value has shape \((None|32),\); expected a scalar"
    ) as caught:
        fit(Rows())
    assert caught.value.__notes__[:1] == [
        "This came from train_step, which was given a batch of {0: float32[batch, 2], 1: int32[batch]}."
    ]


def test_a_loss_that_is_not_a_scalar_is_refused(fit):
    class Rows(TwoMoons):
        def loss(self, batch, training):
            return ops.square(self.model(batch[0]))

    with pytest.raises(
        ValueError, match=r"minimize: the loss has shape \((None|32), 1\); expected a scalar. Take its mean"
    ):
        fit(Rows())


def test_names_that_change_from_step_to_step_are_refused(fit):
    class Moody(TwoMoons):
        calls = 0

        def train_step(self, batch):
            self.calls += 1
            self.log(f"call {self.calls % 2}", 1.0)
            return super().train_step(batch)

    with pytest.raises(
        ValueError, match=r"must log the same names in every run.* new: \['call .'\], missing: \['call .'\]"
    ):
        fit(Moody())


def test_an_error_in_a_step_shows_what_the_step_was_given(fit):
    class Broken(TwoMoons):
        def loss(self, batch, training):
            raise KeyError("label")

    with pytest.raises(KeyError) as caught:
        fit(Broken())
    assert "given a batch of {0: float32[batch, 2], 1: int32[batch]}" in caught.value.__notes__[0]


# ---------------------------------------------------------------------- data


class Fed(TwoMoons):
    """Two moons from whatever it is given."""

    def build_data(self):
        return None


Y = np.zeros(64, "int32")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((64, 3)), r"takes float32\[batch, 2\], but the batch has float32\[batch, 3\]. Reshape or convert"),
        (np.zeros((64, 2, 2)), r"takes float32\[batch, 2\], but the batch has float32\[batch, 2, 2\]"),
        (np.array(["text"] * 64), r"takes float32\[batch, 2\], but the batch has string\[batch\]"),
        (np.array([["a", "b"]] * 64), r"takes float32\[batch, 2\], but the batch has string\[batch, 2\]"),
        (
            {"a": np.zeros((64, 2)), "b": np.zeros((64, 2))},
            r"takes the inputs \['points'\], but the batch has \['a', 'b'",
        ),
        ((np.zeros((64, 2)), np.zeros((64, 2))), r"takes 1 inputs \['points'\], but the batch has 2"),
    ],
)
def test_inputs_that_the_model_does_not_take_are_named_with_both_shapes(fit, x, message):
    class Named(Fed):
        def build_model(self):
            return keras.Sequential([layers.Input((2,), name="points"), layers.Dense(4, "relu"), layers.Dense(1)])

    with pytest.raises(TaskError, match=rf"Named.train_step: the model.*{message}"):
        fit(Named(), (x, Y))


def test_inputs_of_validation_that_the_model_does_not_take_are_named_too(fit):
    with pytest.raises(
        TaskError, match=r"evaluate_step: .*takes float32\[batch, 2\], but the batch has float32\[batch, 5"
    ):
        fit(Fed(), two_moons(64), (np.zeros((64, 5)), Y))


def test_numbers_into_a_model_of_text_are_refused(fit):
    class Texts(Fed):
        def build_model(self):
            text = keras.Input((), dtype="string", name="text")
            return keras.Model(
                text, layers.Dense(1)(layers.TextVectorization(vocabulary=["a"], output_mode="multi_hot")(text))
            )

    with pytest.raises(TaskError, match=r"input 'text' takes string\[batch\], but the batch has float32\[batch, 2\]"):
        fit(Texts(), two_moons(64))


def test_fewer_examples_than_a_batch_are_one_batch(tmp_path):
    settings = {"max_epochs": 1, "progress": False, "pictures": False, "run_dir": tmp_path / "run"}
    assert Runner(**settings).fit(Fed(), two_moons(20)).steps == 1


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("kind", ["arrays", "generator", "tf.data", "filtered"])
def test_an_empty_split_is_refused(fit, split, kind):
    dataset = tf.data.Dataset.from_tensor_slices(two_moons(64)).batch(32)
    empty = {
        "arrays": lambda: tuple(array[:0] for array in two_moons(2)),
        "generator": lambda: lambda: iter(()),
        "tf.data": lambda: dataset.take(0),
        "filtered": lambda: dataset.filter(lambda x, y: False),  # which shows only when it is read
    }[kind]()
    with pytest.raises(ValueError, match=r"empty|returned no batches"):
        fit(Fed(), *((empty,) if split == "train" else (two_moons(64), empty)))


def test_a_failure_of_the_data_comes_out_as_it_is(fit):
    class Prepared(TwoMoons):
        def build_data(self):
            raise FileNotFoundError("there is no such data set")

    with pytest.raises(FileNotFoundError, match="there is no such data set"):
        fit(Prepared())


def test_the_form_of_a_batch_reads_as_a_person_would_write_it():
    assert str(ArraySpec((28, None), "uint8")) == "uint8[batch, 28, None]"


def test_a_task_that_cannot_be_set_up_writes_nothing(fit):
    with pytest.raises(NotImplementedError, match="needs a `build_model`"):
        fit(Task(), two_moons(64))
