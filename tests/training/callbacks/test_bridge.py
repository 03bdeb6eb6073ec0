"""Which hooks are watched, under which names values are handed on, and what callbacks may monitor."""

from __future__ import annotations

import contextlib
import warnings

import keras
import pytest
from keras import callbacks

from lightkeras.training.callbacks.bridge import (
    TEST_BATCH_HOOKS,
    TRAIN_BATCH_HOOKS,
    CallbackBridge,
    keras_names,
    watches,
)

NAMES = ["train/loss", "train/accuracy", "val/loss", "val/accuracy"]


class Recorder(callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, object]] = []

    def on_train_begin(self, logs=None):
        self.calls.append(("train begins", logs))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append((f"epoch {epoch}", dict(logs)))

    def on_train_end(self, logs=None):
        self.calls.append(("train ends", dict(logs)))


class EachBatch(callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        """Looks at a batch."""


class OldBatch(callbacks.Callback):
    def on_batch_begin(self, batch, logs=None):
        """Looks at a batch, under the name that Keras had first."""


class EachTestBatch(callbacks.Callback):
    def on_test_batch_begin(self, batch, logs=None):
        """Looks at a batch."""


@pytest.fixture
def model() -> keras.Model:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def bridge(model: keras.Model, *given: callbacks.Callback) -> CallbackBridge:
    return CallbackBridge(given, model, epochs=3, steps=2)


@pytest.mark.parametrize(
    ("ours", "keras_name"),
    [
        ("train/loss", "loss"),
        ("val/loss", "val_loss"),
        ("train/val/loss", "val/loss"),
        ("val/val/loss", "val_val/loss"),
        ("train/interval/loss", "interval/loss"),
        ("val/train/loss", "val_train/loss"),
    ],
)
def test_names_become_those_of_keras(ours, keras_name):
    assert keras_names({ours: 1.5}) == {keras_name: 1.5}


@pytest.mark.parametrize(
    ("callback", "train", "test"),
    [
        (callbacks.Callback(), False, False),
        (Recorder(), False, False),
        (EachBatch(), True, False),
        (OldBatch(), True, False),
        (EachTestBatch(), False, True),
        (callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None), True, False),
        (callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None), False, False),
        (callbacks.EarlyStopping(), False, False),
        (callbacks.ReduceLROnPlateau(), False, False),
        (callbacks.CSVLogger("x.csv"), False, False),
        (callbacks.ModelCheckpoint("x.keras"), False, False),
        (callbacks.ModelCheckpoint("x.keras", save_freq=5), True, False),
        (callbacks.TerminateOnNaN(), True, False),
        (callbacks.TensorBoard("x", update_freq="epoch"), False, False),
        (callbacks.TensorBoard("x", update_freq="epoch", write_steps_per_second=True), True, False),
        (callbacks.TensorBoard("x", update_freq="batch"), True, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, callbacks.Callback) else str(value),
)
def test_a_callback_watches_the_batches_whose_hooks_it_has(callback, train, test):
    assert watches(callback, TRAIN_BATCH_HOOKS) is train
    assert watches(callback, TEST_BATCH_HOOKS) is test


def test_a_hook_that_was_put_on_the_callback_itself_counts():
    callback = callbacks.Callback()
    callback.on_train_batch_end = lambda batch, logs=None: None
    assert watches(callback, TRAIN_BATCH_HOOKS)


def test_one_callback_that_watches_is_enough(model):
    found = bridge(model, Recorder(), EachBatch())
    assert (found.watches_train_batches, found.watches_test_batches) == (True, False)
    found = bridge(model, Recorder())
    assert (found.watches_train_batches, found.watches_test_batches) == (False, False)


def test_an_object_that_is_not_a_callback_is_refused(model):
    with pytest.raises(TypeError, match=r"A callback must be a keras\.callbacks\.Callback, got function"):
        bridge(model, lambda epoch: None)
    with pytest.raises(TypeError, match=r"Callback, got the class History; construct it\."):
        bridge(model, keras.callbacks.History)


def test_a_callback_that_restores_runs_itself_is_refused(model, tmp_path):
    class Mine(callbacks.BackupAndRestore):
        """Keras's, by another name."""

    for kind in (callbacks.BackupAndRestore, Mine):
        expected = rf"{kind.__name__} in callbacks: the runner saves .* resume a run with fit\(\.\.\., resume=True\)"
        with pytest.raises(ValueError, match=expected):
            bridge(model, kind(tmp_path))


@pytest.mark.parametrize("monitor", ["val_los", "val/loss", "accuracy_val"])
def test_a_monitor_that_no_epoch_logs_is_refused(model, monitor):
    expected = rf"EarlyStopping\(monitor='{monitor}'\): no epoch logs that\. Did you mean '\w+'\? Valid names: accuracy"
    with pytest.raises(ValueError, match=expected):
        bridge(model, callbacks.EarlyStopping(monitor=monitor)).check_monitors(NAMES)


