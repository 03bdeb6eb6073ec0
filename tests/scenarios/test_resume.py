"""A run that stopped and is resumed ends as one that never stopped: all its files are equal to the bit."""

import dataclasses
import functools
import json
import random
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from lightkeras import ChangedRunError, LimitBatches, Runner, SupervisedTask
from lightkeras.runs import checkpoint
from lightkeras.runs.directory import RunDirectory
from lightkeras.runs.resume import choose_checkpoint
from lightkeras.system.locks import RunLockedError
from lightkeras.system.variables import CheckpointError
from lightkeras.testing import TwoMoons, two_moons
from lightkeras.training import setup
from lightkeras.training.fit import Fit
from lightkeras.training.saver import Checkpoints

TRAIN, VALIDATION = two_moons(150), two_moons(50, seed=1)  # 10 batches of 16, the last of 6; and 4, the last of 2
CLASS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


# ---------------------------------------------------------------------- tasks


def classifier(optimizer=None):
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(8, "relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(2, dtype="float32"),
        ]
    )
    optimizer = keras.optimizers.Adam(0.02) if optimizer is None else optimizer
    metrics = ["accuracy", keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy")]
    return SupervisedTask(model, loss=CLASS, optimizer=optimizer, metrics=metrics)


class Unseeded(TwoMoons):
    """Noise from Keras's generator for numbers without a seed, and two optimizers."""

    def build(self):
        super().build()
        self.scale = keras.Variable(1.0, name="scale")
        self.holder = layers.Layer()
        self.holder.scale = self.scale
        self.second = keras.optimizers.SGD(0.01, momentum=0.9)

    def noisy(self, batch):
        return batch[0] * self.scale + keras.random.normal((2,), stddev=0.05), batch[1]

    def train_step(self, batch):
        self.log("scaled", self.minimize(lambda: self.loss(self.noisy(batch), True), [self.scale], self.second))
        return self.minimize(lambda: self.loss(self.noisy(batch), True), self.model.trainable_variables)


class Shuffled(keras.utils.PyDataset):
    """Batches in an order that is drawn at the end of each epoch."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.rng = np.random.default_rng(3)
        self.order = np.arange(150)

    def __len__(self):
        return 10

    def __getitem__(self, index):
        chosen = self.order[16 * index : 16 * index + 16]
        return TRAIN[0][chosen], TRAIN[1][chosen]

    def on_epoch_end(self):
        self.rng.shuffle(self.order)


def by_epoch(epoch):
    order = np.random.default_rng(epoch).permutation(150)
    for first in range(0, 150, 16):
        chosen = order[first : first + 16]
        yield TRAIN[0][chosen], TRAIN[1][chosen]


def with_global_state():
    """Batches in an order of NumPy's global generator, of a number that is not known before."""
    order = np.random.permutation(150)
    for first in range(0, 150, 16):
        yield TRAIN[0][order[first : first + 16]], TRAIN[1][order[first : first + 16]]


def endless():
    """Random batches without an end."""
    while True:
        chosen = np.random.randint(0, 150, 16)
        yield TRAIN[0][chosen], TRAIN[1][chosen]


class Endless(Shuffled):
    """Batches without an end, with noise of its own generator."""

    num_batches = None

    def __getitem__(self, index):
        x, y = super().__getitem__(index % 9)
        return x + self.rng.normal(0, 0.1, x.shape).astype("float32"), y

    def on_epoch_end(self):
        pass


def shuffled_dataset():
    return tf.data.Dataset.from_tensor_slices(TRAIN).shuffle(60, seed=5).batch(16)


class Batches(keras.callbacks.Callback):
    """Stores the arguments of each batch hook."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.means = {}

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(batch)
        self.means[f"{len(self.seen)}"] = logs["loss"]


class Epochs(keras.callbacks.Callback):
    """Keeps which epochs began and ended, and counts validations."""

    def __init__(self):
        super().__init__()
        self.log, self.tests = [], 0

    def on_epoch_begin(self, epoch, logs=None):
        if not self.log or self.log[-1] != f"begin {epoch}":  # called again in a resume inside an epoch
            self.log.append(f"begin {epoch}")

    def on_epoch_end(self, epoch, logs=None):
        self.log.append(f"end {epoch} {sorted(logs)}")

    def on_test_end(self, logs=None):
        self.tests += 1


def schedule(epoch, rate):
    return 0.02 / (1 + epoch)


def plateau():
    return [
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.05),
        keras.callbacks.EarlyStopping("loss", patience=2, min_delta=0.2),
    ]


def loader():
    """A DataLoader that shuffles, over examples with noise: both come from PyTorch's global generator."""
    import torch

    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 150

        def __getitem__(self, index):
            return TRAIN[0][index] + 0.05 * torch.randn(2).numpy(), TRAIN[1][index]

    return torch.utils.data.DataLoader(Noisy(), 16, shuffle=True)


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of run.

    Args:
        task: Makes the task.
        data: Makes the data.
        callbacks: Makes the callbacks.
        settings: Of the runner.
        policy: The dtype policy of the model.
    """

    task: Callable[[], Any] = classifier
    data: Callable[[], Any] = lambda: {"train": TRAIN, "validation": VALIDATION, "batch_size": 16}
    callbacks: Callable[[], list[keras.callbacks.Callback]] = list
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    policy: str = "float32"


def given(train):
    return lambda: {"train": train(), "validation": VALIDATION, "batch_size": 16}


def many_at_once():
    return classifier(
        keras.optimizers.AdamW(
            0.02, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=7, global_clipnorm=0.5, weight_decay=0.01
        )
    )


def scaled():
    # Small steps between changes of the scale, so that it grows during the run.
    inner = keras.optimizers.Adam(0.02)
    return classifier(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**10, dynamic_growth_steps=6))


class Half(TwoMoons):
    """A task in float16, whose optimizer it wraps itself."""

    def build_model(self):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            inside = [layers.Dense(16, "relu"), layers.Dense(1, dtype="float32")]
            return keras.Sequential([keras.Input((2,)), *inside])
        finally:
            keras.config.set_dtype_policy("float32")


def one_for_each_part():
    adam, sgd = keras.optimizers.Adam(0.02), keras.optimizers.SGD(0.1, 0.9)
    parts = keras.optimizers.OptimizerMap(sgd, {".*kernel": adam})
    return classifier(keras.optimizers.MultiOptimizer(parts))


CASES = {
    "arrays": Case(callbacks=lambda: [*plateau(), Epochs()]),
    "tf.data": Case(data=given(shuffled_dataset), settings={"validate_every": "7 steps"}),
    "tf.data of unknown length": Case(data=given(lambda: shuffled_dataset().filter(lambda x, y: len(y) > 0))),
    "generator of an epoch": Case(data=given(lambda: by_epoch), settings={"validate_every": 2}),
    "generator with global state": Case(data=given(lambda: with_global_state), callbacks=lambda: [Epochs()]),
    "PyDataset": Case(data=given(Shuffled), settings={"validate_every": "10 steps"}),
    "PyDataset of several threads": Case(
        data=given(lambda: Shuffled(workers=3, max_queue_size=4)), settings={"validate_every": "7 steps"}
    ),
    "every batch watched": Case(callbacks=lambda: [Batches(), keras.callbacks.LearningRateScheduler(schedule)]),
    "accumulated": Case(lambda: classifier(keras.optimizers.SGD(0.1, 0.9, gradient_accumulation_steps=3))),
    "averaged and clipped": Case(many_at_once),
    "scaled": Case(scaled, policy="mixed_float16"),
    "scaled by the task": Case(lambda: Half(TwoMoons.HParams(batch_size=16))),
    "bfloat16": Case(policy="mixed_bfloat16", settings={"validate_every": "3 steps", "patience": 9}),
    "random without a seed": Case(
        lambda: Unseeded(TwoMoons.HParams(batch_size=32)), data=dict, settings={"validate_every": "4 steps"}
    ),
    "limited": Case(
        data=given(shuffled_dataset),
        settings={"limit_batches": LimitBatches(train=7, validation=2), "validate_every": "5 steps", "patience": 20},
    ),
    "endless generator, limited": Case(
        data=given(lambda: endless),
        callbacks=lambda: [Epochs()],
        settings={"limit_batches": LimitBatches(train=7), "validate_every": "5 steps", "patience": 20},
    ),
    "endless PyDataset, limited": Case(
        data=given(Endless), settings={"limit_batches": LimitBatches(train=7), "patience": None}
    ),
    "endless tf.data, limited": Case(
        data=given(lambda: shuffled_dataset().repeat()),
        settings={"limit_batches": LimitBatches(train=7), "patience": None},
    ),
    "tf.data that ends inside an epoch, limited": Case(
        data=given(lambda: shuffled_dataset().filter(lambda x, y: len(y) > 0)),
        settings={"limit_batches": LimitBatches(train=5), "patience": None},
    ),
    "generator that ends inside an epoch, limited": Case(
        data=given(lambda: with_global_state), settings={"limit_batches": LimitBatches(train=5), "patience": None}
    ),
    "without validation": Case(data=lambda: {"train": TRAIN, "batch_size": 16}),
    "saved by steps": Case(settings={"checkpoints": Checkpoints(every_steps=4, keep=3), "validate_every": "6 steps"}),
}
# An engine runs the steps of these as those of another case; only where the batches come from, or when the run
# validates and saves, is different.
SAME_STEPS = ("PyDataset", "PyDataset of several threads")
# What is saved and restored of these is what it is for another case, or in another test: a stream or its end, variables
# of an optimizer.
REPEATED = (
    *("tf.data of unknown length", "endless PyDataset, limited", "generator that ends inside an epoch, limited"),
    *("accumulated", "scaled by the task", "bfloat16", "an optimizer for each part"),
    *("limited", "without validation", "every batch watched"),
    *("endless generator, limited", "endless tf.data, limited", "tf.data that ends inside an epoch, limited"),
    *("generator of an epoch", "saved by steps"),
)
if hasattr(keras.optimizers, "MultiOptimizer"):  # newer than the oldest Keras that is allowed
    CASES["an optimizer for each part"] = Case(one_for_each_part)
if keras.backend.backend() == "torch":  # the others do not need PyTorch
    CASES["DataLoader"] = Case(data=given(loader))


def fit(case, run_dir, **settings):
    """One call of `Runner.fit`, with everything new as in a new process. Returns its result and the callbacks."""
    keras.utils.set_random_seed(99)  # as in another process: a resumed run may not depend on it
    keras.config.set_dtype_policy(case.policy)
    try:
        task = case.task()
    finally:
        keras.config.set_dtype_policy("float32")
    callbacks = case.callbacks()
    resume = settings.pop("resume", True)
    given = (
        {"max_epochs": 4, "progress": False, "pictures": False, "preflight": False, "callbacks": callbacks}
        | case.settings
        | settings
    )
    result = Runner(run_dir=run_dir, **given).fit(task, **case.data(), resume=resume)
    return result, [_state_of(callback) for callback in callbacks]


def _state_of(callback):
    # Keras turns the sign of `min_delta` where less is better, once an epoch has ended.
    names = set(vars(callback)) - {"_model", "params", "monitor_op", "min_delta"}
    return {name: repr(vars(callback)[name]) for name in sorted(names)}


@dataclasses.dataclass(frozen=True)
class Whole:
    """The files of a run that never stopped."""

    end: harness.End
    history: str
    callbacks: list[dict[str, str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the files of a case that never stops; each case runs once."""
    found = {}

    def of(name):
        if name not in found:
            run_dir = tmp_path_factory.mktemp("whole") / "run"
            result, callbacks = fit(CASES[name], run_dir)
            found[name] = Whole(harness.end_of(run_dir), repr(result.history), callbacks)
        return found[name]

    return of


def assert_same_end(found, expected):
    assert found.arrays.keys() == expected.arrays.keys()
    wrong = [key for key, value in expected.arrays.items() if not np.array_equal(found.arrays[key], value, True)]
    assert wrong == []
    assert found.rows == expected.rows
    assert repr(found.points) == repr(expected.points)
    assert found.fit == expected.fit


# ---------------------------------------------------------------------- to the bit


def marks_of(name):
    return pytest.mark.long if name in REPEATED else pytest.mark.any_backend if name in SAME_STEPS else ()


@pytest.mark.parametrize("cuts", ["inside an epoch", pytest.param("three times", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in CASES])
def test_a_run_cut_anywhere_ends_as_one_that_never_stopped(name, cuts, whole, tmp_path):
    expected, rng = whole(name), random.Random(name)
    steps = expected.end.fit["steps"]
    per_epoch = steps // expected.end.fit["epochs"]
    inside = rng.randrange(2, per_epoch)
    at = {
        "inside an epoch": [rng.choice([0, per_epoch]) + inside],
        "three times": sorted({inside, per_epoch, rng.randrange(per_epoch + 1, steps)}),
    }
    for cut in at[cuts]:
        result, _ = fit(CASES[name], tmp_path / "run", max_steps=cut, steps_per_call=rng.choice([1, 2, 5, None]))
        assert (result.steps, result.stop_reason) == (cut, f"max_steps={cut} reached")
    result, callbacks = fit(CASES[name], tmp_path / "run", steps_per_call=rng.choice([1, 3, None]))
    assert_same_end(harness.end_of(tmp_path / "run"), expected.end)
    assert repr(result.history) == expected.history
    assert callbacks == expected.callbacks


@pytest.mark.any_backend
def test_the_cases_reach_the_states_that_they_are_for(whole):
    ends = {name: whole(name).end for name in ("arrays", "tf.data", "every batch watched", "scaled")}
    rate = {name: float(end.arrays["last/optimizer.0001"]) for name, end in ends.items()}
    assert ends["arrays"].fit["stop_reason"] == "EarlyStopping asked to stop"
    assert ends["arrays"].fit["epochs"] > 2
    assert rate["arrays"] in (pytest.approx(0.01), pytest.approx(0.005))  # halved once or twice, and stopped
    assert rate["every batch watched"] == pytest.approx(schedule(3, None))
    assert {row.split(",")[0] for row in ends["tf.data"].rows[1:]} == {"step", "epoch", "validation"}
    # The scale has grown, and the inner optimizer skipped a step that overflowed.
    assert float(ends["scaled"].arrays["last/optimizer.0003"]) > 2.0**10
    assert int(ends["scaled"].arrays["last/optimizer.0004"]) < ends["scaled"].fit["steps"]


# ---------------------------------------------------------------------- where a run resumes


@pytest.mark.any_backend
def test_a_finished_run_that_is_resumed_is_not_changed(whole, tmp_path):
    before, callbacks = fit(CASES["arrays"], tmp_path / "run")
    files = {path: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()}
    again, found = fit(CASES["arrays"], tmp_path / "run")
    assert dataclasses.replace(again, wall_s=before.wall_s) == before
    assert found == callbacks
    assert {path: path.read_bytes() for path in files} == files
    assert_same_end(harness.end_of(tmp_path / "run"), whole("arrays").end)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "name",
    [
        "averaged and clipped",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("generator of an epoch", "tf.data", "random without a seed")
        ),
    ],
)
def test_a_finished_run_with_more_epochs_becomes_the_longer_one(name, whole, tmp_path):
    for epochs in (1, 3):
        result, _ = fit(CASES[name], tmp_path / "run", max_epochs=epochs)
        assert (result.epochs, result.stop_reason) == (epochs, f"max_epochs={epochs} reached")
    fit(CASES[name], tmp_path / "run")
    assert_same_end(harness.end_of(tmp_path / "run"), whole(name).end)


