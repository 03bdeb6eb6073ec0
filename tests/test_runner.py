"""The loop: what a run computes, what it leaves behind, and when it stops."""

import csv
import dataclasses
import json
import math
import os
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import assert_same, weights
from keras import layers, ops

from lightkeras import Checkpoints, Runner, Stopping
from lightkeras.data.arrays import ArrayData
from lightkeras.data.feed import ArrayFeed
from lightkeras.runs import checkpoint
from lightkeras.runs.results import FitResult
from lightkeras.task import Task
from lightkeras.testing import TwoMoons, two_moons


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


def runner(run_dir, **settings):
    quick = {"max_epochs": 2, "progress": False, "pictures": False, "export": False}
    settings = quick | {"run_dir": run_dir} | settings
    return Runner(**settings)


def rows(run_dir, kind):
    with open(run_dir / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["kind"] == kind]


class Line(Task):
    """y = w x with w = 1 at first, squared error, SGD with a learning rate of 1/8: exact in float32."""

    def build_model(self):
        kernel = keras.initializers.Constant(1.0)
        return keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer=kernel)])

    def build_optimizer(self):
        return keras.optimizers.SGD(0.125)

    def loss(self, batch, training):
        x, y = batch
        return ops.mean(ops.square(self.model(x, training=training) - y))


X, Y = np.float32([[1], [2], [3]]), np.float32([[2], [4], [6]])


class Scripted(Task):
    """Each epoch has one step, and validation gives the values of a script, one after the other."""

    script = (3.0, 2.0, 2.0, 1.0, 4.0, 5.0, 6.0, 7.0)

    def build_data(self):
        return ArrayData(np.zeros((4, 1)), np.zeros((2, 1)), batch_size=4)

    def build(self):
        self.model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
        self.optimizer = keras.optimizers.SGD(1.0)

    @property
    def weight(self):
        return self.model.layers[0].kernel

    def train_step(self, batch):
        # The gradient of the weight itself is 1, so that it counts the steps: -1, -2, ...
        return self.minimize(lambda: ops.sum(self.weight))

    def evaluate_step(self, batch):
        epoch = ops.cast(-ops.sum(self.weight) - 1, "int32")
        self.log("score", -ops.take(ops.convert_to_tensor(self.script), epoch))
        return ops.take(ops.convert_to_tensor(self.script), ops.maximum(epoch, 0))


# ---------------------------------------------------------------------- what it computes


def test_two_epochs_are_those_worked_out_by_hand(run_dir):
    task = Line()
    data = ArrayFeed((X, Y), 2)
    result = runner(run_dir).fit(task, data, data)
    # The first epoch: losses 2.5 and 1.265625 on 2 and 1 examples, then w = 2.46875. Validation with
    # that w: errors 0.46875 x, so 0.46875^2 (1 + 4 + 9) / 3.
    assert result.history["train/loss"][0] == (2.5 * 2 + 1.265625) / 3
    assert result.history["val/loss"][0] == pytest.approx(0.46875**2 * 14 / 3, rel=1e-6)
    # The second: errors 0.46875 and 0.9375, gradient 0.46875 (1 + 4), w = 2.46875 - 2.34375 / 8.
    losses = [float(row["train/loss"]) for row in rows(run_dir, "step")]
    assert losses[:3] == pytest.approx([2.5, 1.265625, 0.46875**2 * 2.5], rel=1e-8)
    assert result.history["train/loss"][1] == pytest.approx((losses[2] * 2 + losses[3]) / 3, rel=1e-8)
    assert (result.epochs, result.steps) == (2, 4)
    assert result.stop_reason == "max_epochs=2 reached"


class LogsNumbers(TwoMoons):
    calls = 0  # of the loss: what a step does in Python is done when it is compiled

    def loss(self, batch, training):
        self.calls += 1
        self.log("calls", self.calls)
        self.log("moment", ops.mean(batch[0]))
        return super().loss(batch, training)


