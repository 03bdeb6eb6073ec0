"""Planted faults: the preflight names each in one message, and leaves no trace of having looked.

Each row of the table is a task, data or settings with one mistake in it. After the message every
variable (weights, optimizer, seeds, metrics) has the bits it had, and no file was written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from lightkeras import Runner, SupervisedTask
from lightkeras.task import Task
from lightkeras.testing import TwoMoons, two_moons

X, Y = two_moons(80)
VALIDATION = two_moons(40, seed=1)
CLASS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Fed(TwoMoons):
    """Two moons from whatever it is given, with all the state there is: noise, a metric, moving means."""

    def build(self) -> None:
        super().build()
        self.noise = layers.GaussianNoise(0.01, seed=3)
        self.norm = layers.BatchNormalization(center=False, scale=False)
        self.norm.build((None, 2))
        self.calls = keras.metrics.Sum("calls")

    def build_data(self) -> None:
        return None

    def points(self, batch: Any, training: bool) -> Any:
        self.calls.update_state(1.0)
        return self.norm(self.noise(batch[0], training=training), training=training)

    def loss(self, batch: Any, training: bool) -> Any:
        return super().loss((self.points(batch, training), batch[1]), training)


def supervised(units: int = 2, **arguments: Any) -> Callable[[], Task]:
    def make() -> Task:
        model = keras.Sequential([keras.Input((2,)), layers.Dense(4, "tanh"), layers.Dense(units)])
        return SupervisedTask(model, **{"loss": CLASS} | arguments)

    return make


# ---------------------------------------------------------------------- tasks with a mistake


class LossOfRows(Fed):
    def loss(self, batch, training):
        return ops.square(self.model(batch[0])[:, 0])


class LossIsNoNumber(Fed):
    def loss(self, batch, training):
        return super().loss(batch, training) * (math.nan if training else 1.0)


class LossApart(Fed):
    def loss(self, batch, training):
        return ops.mean(batch[0])


class ModelForgotten(Fed):
    def build(self):
        super().build()
        self.encoder = keras.Sequential([keras.Input((2,)), layers.Dense(3, name="unused")])


class LayerForgotten(Fed):
    def build(self):
        super().build()
        self.head = layers.Dense(1)
        self.head.build((None, 4))


class Rate(Fed):
    rate = 0.0

    def build_optimizer(self):
        return keras.optimizers.SGD(self.rate)


class RateIsNoNumber(Rate):
    rate = math.nan


class RateNegative(Rate):
    rate = -0.1


class Frozen(Fed):
    def build(self):
        super().build()
        self.model.trainable = False


class Watching(Fed):
    def train_step(self, batch):
        return self.loss(batch, training=True)


class Cheating(Fed):
    def evaluate_step(self, batch):
        return self.train_step(batch)


class NamesBySize(Fed):
    def loss(self, batch, training):
        if batch[0].shape[0] == 80 % 32:
            self.log("last", 1.0)
        return super().loss(batch, training)


class Twice(Fed):
    def build(self):
        super().build()
        self.accuracy = keras.metrics.Mean("accuracy")

    def loss(self, batch, training):
        self.accuracy.update_state(1.0)
        return super().loss(batch, training)


class LayerInStep(Fed):
    def loss(self, batch, training):
        return super().loss((layers.Dense(2)(batch[0]), batch[1]), training)


class Late(Fed):
    """Makes a metric when the step is compiled or first run, after it was traced."""

    steps = 0
    # TensorFlow traces it once, and once more when it is compiled; that, again, without what was made in it.
    makes_in, steps_until_refused = (2, 3) if keras.backend.backend() == "tensorflow" else (3, 3)

    def train_step(self, batch):
        self.steps += 1
        if self.steps % self.steps_until_refused == self.makes_in % self.steps_until_refused:
            self.late = keras.metrics.Mean("late")
        return super().train_step(batch)


class Opaque(keras.Model):
    """A model that does not say what it takes."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = layers.Dense(4, "tanh"), layers.Dense(1)
        self.build((None, 2))

    def build(self, shape):
        self.hidden.build((None, 2))
        self.out.build((None, 4))
        self.built = True

    def call(self, points):
        return self.out(self.hidden(points))


class SaysNothing(Fed):
    def build_model(self):
        return Opaque()

    def points(self, batch, training):
        return batch[0]