@pytest.mark.any_backend
def test_the_last_weights_of_a_limit_are_validated_outside_of_the_runs_schedule(whole, tmp_path):
    case = CASES["generator of an epoch"]  # validates every second epoch
    result, _ = fit(case, tmp_path / "run", max_steps=14)
    csv = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[:3] for row in csv if not row.startswith("step")][1:] == [
        ["epoch", "1", "10"],
        ["validation", "2", "14"],
    ]
    assert (result.best.epoch, result.best.step) == (2, 14)
    folder = tmp_path / "run" / "checkpoints"
    last, best = (checkpoint.load(checkpoint.find(folder, name)) for name in ("last", "best"))
    assert (last.state["step"], last.state["best"], last.state["validations"]) == (14, None, 0)
    assert best.state["best"]["step"] == 14
    np.testing.assert_array_equal(best.arrays["model.0000"], last.arrays["model.0000"])
    fit(case, tmp_path / "run")
    assert_same_end(harness.end_of(tmp_path / "run"), whole("generator of an epoch").end)


@pytest.mark.any_backend
def test_a_run_resumes_from_the_checkpoint_that_was_given(whole, tmp_path):
    case, folder = CASES["saved by steps"], tmp_path / "run" / "checkpoints"
    fit(case, tmp_path / "run", max_steps=31)
    earlier = sorted(path for path in folder.glob("step-*") if checkpoint.numbers(path)[0] < 30)
    assert len(earlier) > 1
    before = checkpoint.load(earlier[-1]).state["step"]
    fit(case, None, max_steps=before + 1, resume=str(earlier[-1]))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [entry["step"] for entry in config["resumed"]] == [before]
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\nstep,") == before + 1
    fit(case, tmp_path / "run")
    assert_same_end(harness.end_of(tmp_path / "run"), whole("saved by steps").end)