def test_a_logged_number_is_reported_as_constant_if_steps_are_compiled(run_dir, capsys):
    Runner(max_epochs=1, run_dir=run_dir, steps_per_call=5).fit(LogsNumbers())
    said = capsys.readouterr().err
    compiled = keras.backend.backend() != "torch"
    line = (
        "log('calls') was given the number 1 and not a tensor: the step is compiled, so every step logs the number of "
        "the first. Log a tensor or a keras.Variable for a value that changes."
    )
    assert (line in said) == compiled
    assert "log('moment')" not in said
    assert said.count("was given the number") == compiled
    values = {row["train/calls"] for row in rows(run_dir, "step")}
    assert (len(values) == 1) == compiled


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    found = {}
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        task = TwoMoons()
        runner(tmp_path / name, seed=seed).fit(task)
        found[name] = weights(task)
    assert_same(found["a"], found["b"])
    assert not np.array_equal(found["a"][0], found["c"][0])


def test_steps_per_call_change_neither_weights_nor_files(tmp_path):
    found = {}
    for steps in (1, 7, None):
        task = TwoMoons(TwoMoons.HParams(batch_size=24))  # 320 points: 13 batches of 24 and one of 8
        result = runner(tmp_path / str(steps), steps_per_call=steps, seed=3).fit(task)
        found[steps] = weights(task), result.history, (tmp_path / str(steps) / "metrics.csv").read_text()
        assert result.steps == 28
    for steps in (7, None):
        assert_same(found[steps][0], found[1][0])
        assert found[steps][1:] == found[1][1:]


@pytest.mark.any_backend
def test_arrays_are_shuffled_and_each_epoch_otherwise(run_dir):
    class First(Line):
        def train_step(self, batch):
            self.log("first", batch[0][0, 0])
            return super().train_step(batch)

    x = np.arange(64, dtype="float32")[:, None] / 64
    runner(run_dir).fit(First(), (x, 2 * x), batch_size=16)
    firsts = [float(row["train/first"]) * 64 for row in rows(run_dir, "step")]
    assert len(set(firsts)) > 4
    assert firsts[:4] != firsts[4:]
    assert firsts[:4] != [0.0, 16.0, 32.0, 48.0]


@pytest.mark.parametrize("kind", ["tf.data", "generator", "feed", "iterable"])
def test_what_brings_its_own_batches_keeps_its_own_order(run_dir, kind):
    parts = [(X[:2], Y[:2]), (X[2:], Y[2:])]
    sources = {
        "tf.data": tf.data.Dataset.from_tensor_slices((X, Y)).batch(2),
        "generator": lambda: iter(parts),
        "feed": ArrayFeed((X, Y), 2),
        "iterable": type("Parts", (), {"__iter__": lambda self: iter(parts)})(),
    }
    result = runner(run_dir).fit(Line(), sources[kind], (X, Y))
    assert [float(row["train/loss"]) for row in rows(run_dir, "step")][:2] == [2.5, 1.265625]
    assert (result.epochs, result.steps) == (2, 4)
    assert json.loads((run_dir / "result.json").read_text())["source"] == ("arrays" if kind == "feed" else "stream")


def test_a_second_fit_continues_from_the_weights_of_the_first(tmp_path):
    once, twice = Line(), Line()
    data = ArrayFeed((X, Y), 2)
    runner(tmp_path / "a", max_epochs=2).fit(once, data)
    runner(tmp_path / "b", max_epochs=1).fit(twice, data)
    runner(tmp_path / "c", max_epochs=1).fit(twice, data)
    assert_same(weights(twice), weights(once))


def test_averaged_weights_end_in_the_model_as_in_keras(run_dir):
    class Averaged(Line):
        def build_optimizer(self):
            return keras.optimizers.SGD(0.125, use_ema=True, ema_momentum=0.75)

    task = Averaged()
    runner(run_dir, max_epochs=1).fit(task, ArrayFeed((X, Y), 2))
    assert task.model.get_weights()[0].item() == 0.75 * 1.625 + 0.25 * 2.46875