class GradientBreaks(Fed):
    """The root of a sum that is zero: the loss is, the gradient is not."""

    def loss(self, batch, training):
        zero = ops.sqrt(ops.sum(ops.square(0.0 * self.model(batch[0]))))
        return super().loss(batch, training) + zero


class NoGradient(Fed):
    def loss(self, batch, training):
        logit = self.model(batch[0])
        return ops.mean(ops.where(logit > 1e9, logit, 1.0))


class Dead(Fed):
    def build_model(self):
        never = keras.initializers.Constant(-1000.0)
        hidden = layers.Dense(4, "relu", bias_initializer=never, name="asleep")
        return keras.Sequential([layers.Input((2,)), hidden, layers.Dense(1)])


class OptimizerElsewhere(Fed):
    def train_step(self, batch):
        return self.minimize(lambda: self.loss(batch, training=True), optimizer=ELSEWHERE)


ELSEWHERE = keras.optimizers.SGD(0.1, name="elsewhere")


class VariablesElsewhere(Fed):
    def loss(self, batch, training):
        return super().loss(batch, training) + APART.value**2

    def train_step(self, batch):
        return self.minimize(lambda: self.loss(batch, training=True), [*self.trainable_variables(), APART])


APART = keras.Variable(1.0, name="apart")


class CounterElsewhere(Fed):
    def loss(self, batch, training):
        COUNTER.assign_add(1.0)
        return super().loss(batch, training)


COUNTER = keras.Variable(0.0, trainable=False, name="counter")


class LastOfOne(Fed):
    """A deviation within the batch, which a batch of one has none of."""

    def loss(self, batch, training):
        count = ops.cast(ops.shape(batch[0])[0], "float32")
        spread = ops.sum(ops.square(batch[0] - ops.mean(batch[0], axis=0))) / (count - 1.0)
        return super().loss(batch, training) + spread


class EvaluationIsInfinite(Fed):
    def evaluate_step(self, batch):
        return self.loss(batch, training=False) / 0.0


class ScoreIsNoNumber(Fed):
    def evaluate_step(self, batch):
        self.log("score", math.nan)
        return self.loss(batch, training=False)


class RowsLogged(Fed):
    def loss(self, batch, training):
        self.log("rows", batch[0][:, 0])
        return super().loss(batch, training)


class Unsaved(Fed):
    """Text in a variable, which safetensors has no name for."""

    def build(self):
        super().build()
        self.holder = layers.Layer(name="holder")
        self.holder.words = keras.Variable(["a", "b", "c"], dtype="string", trainable=False, name="words")


# ---------------------------------------------------------------------- data with a mistake


def with_one(value: float, data: tuple[np.ndarray, np.ndarray] = (X, Y)) -> tuple[np.ndarray, np.ndarray]:
    points = data[0].copy()
    points[17, 1] = value
    return points, data[1]


def stream(data: tuple[np.ndarray, np.ndarray] = (X, Y)) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(data).batch(32)