@pytest.mark.any_backend
def test_a_run_that_was_never_saved_begins_again(whole, tmp_path):
    class Fails(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise RuntimeError("fails")

    with pytest.raises(RuntimeError, match="fails"):
        fit(CASES["without validation"], tmp_path / "run", callbacks=[Fails()], resume=False)
    assert (tmp_path / "run" / "metrics.csv").exists()
    with pytest.warns(UserWarning, match=r"runner.*callbacks was \['Fails'\] and is \[\]|callbacks was"):
        fit(CASES["without validation"], tmp_path / "run")
    assert_same_end(harness.end_of(tmp_path / "run"), whole("without validation").end)


@pytest.mark.any_backend
def test_a_run_without_time_for_a_step_saves_its_beginning(whole, tmp_path):
    result, _ = fit(CASES["without validation"], tmp_path / "run", max_time=1e-9)
    assert (result.steps, result.epochs, result.best) == (0, 0, None)
    assert result.stop_reason == "max_time=1e-09 s reached"
    fit(CASES["without validation"], tmp_path / "run")
    assert_same_end(harness.end_of(tmp_path / "run"), whole("without validation").end)


class Clock:
    """A clock that advances with batches only."""

    now = 0.0

    def __call__(self):
        return self.now


class Ticks(keras.callbacks.Callback):
    def __init__(self, clock):
        super().__init__()
        self._clock = weakref.ref(clock)

    def on_train_batch_end(self, batch, logs=None):
        self._clock().now += 1.0


@pytest.mark.any_backend
def test_the_time_limit_counts_anew_in_each_call(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(setup, "Fit", functools.partial(Fit, clock=clock))
    found = []
    for _ in range(3):
        result, _ = fit(CASES["without validation"], tmp_path / "run", max_time=4, callbacks=[Ticks(clock)])
        found.append((result.steps, result.stop_reason, result.wall_s))
    reason = "max_time=4 s reached"
    assert found == [(4, reason, 4.0), (8, reason, 4.0), (12, reason, 4.0)]


# ---------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    "steps_per_call", [4, *(pytest.param(steps, marks=pytest.mark.long) for steps in (1, 100, None))]
)
def test_validations_and_limits_come_at_their_steps_with_any_number_of_steps_a_call(steps_per_call, tmp_path):
    case = Case(settings={"validate_every": "7 steps", "patience": None, "steps_per_call": steps_per_call})
    result, _ = fit(case, tmp_path / "run", max_steps=33)
    rows = [row.split(",") for row in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]]
    assert [int(row[2]) for row in rows if row[0] == "step"] == list(range(1, 34))
    # The last one is of the weights at the limit.
    assert [int(row[2]) for row in rows if row[0] == "validation"] == [7, 14, 21, 28, 33]
    assert [int(row[2]) for row in rows if row[0] == "epoch"] == [10, 20, 30]
    assert [row[6:] for row in rows if row[0] == "epoch"] == [["", "", ""]] * 3  # no validation there
    assert (result.steps, result.epochs, result.stop_reason) == (33, 3, "max_steps=33 reached")