def test_two_optimizers_that_average_each_end_with_their_own_average(run_dir):
    class Pair(Task):
        def build(self):
            self.one, self.two = Line().build_model(), Line().build_model()
            self.optimizers = [keras.optimizers.SGD(0.125, use_ema=True, ema_momentum=0.75) for _ in range(2)]

        def train_step(self, batch):
            x, y = batch
            for name, model, optimizer in zip("ab", (self.one, self.two), self.optimizers, strict=True):
                loss = self.minimize(
                    lambda model=model: ops.mean(ops.square(model(x) - y)), model.trainable_variables, optimizer
                )
                self.log(name, loss)

    task = Pair()
    result = runner(run_dir, max_epochs=1).fit(task, ArrayFeed((X, Y), 2))
    assert result.monitor is None
    expected = 0.75 * 1.625 + 0.25 * 2.46875
    assert [model.get_weights()[0].item() for model in (task.one, task.two)] == [expected, expected]


# ---------------------------------------------------------------------- when it stops


@pytest.mark.any_backend
def test_patience_counts_epochs_without_a_better_value(run_dir):
    result = runner(run_dir, max_epochs=8, patience=3).fit(Scripted())
    # 3, 2, 2, 1 (best), 4, 5, 6: the third epoch without a better value is the last.
    assert result.history["val/loss"] == (3.0, 2.0, 2.0, 1.0, 4.0, 5.0, 6.0)
    assert result.stop_reason == "val/loss got no better for 3 epochs"
    assert (result.best.epoch, result.best.step, result.best.value) == (4, 4, 1.0)
    assert result.best.logs == {"train/loss": -3.0, "val/score": -1.0, "val/loss": 1.0}
    assert (result.epochs, result.steps, result.diverged) == (7, 7, False)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("stopping", "epochs", "reason"),
    [  # of 3, 2, 2, 1, 4, 5, 6, 7
        (Stopping(stop_at=2.0), 2, "val/loss is 2 and reached stop_at=2"),
        (Stopping(stop_at=1.5), 4, "val/loss is 1 and reached stop_at=1.5"),
        (Stopping(stop_at=1.5, min_epochs=6), 6, "val/loss is 1 and reached stop_at=1.5"),
        (Stopping(min_delta=1.0), 3, "val/loss got no better for 2 epochs"),
        (Stopping(min_delta=0.9), 6, "val/loss got no better for 2 epochs"),
        (Stopping(min_epochs=7), 7, "val/loss got no better for 3 epochs"),
        (Stopping(stop_at=0.5, min_epochs=100), 8, "max_epochs=8 reached"),
    ],
)
def test_stopping_waits_for_epochs_and_improvements_and_ends_at_a_value(run_dir, stopping, epochs, reason):
    settings = {"max_epochs": 8, "patience": 2, "stopping": stopping}
    result = runner(run_dir, **settings).fit(Scripted())
    assert (result.epochs, result.stop_reason) == (epochs, reason)
    if stopping.min_delta == 1.0:
        assert (result.best.epoch, result.best.value) == (2, 2.0)  # not an improvement by 1, and yet the best
    again = runner(run_dir, **settings).fit(Scripted(), resume=True)
    assert (again.epochs, again.stop_reason) == (epochs, reason)  # it has come to its end


def test_a_run_that_was_stopped_waits_for_the_same_improvement_after_a_resume(run_dir):
    stopping = Stopping(min_delta=1.5)  # 3 counts, 2 and 2 do not, and 1 does
    runner(run_dir, max_epochs=3, patience=None, stopping=stopping).fit(Scripted())
    saved = checkpoint.load(checkpoint.find(run_dir / "checkpoints", "last")).state["progress"]
    assert saved == {"mode": "min", "best": 2.0, "waited": 2, "counted": 3.0}
    result = runner(run_dir, max_epochs=8, patience=3, stopping=stopping).fit(Scripted(), resume=True)
    assert (result.epochs, result.best.epoch) == (7, 4)


def test_a_value_to_reach_inside_an_epoch_ends_the_run_there(run_dir):
    settings = {"max_epochs": 9, "validate_every": "3 steps", "monitor": "val/accuracy", "patience": None}
    result = runner(run_dir, stopping=Stopping(stop_at=0.0), **settings).fit(
        TwoMoons(), two_moons(320), two_moons(50, 1)
    )
    assert (result.steps, result.epochs) == (3, 0)
    assert result.stop_reason.endswith("reached stop_at=0")