NO_ROOM = 32 * 1024
"""Size of a file system that the state of a wide model does not fit into."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """A planted mistake.

    Args:
        name: What is wrong.
        message: Pattern of the message.
        task: Makes the task.
        train: Train data.
        validation: Validation data.
        settings: Of the runner.
        place: Name of the run directory in the test's folder, or a whole path.
        warned: Whether it is warned of, and not refused.
    """

    name: str
    message: str
    task: Callable[[], Task] = Fed
    train: Any = (X, Y)
    validation: Any = VALIDATION
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    place: str = "run"
    warned: bool = False


FAULTS = [
    # names
    Fault(
        "monitor misspelled",
        r"monitor='val/acuracy': .* Did you mean 'val/accuracy'",
        settings={"monitor": "val/acuracy"},
    ),
    Fault(
        "monitor of a callback misspelled",
        r"EarlyStopping\(monitor='val_los'\): .* Did you mean 'val_loss'",
        settings={"callbacks": [keras.callbacks.EarlyStopping("val_los")]},
    ),
    Fault("a metric and a log of one name", "Twice logs accuracy more than once", Twice),
    Fault("a log by the size of the batch", r"same names in every run.* new: \['last'\]", NamesBySize),
    Fault(
        "a log that is not a scalar",
        r"log\('rows'\): the value has shape \((None|\d+),\); expected a scalar",
        RowsLogged,
    ),
    # losses and gradients
    Fault("a loss that is not a scalar", r"the loss has shape \((None|\d+),\); expected a scalar", LossOfRows),
    Fault("a loss that is not a number", r"train_step: loss is nan on the first batch", LossIsNoNumber),
    Fault("a loss without the model", r"depends on none of the variables .*dense", LossApart),
    Fault("a model that the loss forgot", r"does not depend on the variables of self.encoder", ModelForgotten),
    Fault("a layer that the loss forgot", r"does not depend on the variables of self.head", LayerForgotten),
    Fault(
        "a gradient that is not finite", r"gradient with respect to .*kernel.* is not finite, though", GradientBreaks
    ),
    Fault("no gradient at all", r"every gradient is exactly zero, so nothing would be learned", NoGradient),
    Fault("dead variables", r"3 of 4 variables got a gradient of exactly zero.*: .*asleep/kernel", Dead, warned=True),
    Fault("a last batch of one", r"train_step: loss is nan on the last batch", LastOfOne, (X[:65], Y[:65])),
    Fault("a validation loss that is infinite", r"evaluate_step: loss is inf on the first batch", EvaluationIsInfinite),
    Fault("a validation value that is not a number", r"score is nan on the first batch", ScoreIsNoNumber, warned=True),
    # what learns
    Fault("a learning rate of zero", r"changed none of its variables .* rate is 0\. Raise", Rate),
    Fault("a learning rate that is not a number", r"has a learning rate of nan; expected a finite", RateIsNoNumber),
    Fault("a negative learning rate", r"has a learning rate of -0\.1", RateNegative),
    Fault("a frozen model", r"Frozen has no trainable variables", Frozen),
    Fault("a step that never minimizes", r"never calls self.minimize", Watching),
    Fault("an evaluation that learns", r"Cheating.evaluate_step calls self.minimize", Cheating),
    Fault("an optimizer of nobody", r"the optimizer 'elsewhere', which no attribute of the task", OptimizerElsewhere),
    Fault("variables of nobody", r"variables of no attribute of the task \(apart\)", VariablesElsewhere),
    Fault(
        "a counter of nobody",
        r"changes variables of no attribute of the task \(.*counter",
        CounterElsewhere,
        warned=True,
    ),
    Fault("a layer made in the step", r"The step creates new variables in each run", LayerInStep),
    Fault("a metric made later", r"changed the set of variables: added .*late\.0000\)", Late),
    # labels
    Fault("a class that there is not", r"labels of train hold 2; .* 0 to 1", supervised(), (X, Y + 1)),
    Fault("one-hot labels", r"the class. Use categorical", supervised(), (X, np.eye(2)[Y]), None),
    Fault(
        "classes for a loss of one-hot labels",
        r"a number for each of the model's 2 outputs. Use sparse",
        supervised(loss="categorical_crossentropy"),
    ),
    Fault("labels that are text", r"labels of train are text", supervised(), (X, np.array(["a", "b"] * 40)), None),
    # inputs
    Fault(
        "an input that is not a number", r"Array 0 of train holds 1 of 160 .* example 17: nan", Fed, with_one(math.nan)
    ),
    Fault(
        "an infinite input of validation",
        r"Array 0 of validation holds 1 of 80 .* example 17: -inf",
        validation=with_one(-math.inf, VALIDATION),
    ),
    Fault(
        "inputs of another shape",
        r"takes float32\[batch, 2\], but the batch has float32\[batch, 3\]",
        supervised(),
        (np.ones((80, 3)), Y),
        None,
    ),
    Fault(
        "inputs that are text",
        r"takes float32\[batch, 2\], but the batch has string",
        supervised(),
        (np.array([["a", "b"]] * 80), Y),
        None,
    ),
    Fault(
        "validation of another shape",
        r"array 0 of validation is float32\[batch, 3\], but float32\[batch, 2\] in train",
        SaysNothing,
        validation=(np.ones((40, 3)), VALIDATION[1]),
    ),
    Fault(
        "validation of another preparation",
        r"Input 0 of validation is uint8\[batch, 2\], but float32",
        SaysNothing,
        validation=(np.ones((40, 2), "uint8"), VALIDATION[1]),
        warned=True,
    ),
    Fault("a train split of no batch", r"train split is empty", train=stream().filter(lambda x, y: False)),
    Fault(
        "a validation split of no batch", r"validation split is empty", validation=stream().filter(lambda x, y: False)
    ),
    Fault(
        "validation on what is learned",
        r"40 of 40 examples .* are in train too",
        validation=(X[40:], Y[40:]),
        warned=True,
    ),
    Fault(
        "one stream for both",
        r"Train and validation are the same stream",
        train=(one := stream()),
        validation=one,
        warned=True,
    ),
    # the run directory
    Fault("a run directory below a file", r"file/run cannot be created: .*file is a file", place="file/run"),
    Fault("a run directory that cannot be written", r"could not write /proc/", place="/proc/runs/a"),
    Fault(
        "a run directory without room",
        r"0\.0 MB of disk are free, but the run needs about 0\.\d MB",
        place="small/run",
        task=lambda: Fed(Fed.HParams(hidden_units=1000)),
    ),
    Fault("a run directory of another run", r"already holds another run", place="taken"),
]
if keras.backend.backend() == "tensorflow":  # the others have no variables of text
    FAULTS.append(
        Fault(
            "a variable that no checkpoint holds",
            r"a checkpoint cannot hold the variable words \(holder\.0000\), string\[3\]",
            Unsaved,
        )
    )


def values(task: Task) -> dict[str, bytes]:
    """A digest of each variable of the run state, by key."""
    found = {}
    for key, variable in task.variables().items():
        array = np.array(ops.convert_to_numpy(ops.copy(variable)))
        found[key] = hashlib.blake2b(f"{array.dtype}{array.shape}".encode() + array.tobytes()).digest()
    return found


def ready(task: Task) -> Task:
    """Set up, with models and optimizers built, so that every variable is there before."""
    task.set_up(0)
    if not task.model.built:
        task.model.build((None, 2))
    task.optimizer.build(task.trainable_variables())
    return task


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def named(request: pytest.FixtureRequest) -> Iterator[set[str]]:
    """Faults that were named; their number is printed at the end."""
    found: set[str] = set()
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\npreflight names {len(found)} of {len(FAULTS)}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder with a file, with another run, and for what needs it a file system of a few pages."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text("{}")
    (tmp_path / "small").mkdir()
    fault = request.node.callspec.params["fault"]
    if fault.place.startswith("/proc") and not Path("/proc/self").is_dir():
        pytest.skip("there is no /proc, where not even root may write")
    if fault.place != "small/run":
        yield tmp_path
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={NO_ROOM}", "tmpfs", tmp_path / "small"], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)


@pytest.mark.filterwarnings("ignore:.*outside its declared range")  # a model that is too large for the disk
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_named_and_nothing_is_changed(fault: Fault, place: Path, named: set[str]) -> None:
    task = ready(fault.task())
    before, there = values(task), files(place)
    runner = Runner(**{"max_epochs": 1, "progress": False, "run_dir": place / fault.place} | fault.settings)
    expected = pytest.warns if fault.warned else pytest.raises
    kind = UserWarning if fault.warned else (ValueError, OSError)
    with expected(kind, match=fault.message):
        # A run that is only warned of would train.
        (runner.check if fault.warned else runner.fit)(task, fault.train, fault.validation)
    after = values(task)
    assert {key: after.get(key) for key in before} == before
    assert files(place) == there
    named.add(fault.name)


def test_there_are_many_faults_and_each_has_its_own_message() -> None:
    assert len(FAULTS) >= 20
    assert len({fault.name for fault in FAULTS}) == len({fault.message for fault in FAULTS}) == len(FAULTS)


# ---------------------------------------------------------------------- no mistake


class Adversaries(Task):
    """Two models, two optimizers, two updates in a step."""

    def build(self) -> None:
        self.maker = keras.Sequential([keras.Input((2,)), layers.Dense(4, "tanh"), layers.Dense(2)])
        self.judge = keras.Sequential(
            [keras.Input((2,)), layers.Dense(4, "tanh"), layers.Dropout(0.3), layers.Dense(1)]
        )
        self.optimizers = {"maker": keras.optimizers.Adam(0.01), "judge": keras.optimizers.SGD(0.1)}

    def evaluate_step(self, batch: Any) -> Any:
        return ops.mean(ops.square(self.maker(batch[0])))

    def train_step(self, batch: Any) -> None:
        noise = keras.random.normal(ops.shape(batch[0]))  # from Keras's own generator

        def judged() -> Any:
            wrong, right = self.judge(self.maker(noise), training=True), self.judge(batch[0], training=True)
            return ops.mean(ops.softplus(wrong) + ops.softplus(-right))

        judge, maker = self.optimizers["judge"], self.optimizers["maker"]
        self.log("judge", self.minimize(judged, self.judge.trainable_variables, judge))
        self.log("maker", self.minimize(lambda: -judged(), self.maker.trainable_variables, maker))


class Words(Fed):
    def build_model(self) -> keras.Model:
        return keras.Sequential(
            [keras.Input((2,)), layers.Embedding(9, 3, name="rows"), layers.Flatten(), layers.Dense(1)]
        )

    def points(self, batch: Any, training: bool) -> Any:
        return ops.cast(ops.abs(batch[0]) * 2, "int32")


def optimized(optimizer: Callable[[], Any]) -> Callable[[], Task]:
    class Optimized(Fed):
        def build_optimizer(self) -> Any:
            return optimizer()

    return Optimized


def drawn() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches that draw from the global generators."""
    for start in range(0, 80, 32):
        shift = np.float32(np.random.normal() * 0.01 + random.random() * 0.01)
        yield X[start : start + 32] + shift, Y[start : start + 32]