@pytest.mark.parametrize("steps_per_call", [1, None])
def test_patience_counts_validations_and_stops_inside_an_epoch(steps_per_call, tmp_path):
    def learns_nothing():
        task = classifier(keras.optimizers.SGD(1e-30))
        task._given.layers[1].trainable = False  # its moving means stand still
        return task

    case = Case(learns_nothing, settings={"validate_every": "3 steps", "patience": 4, "steps_per_call": steps_per_call})
    result, _ = fit(case, tmp_path / "run")
    # The first is the best; four later ones do not improve: steps 6, 9, 12 and 15.
    assert (result.steps, result.epochs, result.best.step) == (15, 1, 3)
    assert result.stop_reason == "val/loss got no better for 4 validations"


def test_limited_batches_are_the_first_of_each_epochs_order(tmp_path):
    case = Case(settings={"limit_batches": LimitBatches(train=3, validation=1), "patience": None})
    result, _ = fit(case, tmp_path / "run", max_epochs=2)
    assert (result.steps, result.epochs) == (6, 2)
    data = {"train": TRAIN, "validation": (VALIDATION[0][:16], VALIDATION[1][:16]), "batch_size": 16}
    cut = dataclasses.replace(case, data=lambda: data, settings={"patience": None})
    whole, _ = fit(cut, tmp_path / "whole", max_steps=3)
    # The first epoch's three steps are those of a longer epoch, and one batch is validated.
    limited = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert limited[1:4] == (tmp_path / "whole" / "metrics.csv").read_text().splitlines()[1:4]
    assert result.history["val/loss"][0] == whole.best.value