def test_a_value_to_reach_needs_a_monitored_value(run_dir):
    class Logs(Line):
        def train_step(self, batch):
            self.log("error", self.minimize(lambda: self.loss(batch, True)))

    with pytest.raises(ValueError, match=r"Stopping\(stop_at=1\): no value is monitored, .* one of train/error"):
        runner(run_dir, stopping=Stopping(stop_at=1.0)).fit(Logs(), (X, Y))


def test_without_patience_it_runs_to_the_last_epoch(run_dir):
    result = runner(run_dir, max_epochs=8, patience=None).fit(Scripted())
    assert (result.epochs, result.stop_reason) == (8, "max_epochs=8 reached")


@pytest.mark.any_backend
def test_a_limit_of_steps_alone_is_the_limit(run_dir):
    result = runner(run_dir, max_epochs=None, max_steps=12, patience=None).fit(TwoMoons(), two_moons(32))
    assert (result.steps, result.epochs, result.stop_reason) == (12, 12, "max_steps=12 reached")
    longer = runner(run_dir, max_epochs=None, max_steps=13, patience=None).fit(TwoMoons(), two_moons(32), resume=True)
    assert (longer.steps, longer.stop_reason) == (13, "max_steps=13 reached")
    assert runner(run_dir, max_epochs=None).epoch_limit == 10
    assert runner(run_dir, max_epochs=3, max_steps=12).epoch_limit == 3
    assert runner(run_dir, max_epochs=None, max_time=60).epoch_limit is None


@pytest.mark.any_backend
def test_a_tie_is_not_better(run_dir):
    result = runner(run_dir, max_epochs=8, patience=1).fit(Scripted())
    assert result.stop_reason == "val/loss got no better for 1 epoch"
    assert (result.epochs, result.best.epoch) == (3, 2)


@pytest.mark.any_backend
def test_higher_is_better_with_mode_max(run_dir):
    result = runner(run_dir, max_epochs=8, monitor="val/score", mode="max", patience=2).fit(Scripted())
    assert (result.monitor, result.best.value, result.epochs) == ("val/score", -1.0, 6)


@pytest.mark.any_backend
def test_without_validation_the_train_loss_is_monitored(run_dir):
    result = runner(run_dir).fit(Line(), ArrayFeed((X, Y), 2))
    assert result.monitor == "train/loss"
    assert result.best.value == min(result.history["train/loss"])


@pytest.mark.any_backend
def test_best_and_last_are_checkpoints_of_their_own_epochs(run_dir):
    task = Scripted()
    runner(run_dir, max_epochs=8, patience=2, checkpoints=Checkpoints(every_epochs=1), export=True).fit(task)
    weight = {
        name: checkpoint.load(checkpoint.find(run_dir / "checkpoints", name)).arrays["model.0000"].item()
        for name in ("best", "last")
    }
    assert weight == {"best": -4.0, "last": -6.0}
    assert task.weight.numpy().item() == -6.0  # the task keeps the weights of the last step
    assert sorted(path.name for path in (run_dir / "checkpoints").glob("step-*")) == [
        f"step-0000000{step}"
        for step in (4, 5, 6)  # the best, the one before the last, and the last
    ]
    exported = keras.models.load_model(run_dir / "model.keras")
    assert exported.layers[0].kernel.numpy().item() == -4.0


