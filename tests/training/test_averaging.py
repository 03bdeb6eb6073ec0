"""Stochastic weight averaging: the averages, the batch statistics, and what becomes of them."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import lightkeras as lk
from lightkeras.data.feed import ArrayFeed
from lightkeras.system.variables import read_variables

RNG = np.random.default_rng(0)
X = RNG.normal(size=(14, 4)).astype("float32")
Y = np.tanh(X @ RNG.normal(size=(4, 1))).astype("float32")
START = [RNG.normal(size=shape).astype("float32") for shape in ((4, 3), (3, 1))]


def network(normalized=True, frozen=False):
    norm = [layers.BatchNormalization(name="norm", momentum=0.9, trainable=not frozen)] if normalized else []
    first, last = layers.Dense(3, use_bias=False, name="first"), layers.Dense(1, use_bias=False, name="last")
    model = keras.Sequential(
        [keras.Input((4,)), first, *norm, layers.Activation("tanh"), layers.Dropout(0.1, seed=5), last]
    )
    for layer, value in zip((first, last), START, strict=True):
        layer.kernel.assign(value)
    return model


def task_of(*model, **optimizer):
    return lk.SupervisedTask(network(*model), loss="mse", optimizer=keras.optimizers.Adam(0.05, **optimizer))


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.weights = {}

    def on_epoch_end(self, epoch, logs=None):
        self.weights[epoch] = [ops.convert_to_numpy(v).copy() for v in self.model.trainable_variables]

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        del state


def fitted(run_dir, task, start=2, resume=False, callbacks=(), **settings):
    given = {"max_epochs": 5, "patience": None, "progress": False, "pictures": False} | settings
    runner = lk.Runner(callbacks=[lk.callbacks.AverageWeights(start), *callbacks], run_dir=run_dir, **given)
    return runner.fit(task, ArrayFeed((X, Y), 4), (X[:5], Y[:5]), resume=resume)


def numbers(variables):
    return [ops.convert_to_numpy(variable) for variable in variables]


@pytest.mark.parametrize(("start", "epochs"), [(2, (2, 3, 4)), (0.75, (3, 4))])
def test_the_task_ends_with_the_mean_of_the_weights_of_the_last_epochs(tmp_path, start, epochs):
    task, watch = task_of(), Watch()
    fitted(tmp_path / "run", task, start, callbacks=[watch])
    for place, found in enumerate(numbers(task.model.trainable_variables)):
        each = np.stack([watch.weights[epoch][place] for epoch in epochs])
        np.testing.assert_array_equal(found, each.mean(0, dtype="float64").astype("float32"))


def test_batch_statistics_are_those_of_the_averages_on_the_train_split(tmp_path):
    task = task_of()
    fitted(tmp_path / "run", task)
    hidden = X @ ops.convert_to_numpy(task.model.get_layer("first").kernel)
    batches = [hidden[at : at + 4] for at in range(0, 14, 4)]  # 4, 4, 4 and 2 examples
    weights = [len(batch) for batch in batches]
    norm = task.model.get_layer("norm")
    mean, variance = numbers([norm.moving_mean, norm.moving_variance])
    np.testing.assert_allclose(mean, np.average([b.mean(0) for b in batches], 0, weights), rtol=1e-5)
    np.testing.assert_allclose(variance, np.average([b.var(0) for b in batches], 0, weights), rtol=1e-5)
    assert norm.momentum == 0.9


def test_frozen_statistics_stay(tmp_path):
    task = task_of(True, True)
    fitted(tmp_path / "run", task)
    norm = task.model.get_layer("norm")
    assert [value.tolist() for value in numbers([norm.moving_mean, norm.moving_variance])] == [[0.0] * 3, [1.0] * 3]


def test_the_averages_are_judged_saved_and_exported_as_an_epoch_is(tmp_path):
    task = task_of()
    result = fitted(tmp_path / "run", task, callbacks=[Watch()])
    found = lk.Runner(progress=False).evaluate(task, (X[:5], Y[:5])).metrics["loss"]
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    assert (last["kind"] if "kind" in last else rows[-1].split(",")[0]) == "validation"
    assert float(last["val/loss"]) == pytest.approx(found, rel=1e-5)
    better = found < min(result.history["val/loss"])
    assert (result.best.value == pytest.approx(found, rel=1e-5)) == better
    exported = keras.models.load_model(tmp_path / "run/model.keras")
    same = np.array_equal(exported.predict(X, verbose=0), task.model.predict(X, verbose=0))
    assert same == better


@pytest.mark.parametrize("step", [9, 12, *(pytest.param(at, marks=pytest.mark.long) for at in (4, 8, 14, 16, 18))])
def test_a_run_that_is_resumed_ends_as_one_that_never_stopped(tmp_path, step):
    whole = task_of()
    expected = fitted(tmp_path / "whole", whole)
    fitted(tmp_path / "run", task_of(), max_steps=step)
    task = task_of()
    result = fitted(tmp_path / "run", task, resume=True)
    found, values = read_variables(task.variables()), read_variables(whole.variables())
    assert {key for key, value in values.items() if not np.array_equal(found[key], value)} == set()
    assert result.history == expected.history
    assert result.best == expected.best
    assert (tmp_path / "run/metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text()


def test_the_last_checkpoint_holds_the_weights_that_were_trained(tmp_path):
    watch = Watch()
    fitted(tmp_path / "run", task_of(), callbacks=[watch])
    task = task_of()
    lk.Runner(run_dir=tmp_path / "run", progress=False).evaluate(task, (X, Y), weights="last")
    for found, expected in zip(numbers(task.model.trainable_variables), watch.weights[4], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_run_that_ends_before_an_epoch_counts_keeps_its_weights(tmp_path):
    task, watch = task_of(), Watch()
    result = fitted(tmp_path / "run", task, start=5, callbacks=[watch])
    assert len(result.history["val/loss"]) == 5
    for found, expected in zip(numbers(task.model.trainable_variables), watch.weights[4], strict=True):
        np.testing.assert_array_equal(found, expected)


class Stepped(lk.Task):
    """It has steps of its own and no loss, so batch statistics cannot be computed without training."""

    def build_model(self):
        return network()

    def train_step(self, batch):
        return self.minimize(lambda: ops.mean(ops.square(self.model(batch[0], training=True) - batch[1])))

    def evaluate_step(self, batch):
        return ops.mean(ops.square(self.model(batch[0], training=False) - batch[1]))


def test_what_cannot_be_averaged_is_refused_before_anything_is_written(tmp_path):
    def refused(task, message, count=1, validation=(X, Y)):
        callbacks = [lk.callbacks.AverageWeights() for _ in range(count)]
        runner = lk.Runner(max_epochs=4, callbacks=callbacks, run_dir=tmp_path / "run", progress=False)
        with pytest.raises(ValueError, match=message):
            runner.fit(task, (X, Y), validation)
        assert not (tmp_path / "run").exists()

    refused(task_of(), "2 AverageWeights in callbacks: expected one", count=2)
    refused(task_of(), "needs a value of a validation split .* the monitor is train/loss", validation=None)
    refused(task_of(use_ema=True), "use_ema=True: at the end of the run")
    refused(Stepped(), r"Stepped has BatchNormalization layers.*`loss\(batch, training=True\)`.*does not define `loss`")


def test_the_result_names_the_better_of_the_averages_and_the_best_epoch(tmp_path):
    result = fitted(tmp_path / "run", task_of(False), start=1, max_epochs=6)
    saved = json.loads((tmp_path / "run/result.json").read_text())["fit"]["best"]
    assert saved["val/loss"] == result.best.value
    assert result.best.value <= min(result.history["val/loss"])