# ---------------------------------------------------------------------- changes that are refused


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("one_epoch") / "run"
    runner(run_dir, max_epochs=1).fit(TwoMoons())
    return run_dir


@pytest.fixture
def begun(one_epoch, tmp_path):
    return shutil.copytree(one_epoch, tmp_path / "run", symlinks=True)


def runner(run_dir, **settings):
    return Runner(**({"max_epochs": 2, "progress": False, "preflight": False, "run_dir": run_dir} | settings))


HP = TwoMoons.HParams
OTHER = two_moons(160, seed=9)


class Renamed(TwoMoons):
    pass


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("task", "settings", "data", "what"),
    [
        (lambda: TwoMoons(HP(learning_rate=0.05)), {}, {}, r"hparams\.learning_rate was 0\.01 and is 0\.05"),
        pytest.param(TwoMoons, {"seed": 4}, {}, "seed was 0 and is 4", marks=pytest.mark.long),
        pytest.param(
            *(TwoMoons, {"monitor": "val/accuracy"}, {}, "monitor.name was 'val/loss' and is 'val/accuracy'"),
            marks=pytest.mark.long,
        ),
        (TwoMoons, {}, {"train": OTHER, "validation": OTHER}, r"data\.train\.fingerprint was '\w+' and is '\w+'"),
        pytest.param(Renamed, {}, {}, "task was 'TwoMoons' and is 'Renamed'", marks=pytest.mark.long),
    ],
    ids=["hyperparameters", "seed", "monitor", "data", "task"],
)
def test_another_experiment_is_refused_and_nothing_is_changed_unless_it_is_accepted(begun, task, settings, data, what):
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    with pytest.raises(ChangedRunError, match=f"This is not the run that was started in this directory: .*{what}"):
        runner(begun, **settings).fit(task(), **data, resume=True)
    assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before
    with pytest.warns(UserWarning, match="Resuming with a change; the numbers may differ") as warned:
        result = runner(begun, **settings).fit(task(), **data, resume=True, accept_changes=True)
    assert any(re.search(what, str(warning.message)) for warning in warned)
    assert result.epochs == 2
    config = json.loads((begun / "config.json").read_text())
    assert any(re.search(what, line) for line in config["resumed"][0]["changed"])