class Stopper(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == self.epoch


@pytest.mark.any_backend
def test_a_callback_stops_it(run_dir):
    result = runner(run_dir, max_epochs=8, callbacks=[Stopper(1)]).fit(Scripted())
    assert (result.epochs, result.stop_reason) == (2, "a callback asked to stop")
    again = runner(run_dir.parent / "again", max_epochs=8, callbacks=[keras.callbacks.EarlyStopping(patience=1)])
    assert again.fit(Scripted()).stop_reason == "EarlyStopping asked to stop"


def test_a_callback_that_stops_inside_an_epoch_ends_it_there(run_dir):
    class AtOnce(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    result = runner(run_dir, max_epochs=8, callbacks=[AtOnce()]).fit(TwoMoons())
    assert (result.epochs, result.steps) == (1, 3)
    assert list(result.history) == ["train/accuracy", "train/loss", "val/accuracy", "val/loss"]


class Exploding(Scripted):
    """The loss is fine for some steps, and then it is not a number."""

    steps = 2

    def build_data(self):
        return ArrayData(np.zeros((12, 1)), np.zeros((2, 1)), batch_size=4)

    def train_step(self, batch):
        return self.minimize(lambda: ops.sum(self.weight * ops.where(self.weight <= -self.steps, math.nan, 1.0)))


def test_a_loss_that_is_nan_ends_the_run_and_is_reported(run_dir):
    class Later(Exploding):
        steps = 4

    result = runner(run_dir, max_epochs=8, patience=None).fit(Later())
    assert result.diverged
    assert result.stop_reason.startswith(
        "train/loss became nan at step 5 (epoch 2, batch 2): the outputs of all layers"
    )
    assert (result.epochs, result.steps, result.best.epoch) == (1, 5, 1)
    saved = json.loads((run_dir / "result.json").read_text())["fit"]
    assert (saved["diverged"], saved["stop_reason"]) == (True, result.stop_reason)
    last = checkpoint.load(checkpoint.find(run_dir / "checkpoints", "last"))
    assert last.arrays["model.0000"].item() == -3.0  # of the last good epoch


@pytest.mark.any_backend
def test_a_run_that_breaks_in_its_first_epoch_still_leaves_a_result(run_dir):
    result = runner(run_dir, max_epochs=8, export=True, pictures=True).fit(Exploding())
    assert (result.epochs, result.best) == (0, None)
    assert result.stop_reason.startswith("train/loss became nan at step 3 (epoch 1, batch 3): ")
    assert (run_dir / "broken" / "step-00000003").is_dir()
    assert json.loads((run_dir / "result.json").read_text())["fit"]["best"] is None
    assert not (run_dir / "model.keras").exists()


@pytest.mark.any_backend
@pytest.mark.parametrize(("value", "every"), [(math.nan, 1), (math.inf, 1), (math.nan, "1 step")])
def test_a_monitored_value_that_is_not_finite_ends_the_run_by_its_name(run_dir, value, every):
    class Silent(Scripted):
        script = (2.0, 1.5, value, 1.0, 1.0)

    result = runner(run_dir, max_epochs=5, patience=None, validate_every=every).fit(Silent())
    assert result.stop_reason == f"val/loss is {value}, which is not finite"
    assert (result.best.epoch, result.epochs, result.diverged) == (2, 3, False)
    # Another value than the monitored one does not end it.
    again = runner(run_dir / "again", max_epochs=5, patience=None, monitor="train/loss").fit(Silent())
    assert again.epochs == 5


# ---------------------------------------------------------------------- what it leaves behind


@pytest.mark.any_backend
def test_the_result_is_frozen_plain_data(run_dir):
    result = runner(run_dir).fit(TwoMoons())
    assert isinstance(result, FitResult)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.epochs = 3  # type: ignore[misc]
    assert all(type(values) is tuple and len(values) == 2 for values in result.history.values())
    assert {type(value) for values in result.history.values() for value in values} == {float}
    assert (result.run_dir, result.epochs, result.steps, result.diverged) == (run_dir, 2, 20, False)
    assert result.wall_s > 0
    assert result.best.value == min(result.history["val/loss"])
    assert result.best.logs["train/loss"] == result.history["train/loss"][result.best.epoch - 1]


@pytest.mark.any_backend
def test_history_equals_metrics_csv(run_dir):
    result = runner(run_dir, max_epochs=3).fit(TwoMoons())
    epochs = rows(run_dir, "epoch")
    assert [(row["epoch"], row["step"]) for row in epochs] == [("1", "10"), ("2", "20"), ("3", "30")]
    for name, values in result.history.items():
        assert [float(row[name]) for row in epochs] == pytest.approx(values, rel=1e-8)
    steps = rows(run_dir, "step")
    assert [int(row["step"]) for row in steps] == list(range(1, 31))
    assert [int(row["epoch"]) for row in steps] == [1] * 10 + [2] * 10 + [3] * 10
    for epoch in range(3):  # 10 batches of 32: the mean of an epoch is that of its steps
        mean = np.mean([float(row["train/loss"]) for row in steps[10 * epoch : 10 * epoch + 10]])
        assert result.history["train/loss"][epoch] == pytest.approx(mean, rel=1e-7)


@pytest.mark.any_backend
def test_result_json_holds_what_the_result_shows_and_config_json_the_settings(run_dir):
    hp = TwoMoons.HParams(hidden_units=8)
    result = runner(run_dir, seed=5, callbacks=[Stopper(9)]).fit(TwoMoons(hp))
    saved = json.loads((run_dir / "result.json").read_text())
    assert saved["fit"] == result.summary()
    assert (saved["task"], saved["source"], saved["backend"]) == ("TwoMoons", "arrays", keras.backend.backend())
    assert saved["hparams"] == {"hidden_units": 8, "learning_rate": 0.01, "batch_size": 32}
    assert saved["versions"]["keras"] == keras.__version__
    config = json.loads((run_dir / "config.json").read_text())
    assert config["seed"] == 5
    assert config["runner"]["callbacks"] == ["Stopper"]
    assert config["runner"]["run_dir"] == str(run_dir)
    assert config["data"]["fingerprint"] == TwoMoons().build_data().train().fingerprint()


@pytest.mark.any_backend
def test_without_a_run_dir_it_makes_one_below_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = runner(None, max_epochs=1).fit(TwoMoons())
    assert result.run_dir.parent.as_posix() == "runs/two_moons"
    assert (result.run_dir / "result.json").is_file()


# ---------------------------------------------------------------------- evaluate and predict


def test_evaluation_takes_the_weights_that_were_asked_for(run_dir):
    task = Scripted()
    runner(run_dir, max_epochs=8, patience=2).fit(task)  # best at epoch 4, last at epoch 6
    other = runner(run_dir)
    found = {w: other.evaluate(Scripted(), split="validation", weights=w)["loss"] for w in ("best", "last")}
    assert found == {"best": 1.0, "last": 5.0}
    task.weight.assign([[-1.0]])
    assert other.evaluate(task, split="validation")["loss"] == 3.0  # those it has now
    assert json.loads((run_dir / "result.json").read_text())["validation"] == {"score": -5.0, "loss": 5.0}


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.evaluate(TwoMoons(), split="train"), ValueError, "split='train': expected 'validation' or 'test'"),
        (lambda r: r.evaluate(Scripted()), ValueError, r"no test split: ArrayData.test\(\) returned None"),
        (lambda r: r.evaluate(Line()), ValueError, "There is no data: Line.build_data returns None"),
        (lambda r: r.fit(Line()), ValueError, "There is no data: Line.build_data returns None"),
        (lambda r: r.evaluate(TwoMoons(), weights="best"), FileNotFoundError, "holds no run: there is no config.json"),
        (lambda r: r.predict(TwoMoons(), np.zeros((0, 2))), ValueError, "arrays are empty"),
    ],
)
def test_missing_data_and_runs_are_reported(run_dir, call, error, message):
    with pytest.raises(error, match=message):
        call(runner(run_dir))
    assert not run_dir.exists()