WARM_UP = keras.optimizers.schedules.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=5)
SOUND: dict[str, tuple[Callable[[], Task], Any]] = {
    "noise, moving means and a metric": (Fed, (X, Y)),
    "a supervised task": (supervised(metrics=["accuracy"]), (X, Y)),
    "two models and optimizers": (Adversaries, (X, Y)),
    "an embedding": (Words, (X, Y)),
    "a scaled loss": (optimized(lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())), (X, Y)),
    "gathered gradients": (optimized(lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=4)), (X, Y)),
    "a warm-up from zero": (optimized(lambda: keras.optimizers.SGD(WARM_UP)), (X, Y)),
    "a shuffled tf.data": (Fed, stream().unbatch().shuffle(80, seed=2).batch(32)),
    "a generator": (Fed, drawn),
}


REPEATED = ("a supervised task", "an embedding", "a warm-up from zero", "a scaled loss")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.long) if kind in REPEATED else kind for kind in SOUND]
)
def test_a_preflight_that_finds_nothing_leaves_every_bit_and_no_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, data = SOUND[kind]
    found = []
    for preflight in (False, True):
        keras.utils.set_random_seed(0)
        task = make()
        Runner(preflight=preflight).check(task, data, VALIDATION)  # without, it builds the models and runs nothing
        found.append((values(task), random.getstate(), np.random.get_state()[1].tolist()))
    assert found[1] == found[0]
    assert len(found[0][0]) > 4
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "kind",
    [
        "noise, moving means and a metric",
        pytest.param("two models and optimizers", marks=pytest.mark.long),
        "a generator",
    ],
)
def test_a_run_is_the_same_to_the_bit_with_and_without_preflight(kind: str, tmp_path: Path) -> None:
    make, data = SOUND[kind]
    found = []
    for preflight in (True, False):
        task = make()
        settings = {"run_dir": tmp_path / str(preflight), "progress": False, "max_epochs": 2}
        result = Runner(**settings, preflight=preflight, pictures=False, export=False).fit(task, data, VALIDATION)
        found.append((values(task), result.history))
    assert found[0] == found[1]