def as_generator(split):
    return lambda: iter([(split[0][i : i + 16], split[1][i : i + 16]) for i in range(0, len(split[0]), 16)])


def as_dataset(split):
    return tf.data.Dataset.from_tensor_slices(split).batch(16)


class InOrder(keras.utils.PyDataset):
    """Batches of a split in its order."""

    def __init__(self, split):
        super().__init__()
        self.split = split

    def __len__(self):
        return len(self.split[0]) // 16

    def __getitem__(self, index):
        return tuple(part[16 * index : 16 * index + 16] for part in self.split)


SOURCES = {"arrays": lambda split: split, "generator": as_generator, "tf.data": as_dataset, "PyDataset": InOrder}
FLIPPED = (VALIDATION[0], 1 - VALIDATION[1])
HALVED = tuple(part[:25] for part in VALIDATION)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "source",
    ["tf.data", *(pytest.param(name, marks=pytest.mark.long) for name in ("arrays", "generator", "PyDataset"))],
)
def test_a_changed_split_is_refused_by_its_name(tmp_path, source):
    made, quick = SOURCES[source], {"export": False, "pictures": False, "preflight": True}
    given = {"train": TRAIN, "validation": VALIDATION}
    other = {"train": (TRAIN[0], 1 - TRAIN[1]), "validation": FLIPPED}

    def fit(changed=(), **settings):
        data = {name: made(other[name] if name in changed else given[name]) for name in given}
        return runner(tmp_path / "run", **quick, **settings).fit(classifier(), **data, resume=True)

    fit(max_epochs=1)
    for split in given:
        with pytest.raises(ChangedRunError, match=rf"data\.{split}\.fingerprint was '\w+' and is '\w+'"):
            fit([split])
    assert fit().epochs == 2