# ---------------------------------------------------------------------- settings and disks


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_epochs": 0}, r"Runner\(max_epochs=0\): expected a whole number of at least 1"),
        ({"max_epochs": 2.0}, r"Runner\(max_epochs=2.0\): expected a whole number"),
        ({"max_epochs": True}, r"Runner\(max_epochs=True\): expected a whole number"),
        ({"seed": None}, r"Runner\(seed=None\): expected a whole number of at least 0"),
        ({"seed": -1}, r"Runner\(seed=-1\): expected a whole number of at least 0"),
        ({"patience": 0}, r"Runner\(patience=0\): expected a whole number of at least 1"),
        ({"steps_per_call": 0}, r"Runner\(steps_per_call=0\): expected a whole number of at least 1"),
        ({"mode": "lower"}, r"Runner\(mode='lower'\): expected 'min', 'max' or None"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Runner(**settings)


@pytest.mark.any_backend
def test_check_gives_the_names_and_writes_nothing(run_dir):
    names = runner(run_dir).check(TwoMoons())
    assert names == ["train/accuracy", "train/loss", "val/accuracy", "val/loss"]
    assert not run_dir.exists()


@pytest.mark.any_backend
def test_a_run_directory_that_is_taken_is_refused_and_untouched(run_dir):
    runner(run_dir, max_epochs=1).fit(TwoMoons())
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="already holds another run, which would be lost"):
        runner(run_dir).fit(TwoMoons())
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