@pytest.mark.parametrize(
    "callback",
    [
        callbacks.EarlyStopping(monitor="val_accuracy", mode="max"),
        callbacks.ReduceLROnPlateau(monitor="loss"),
        callbacks.ModelCheckpoint("x.keras", monitor="no such name"),  # it reads none: it keeps every epoch
        callbacks.ModelCheckpoint("x.keras", monitor="val_loss", save_best_only=True),
        Recorder(),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_a_monitor_that_is_there_or_is_not_read_is_fine(model, callback):
    bridge(model, callback).check_monitors(NAMES)


def test_a_monitor_of_the_best_model_is_checked(model):
    callback = callbacks.ModelCheckpoint("x.keras", monitor="val_acc", save_best_only=True)
    with pytest.raises(ValueError, match=r"ModelCheckpoint\(monitor='val_acc'\): no epoch logs that"):
        bridge(model, callback).check_monitors(NAMES)


def test_a_monitor_is_checked_though_a_callback_of_the_user_has_the_attribute_of_those_that_save(model):
    class Mine(callbacks.EarlyStopping):
        save_best_only = False

    with pytest.raises(ValueError, match=r"Mine\(monitor='val_los'\): no epoch logs that"):
        bridge(model, Mine(monitor="val_los")).check_monitors(NAMES)


@pytest.mark.skipif(not hasattr(callbacks, "OrbaxCheckpoint"), reason="Keras 3.10 has no OrbaxCheckpoint")
@pytest.mark.parametrize("best", [False, True])
def test_a_monitor_of_orbax_is_checked_if_it_saves_the_best_alone(model, best):
    class Orbax(callbacks.OrbaxCheckpoint):
        def __init__(self):  # without Orbax
            self.monitor, self.save_best_only = "val_los", best

    raises = pytest.raises(ValueError, match="no epoch logs that") if best else contextlib.nullcontext()
    with raises:
        bridge(model, Orbax()).check_monitors(NAMES)


def test_callbacks_get_logs_with_keras_names_and_the_model(model):
    recorder = Recorder()
    found = bridge(model, recorder)
    found.begin_train()
    found.end_epoch(0, {"train/loss": 0.5, "val/loss": 0.25})
    found.end_train({"train/loss": 0.5})
    assert [name for name, _ in recorder.calls] == ["train begins", "epoch 0", "train ends"]
    assert recorder.calls[1][1] == {"loss": 0.5, "val_loss": 0.25}
    assert recorder.calls[2][1] == {"loss": 0.5}
    assert recorder.model is model
    assert recorder.params["epochs"] == 3


SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)


@pytest.mark.parametrize(
    "make",
    [lambda: callbacks.ReduceLROnPlateau("loss"), lambda: callbacks.LearningRateScheduler(lambda epoch: 0.1)],
    ids=["plateau", "scheduler"],
)
@pytest.mark.parametrize("scaled", [False, True])
def test_a_callback_that_cannot_set_the_rate_is_refused(model, make, scaled):
    callback, optimizer = make(), keras.optimizers.SGD(SCHEDULE)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer, "mse")
    message = rf"{type(callback).__name__} in callbacks sets .* computes its learning rate from a schedule"
    with pytest.raises(ValueError, match=message):
        bridge(model, callback).check_rates()
    bridge(model, callbacks.EarlyStopping("loss")).check_rates()
    model.compile("sgd", "mse")
    bridge(model, callback).check_rates()


def test_an_early_stopping_that_the_runner_does_not_wait_for_is_warned_of(model):
    found = bridge(model, callbacks.EarlyStopping("loss", patience=20), callbacks.EarlyStopping("loss", patience=2))
    with pytest.warns(
        UserWarning, match=r"EarlyStopping\(patience=20\) .* patience=3 without a better val/loss"
    ) as seen:
        found.warn_of_patience(3, "val/loss")
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for patience, monitor in [(20, "val/loss"), (None, "val/loss"), (3, None)]:
            found.warn_of_patience(patience, monitor)


def test_who_asked_to_stop_is_named(model):
    found = bridge(model, Recorder(), callbacks.EarlyStopping(monitor="loss", patience=1))
    found.begin_train()
    found.end_epoch(0, {"train/loss": 0.5})
    assert found.asked_to_stop is None
    found.end_epoch(1, {"train/loss": 0.75})
    assert found.asked_to_stop == "EarlyStopping"


def test_a_callback_that_leaves_no_trace_is_called_a_callback(model):
    found = bridge(model, Recorder())
    found.begin_train()
    model.stop_training = True
    assert found.asked_to_stop == "a callback"
    found.begin_train()
    assert found.asked_to_stop is None


def test_keras_does_not_warn_of_a_monitor_that_comes_later(model):
    found = bridge(model, callbacks.EarlyStopping(monitor="val_loss"))
    found.begin_train()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found.end_epoch(0, {"train/loss": 0.5})
    assert caught == []