@pytest.mark.any_backend
def test_validation_data_that_are_fewer_new_or_gone_are_refused(tmp_path):
    def fit(name, validation, **settings):
        made = runner(tmp_path / name, export=False, pictures=False, monitor="train/loss", **settings)
        return made.fit(classifier(), TRAIN, validation, resume=True)

    fit("with", VALIDATION, max_epochs=1)
    with pytest.raises(ChangedRunError, match=r"data\.validation\.examples was 50 and is 25"):
        fit("with", HALVED)
    with pytest.raises(ChangedRunError, match=r"data\.validation\.examples was 50 and is 32"):
        fit("with", VALIDATION, limit_batches=LimitBatches(validation=1))
    with pytest.raises(ChangedRunError, match=r"data\.validation was \{.*\} and is None"):
        fit("with", None)
    fit("without", None, max_epochs=1)
    with pytest.raises(ChangedRunError, match=r"data\.validation was None and is"):
        fit("without", VALIDATION)


@pytest.mark.any_backend
def test_a_stream_that_is_shuffled_anew_in_each_process_resumes_with_a_warning(tmp_path):
    def batches():
        order = np.random.default_rng().permutation(150)
        return iter([(TRAIN[0][order[:75]], TRAIN[1][order[:75]])] * 2)

    made = {"export": False, "pictures": False, "preflight": True}
    runner(tmp_path / "run", max_epochs=1, **made).fit(classifier(), batches, VALIDATION)
    with pytest.warns(UserWarning, match=r"data\.train begins with another batch"):
        assert runner(tmp_path / "run", **made).fit(classifier(), batches, VALIDATION, resume=True).epochs == 2


@pytest.mark.any_backend
def test_a_run_without_the_record_of_a_split_resumes(tmp_path):
    runner(tmp_path / "run", max_epochs=1).fit(classifier(), TRAIN, VALIDATION)
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["data"]["validation"]
    path.write_text(json.dumps(config))
    assert runner(tmp_path / "run").fit(classifier(), TRAIN, HALVED, resume=True).epochs == 2
    assert json.loads(path.read_text())["data"]["validation"]["examples"] == 25


@pytest.mark.any_backend
def test_several_changes_are_named_at_once(begun):
    with pytest.raises(ChangedRunError, match=r"hparams\.hidden_units was 16 and is 8.*seed was 0 and is 1"):
        runner(begun, seed=1).fit(TwoMoons(HP(hidden_units=8)), resume=True)


def test_another_shape_of_the_state_is_refused_even_if_the_change_is_accepted(begun):
    with (
        pytest.warns(UserWarning, match="hidden_units was 16 and is 8"),
        pytest.raises(CheckpointError, match=r"shape \(2, 8\), the saved value \(2, 16\)"),
    ):
        runner(begun).fit(TwoMoons(HP(hidden_units=8)), resume=True, accept_changes=True)


@pytest.mark.any_backend
def test_a_change_that_may_change_the_numbers_is_warned_of(begun):
    with pytest.warns(UserWarning, match="validate_every was 1 and is '4 steps'"):
        runner(begun, validate_every="4 steps").fit(TwoMoons(), resume=True)