@pytest.mark.any_backend
def test_a_run_directory_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(NotADirectoryError, match=r"file/run cannot be created: .*/file is a file, not a folder"):
        runner(tmp_path / "file" / "run").fit(TwoMoons())
    with pytest.raises(NotADirectoryError, match=r"file is a file; expected a directory"):
        runner(tmp_path / "file").fit(TwoMoons())
    assert (tmp_path / "file").read_text() == "precious"


@pytest.fixture
def disk(tmp_path):
    """Mounts small disks of memory; gives `mount(size, *options)`."""
    mounted = []

    def mount(options):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.any_backend
@pytest.mark.skipif(os.name != "posix", reason="mounts a disk")
def test_a_disk_that_is_read_only_is_named(disk):
    folder = disk("size=1m,ro")
    with pytest.raises(OSError, match=rf"could not write {folder}/run: Read-only file system"):
        runner(folder / "run").fit(TwoMoons())


@pytest.mark.any_backend
@pytest.mark.filterwarnings("ignore:.* is outside its declared range:UserWarning")
def test_a_disk_with_too_little_room_is_refused_before_the_first_epoch(disk):
    folder = disk("size=16k")
    task = TwoMoons(TwoMoons.HParams(hidden_units=2048))
    message = r"run: 0\.0 MB of disk are free, but the run needs about 0\.4 MB for 4 checkpoints of 0\.1 MB \(the best"
    with pytest.raises(OSError, match=message):
        runner(folder / "run").fit(task)


@pytest.mark.any_backend
@pytest.mark.parametrize("size", [28, 80, 140])
def test_a_disk_that_fills_up_loses_nothing_that_was_good(disk, size):
    folder = disk(f"size={size}k")
    with pytest.raises(OSError, match=rf"could not write {folder}/run/.*(No space left|Existing files are)"):
        runner(folder / "run", max_epochs=400, patience=None).fit(TwoMoons())
    checkpoints = folder / "run" / "checkpoints"
    json.loads((folder / "run" / "config.json").read_text())
    assert (checkpoints / "last").exists() or size == 28  # room for one epoch at least
    for name in ("last", "best"):
        if (checkpoints / name).exists():
            checkpoint.load(checkpoint.find(checkpoints, name))
    assert not list((folder / "run").rglob("*.part*"))


@pytest.mark.any_backend
def test_a_run_that_diverges_is_a_failure_in_the_hparams_tab(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

    class Diverging(TwoMoons):
        def build_optimizer(self):
            return keras.optimizers.SGD(1e30)

    result = Runner(max_epochs=3, run_dir=tmp_path / "run").fit(Diverging())
    assert result.diverged
    found = EventAccumulator(str(tmp_path / "run" / "hparams"))
    found.Reload()
    content = found.SummaryMetadata("_hparams_/session_end_info").plugin_data.content
    end = plugin_data_pb2.HParamsPluginData.FromString(content).session_end_info
    assert end.status == api_pb2.STATUS_FAILURE


@pytest.mark.any_backend
def test_what_decides_which_checkpoints_are_kept_must_be_logged(run_dir):
    with pytest.raises(
        ValueError, match=r"Checkpoints\.keep_by='val/los': no epoch logs that\. Did you mean 'val/loss'"
    ):
        runner(run_dir, checkpoints=Checkpoints(keep=2, keep_by="val/los")).fit(TwoMoons())
    assert not run_dir.exists()


@pytest.mark.any_backend
def test_the_best_by_another_value_are_kept(run_dir):
    settings = Checkpoints(every_epochs=1, keep=2, keep_by="train/accuracy", keep_mode="max")
    result = runner(run_dir, max_epochs=6, patience=None, checkpoints=settings).fit(TwoMoons())
    values = result.history["train/accuracy"]
    best = sorted(range(6), key=lambda epoch: (-values[epoch], epoch))[:2]
    kept = {10 * (epoch + 1) for epoch in best} | {result.best.step, 50, 60}
    there = {int(path.name.split("-")[1]) for path in (run_dir / "checkpoints").glob("step-*")}
    assert kept <= there
    assert len(there) <= len(kept) + 1  # what the one before the last refers to