def test_without_preflight_nothing_is_run_and_what_costs_no_time_is_still_checked(tmp_path: Path) -> None:
    off = {"preflight": False, "progress": False, "max_epochs": 1}
    still = [fault for fault in FAULTS if fault.name in STILL]
    assert len(still) == len(STILL)
    for fault in still:
        with pytest.raises((ValueError, OSError), match=fault.message):
            Runner(**off | fault.settings).check(ready(fault.task()), fault.train, fault.validation)
    for fault in (fault for fault in FAULTS if fault.name in PASSED_OVER):
        Runner(**off | fault.settings).check(ready(fault.task()), fault.train, fault.validation)


STILL = {
    "monitor misspelled",
    "monitor of a callback misspelled",
    "a metric and a log of one name",
    "a log that is not a scalar",
    "a loss that is not a scalar",
    "a loss without the model",
    "a model that the loss forgot",
    "a frozen model",
    "a step that never minimizes",
    "an evaluation that learns",
    "an optimizer of nobody",
    "variables of nobody",
    "a layer made in the step",
    "a class that there is not",
    "inputs of another shape",
    "validation of another shape",
}
PASSED_OVER = {
    "a log by the size of the batch",
    "a loss that is not a number",
    "a gradient that is not finite",
    "no gradient at all",
    "dead variables",
    "a learning rate of zero",
    "a learning rate that is not a number",
    "a variable that no checkpoint holds",
    "an input that is not a number",
    "validation on what is learned",
    "one stream for both",
    "a train split of no batch",
}