@pytest.mark.any_backend
def test_limits_may_change_without_a_warning(begun):
    result = runner(begun, max_steps=15, patience=7, steps_per_call=2).fit(TwoMoons(), resume=True)
    assert result.steps == 15


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("settings", "resume", "error", "message"),
    [
        ({}, True, ValueError, r"resume=True needs run_dir"),
        ({}, "nowhere", FileNotFoundError, r"nowhere holds no run: there is no config\.json"),
        ({"run_dir": "other"}, "run", ValueError, r"resume='.*run' is not in run_dir='.*other': give one of the two"),
        ({"run_dir": "run"}, False, FileExistsError, "already holds another run.*Resume it with resume=True"),
    ],
)
def test_a_resume_that_does_not_name_its_run_is_refused(begun, settings, resume, error, message):
    settings = {name: begun.parent / value for name, value in settings.items()}
    resume = str(begun.parent / resume) if isinstance(resume, str) else resume
    with pytest.raises(error, match=message):
        runner(settings.get("run_dir")).fit(TwoMoons(), resume=resume)
    assert not (begun.parent / "nowhere").exists()


HOLD = """
import sys
from pathlib import Path
from lightkeras.system.locks import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.any_backend
@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_that_another_process_uses_is_refused(begun, resume):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, begun / "run.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        files = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
        with pytest.raises(RunLockedError, match=rf"is in use by another run \(process {other.pid} on "):
            runner(begun).fit(TwoMoons(), resume=resume)
        assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == files
        other.communicate()
    assert runner(begun).fit(TwoMoons(), resume=True).epochs == 2


# ---------------------------------------------------------------------- damage


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def emptied(path):
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run stopped inside an epoch, whose checkpoints have a file of each kind."""
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    fit(DAMAGED, run_dir, max_steps=26)
    return run_dir


DAMAGED = dataclasses.replace(
    CASES["tf.data"],
    callbacks=lambda: [Arrays()],
    settings={"validate_every": 1, "checkpoints": Checkpoints(every_steps=6), "patience": None},
)


class Arrays(keras.callbacks.Callback):
    """Its state is an array."""

    def __init__(self):
        super().__init__()
        self.sums = np.zeros(2)

    def on_epoch_end(self, epoch, logs=None):
        self.sums = self.sums + [logs["loss"], logs["val_loss"]]


@pytest.mark.any_backend
@pytest.mark.parametrize("harm", [truncated, flipped, emptied, Path.unlink])
@pytest.mark.parametrize(
    "file", ["variables.safetensors", "state.json", "manifest.json", "feed.bin", "callbacks.safetensors"]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_chosen(file, harm, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    last = checkpoint.find(folder, "last")
    assert last.name == "step-00000026"
    harm(last / file)
    with pytest.warns(UserWarning, match=r"step-00000026 is damaged: .* Resuming from .*step-00000024\."):
        assert choose_checkpoint(RunDirectory(tmp_path / "run")).state["step"] == 24


@pytest.mark.any_backend
def test_a_run_resumed_from_an_earlier_checkpoint_ends_as_one_that_never_stopped(stopped, tmp_path):
    fit(DAMAGED, tmp_path / "whole")
    shutil.copytree(stopped, tmp_path / "run")
    flipped(checkpoint.find(tmp_path / "run" / "checkpoints", "last") / "variables.safetensors")
    with pytest.warns(UserWarning, match=r"step-00000026 is damaged.*Resuming from .*step-00000024\."):
        fit(DAMAGED, tmp_path / "run")
    assert_same_end(harness.end_of(tmp_path / "run"), harness.end_of(tmp_path / "whole"))


@pytest.mark.any_backend
def test_a_damaged_best_checkpoint_is_reported_and_the_run_resumes(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    best = checkpoint.load(checkpoint.find(folder, "last")).state["kept"]["best"]
    truncated(folder / best / "state.json")
    with pytest.warns(UserWarning, match=r"is damaged.*The best weights are lost.*Resuming from .*step-00000026"):
        result, _ = fit(DAMAGED, tmp_path / "run")
    assert result.best.epoch >= 3  # the best of the validations that came after
    assert best not in [path.name for path in folder.iterdir()]
    assert checkpoint.load(checkpoint.find(folder, "best")).state["step"] == result.best.step


@pytest.mark.any_backend
def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_kept(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("step-*"):
        flipped(path / "state.json")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=r"All checkpoints in .* are damaged: .*Start the run in another"):
        fit(DAMAGED, tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before
