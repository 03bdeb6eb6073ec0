"""Layers that are frozen and unfrozen during a run: noticed at the start of an epoch, on every backend."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from lightkeras import Runner
from lightkeras.runs import checkpoint
from lightkeras.system.variables import CheckpointError, read_variables
from lightkeras.task import SupervisedTask, Task
from lightkeras.training import freezing
from lightkeras.training.divergence import broken_step
from lightkeras.training.step_errors import TaskError

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype("float32")
Y = np.tanh(X @ RNG.normal(size=(4, 1))).astype("float32")
START = {name: RNG.normal(size=shape).astype("float32") for name, shape in {"base": (4, 3), "head": (3, 1)}.items()}


def two_layers(normalized=False):
    inside = [layers.BatchNormalization(name="norm")] if normalized else []
    first = layers.Dense(3, "tanh", use_bias=False, name="base")
    model = keras.Sequential([keras.Input((4,)), first, *inside, layers.Dense(1, use_bias=False, name="head")])
    for name, value in START.items():
        model.get_layer(name).kernel.assign(value)
    return model


class Stages(keras.callbacks.Callback):
    """Sets `trainable` of layers where an epoch begins, or ends."""

    def __init__(self, script, at="begin"):
        super().__init__()
        self._script, self._at = script, at

    def on_epoch_begin(self, epoch, logs=None):
        if self._at == "begin":
            self._set(epoch)

    def on_epoch_end(self, epoch, logs=None):
        if self._at == "end":
            self._set(epoch)

    def _set(self, epoch):
        for name, flag in self._script.get(epoch, {}).items():
            self.model.get_layer(name).trainable = flag


@dataclasses.dataclass
class Made:
    """How a task is made: a new one for each process that a run has."""

    optimizer: type = keras.optimizers.Adam
    frozen: tuple = ()
    normalized: bool = False
    settings: dict = dataclasses.field(default_factory=dict)

    def __call__(self):
        model = two_layers(self.normalized)
        for name in self.frozen:
            model.get_layer(name).trainable = False
        return SupervisedTask(model, loss="mse", optimizer=self.optimizer(0.05, **self.settings))


def fitted(run_dir, task, script, at="begin", *, resume=False, **settings):
    settings = {
        "max_epochs": 6,
        "patience": None,
        "progress": False,
        "pictures": False,
        "run_dir": run_dir,
        "export": False,
        "preflight": False,
    } | settings
    runner = Runner(callbacks=[Stages(script, at)], **settings)
    return runner.fit(task, (X, Y), (X[:5], Y[:5]), batch_size=4, resume=resume)


def values(task):
    return {key: array.copy() for key, array in read_variables(task.variables()).items()}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def by_keras(made, script, epochs=6, keep=True):
    """The losses of Keras's `fit`, recompiled by hand, with the optimizer kept or made anew."""
    model = two_layers(made.normalized)
    optimizer = made.optimizer(0.05, **made.settings)
    if keep:
        optimizer.build(model.trainable_variables)
    for name in made.frozen:
        model.get_layer(name).trainable = False
    losses = []
    for epoch in range(epochs):
        if epoch == 0 or epoch in script:
            for name, flag in script.get(epoch, {}).items():
                model.get_layer(name).trainable = flag
            model.compile(optimizer if keep else made.optimizer(0.05, **made.settings), "mse")
        found = model.fit(X, Y, 4, epochs=1, shuffle=False, verbose=0, validation_data=(X[:5], Y[:5]))
        losses.append((found.history["loss"][0], found.history["val_loss"][0]))
    return np.array(losses).T


def in_order(run_dir, task, script, **settings):
    """The same by a run, with the batches in Keras's order."""
    from lightkeras.data.feed import ArrayFeed

    runner = Runner(
        max_epochs=6,
        patience=None,
        progress=False,
        pictures=False,
        export=False,
        preflight=False,
        run_dir=run_dir,
        callbacks=[Stages(script)],
        **settings,
    )
    result = runner.fit(task, ArrayFeed((X, Y), 4), (X[:5], Y[:5]))
    return np.array([result.history["train/loss"], result.history["val/loss"]])


# ---------------------------------------------------------------------- what is learned


@pytest.mark.parametrize("steps_per_call", [pytest.param(1, marks=pytest.mark.long), 7])
def test_an_epoch_updates_what_is_trainable_when_it_begins(tmp_path, steps_per_call):
    task, seen = Made()(), {}

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen[epoch] = {name: ops.convert_to_numpy(self.model.get_layer(name).kernel).copy() for name in START}

    script = {1: {"base": False}, 3: {"base": True, "head": False}, 4: {"head": True}}
    runner = Runner(
        max_epochs=5, patience=None, progress=False, pictures=False, run_dir=tmp_path, steps_per_call=steps_per_call
    )
    runner = dataclasses.replace(runner, callbacks=[Stages(script), Watch()])
    runner.fit(task, (X, Y), batch_size=4)
    seen[-1] = START
    moved = {e: {n for n in START if not np.array_equal(seen[e][n], seen[e - 1][n])} for e in range(5)}
    assert moved == {0: {"base", "head"}, 1: {"head"}, 2: {"head"}, 3: {"base"}, 4: {"base", "head"}}


@pytest.mark.parametrize(
    "normalized", [pytest.param(False, marks=pytest.mark.long), True], ids=["dense", "with batch normalization"]
)
def test_losses_are_those_of_keras_fit_recompiled_by_hand(tmp_path, normalized):
    made = Made(keras.optimizers.SGD, normalized=normalized)
    script = {2: {"base": False} | ({"norm": False} if normalized else {}), 4: {"base": True}}
    expected = by_keras(made, script, keep=False)  # SGD has no slots: a new one gives the same steps
    np.testing.assert_allclose(in_order(tmp_path, made(), script), expected, rtol=1e-5)


@pytest.mark.backends("tensorflow", "torch", reason="Keras on JAX wants a gradient for all that its optimizer knows")
@pytest.mark.parametrize(
    "made",
    [
        pytest.param(Made(keras.optimizers.Adam), marks=pytest.mark.long),
        Made(keras.optimizers.SGD, settings={"momentum": 0.9}),
        Made(keras.optimizers.Adam, frozen=("base",)),
        pytest.param(
            Made(keras.optimizers.RMSprop, frozen=("base",), settings={"momentum": 0.5}), marks=pytest.mark.long
        ),
    ],
    ids=["adam", "momentum", "adam, frozen first", "rmsprop, frozen first"],
)
def test_momenta_are_those_of_keras_fit_with_an_optimizer_that_knew_all_from_the_start(tmp_path, made):
    script = {2: {"base": True}, 4: {"base": False}} if made.frozen else {2: {"base": False}, 4: {"base": True}}
    np.testing.assert_allclose(in_order(tmp_path, made(), script), by_keras(made, script), rtol=1e-5)


def test_adam_continues_with_its_moments_where_a_layer_is_unfrozen(tmp_path):
    # Worked out with NumPy, on every backend: the head keeps its moments, the base begins with moments of zero.
    found = in_order(tmp_path, Made(frozen=("base",))(), {2: {"base": True}})
    weights = {name: value.astype("float64") for name, value in START.items()}
    moments = {name: [np.zeros_like(value), np.zeros_like(value)] for name, value in weights.items()}
    losses, step = [], 0
    for epoch in range(6):
        total = 0.0
        for start in range(0, 12, 4):
            x, y = X[start : start + 4].astype("float64"), Y[start : start + 4]
            hidden = np.tanh(x @ weights["base"])
            error = hidden @ weights["head"] - y
            total += np.mean(error**2) / 3
            gradients = {"head": hidden.T @ error / 2}
            if epoch >= 2:
                gradients["base"] = x.T @ ((error @ weights["head"].T) * (1 - hidden**2)) / 2
            step += 1
            for name, gradient in gradients.items():
                first, second = moments[name]
                first += (gradient - first) * (1 - 0.9)
                second += (gradient**2 - second) * (1 - 0.999)
                rate = 0.05 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
                weights[name] -= rate * first / (np.sqrt(second) + 1e-7)
        losses.append(total)
    np.testing.assert_allclose(found[0], losses, rtol=1e-4)


def test_averages_of_an_unfrozen_layer_begin_at_its_weights_and_a_frozen_one_stays(tmp_path):
    made = Made(keras.optimizers.SGD, frozen=("base",), settings={"use_ema": True, "ema_momentum": 0.99})
    task = made()
    fitted(tmp_path, task, {2: {"base": True}})
    # 12 steps with an average of 0.99 move little: from zero they would not have come far.
    base = ops.convert_to_numpy(task.model.get_layer("base").kernel)
    np.testing.assert_allclose(base, START["base"], atol=0.1)
    task = Made(keras.optimizers.SGD, settings=made.settings)()
    kept = {}

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept[epoch] = ops.convert_to_numpy(self.model.get_layer("base").kernel).copy()

    runner = Runner(max_epochs=3, patience=None, progress=False, run_dir=tmp_path / "frozen")
    runner = dataclasses.replace(runner, callbacks=[Stages({1: {"base": False}}), Keep()])
    runner.fit(task, (X, Y), batch_size=4)
    np.testing.assert_array_equal(ops.convert_to_numpy(task.model.get_layer("base").kernel), kept[0])


# ---------------------------------------------------------------------- messages


@pytest.mark.any_backend
def test_a_change_is_printed_in_one_line_and_listed_as_a_cause_of_compilations(tmp_path, capsys):
    script = {1: {"base": True}, 2: {"head": False}}
    settings = {"max_epochs": 3, "progress": True, "profile": True, "preflight": True}
    fitted(tmp_path, Made(frozen=("base",))(), script, **settings)
    printed = [line for line in capsys.readouterr().err.splitlines() if "before epoch" in line]
    assert printed == [
        "model/base was unfrozen before epoch 2: 2 variables learn now; the steps are traced again.",
        "model/head was frozen before epoch 3: 1 variables learn now; the steps are traced again.",
    ]
    compiled = json.loads((tmp_path / "profile.json").read_text())["compilations"]
    causes = [found["cause"] for found in compiled if found["step"] == "train"]
    expected = ["the first batch", "model/base was unfrozen before epoch 2", "model/head was frozen before epoch 3"]
    assert causes == ([] if BACKEND == "torch" else expected)


def test_what_is_not_changed_is_not_compiled_again(tmp_path, capsys):
    script = {1: {"base": True}, 2: {"base": True}}
    fitted(tmp_path, Made()(), script, max_epochs=3, progress=True)
    assert "anew" not in capsys.readouterr().err


def test_a_single_variable_is_noticed_too(tmp_path, capsys):
    task = Made()()

    class One(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.get_layer("base").kernel.trainable = False

    runner = Runner(max_epochs=2, run_dir=tmp_path, callbacks=[One()])
    runner.fit(task, (X, Y), batch_size=4)
    path = task.model.get_layer("base").kernel.path
    assert f"{path} was frozen before epoch 2: 1 variables learn now" in capsys.readouterr().err


def test_a_run_with_nothing_left_to_learn_ends_with_an_error(tmp_path):
    with pytest.raises(TaskError, match="SupervisedTask has no trainable variables: every layer is frozen"):
        fitted(tmp_path, Made()(), {1: {"base": False, "head": False}})


@pytest.mark.any_backend
def test_layers_are_named_by_the_outermost_that_changed():
    class Two(Task):
        def build(self):
            inner = keras.Sequential([keras.Input((2,)), *(layers.Dense(2, name=f"d{i}") for i in range(5))], name="in")
            self.model = keras.Sequential([keras.Input((2,)), inner, layers.Dense(1, name="out")])
            self.optimizer = keras.optimizers.SGD(0.1)

    task = Two()
    task.set_up(0)
    before = freezing.flags_of(task)
    task.model.get_layer("in").trainable = False
    whole = freezing.flags_of(task)
    assert freezing.describe_change(task, before, whole) == "model/in was frozen"
    for layer in task.model.get_layer("in").layers:
        layer.trainable = True
    task.model.get_layer("out").trainable = False
    expected = "model/out was frozen and model/in/d0, model/in/d1, model/in/d2 and 2 more were unfrozen"
    assert freezing.describe_change(task, whole, freezing.flags_of(task)) == expected
    freezing.set_flags(task, before)
    assert freezing.flags_of(task) == before


# ---------------------------------------------------------------------- what is kept


MADE = Made(frozen=("base",))
SCRIPT = {1: {"base": True}, 2: {"head": False}, 3: {"head": True, "base": False}}  # of 3 steps each


@pytest.mark.parametrize(
    ("stop", "at"),
    [
        (4, "begin"),
        (8, "end"),
        *(pytest.param(stop, at, marks=pytest.mark.any_backend) for stop, at in [(3, "begin"), (3, "end")]),
        *(pytest.param(stop, "begin", marks=pytest.mark.long) for stop in (2, 9, 11)),
    ],
)
def test_a_run_that_was_frozen_in_between_resumes_to_the_bit(tmp_path, stop, at):
    whole, parts = MADE(), [MADE(), MADE()]
    expected = fitted(tmp_path / "whole", whole, SCRIPT, at, max_epochs=4)
    fitted(tmp_path / "parts", parts[0], SCRIPT, at, max_epochs=4, max_steps=stop)
    found = fitted(tmp_path / "parts", parts[1], SCRIPT, at, max_epochs=4, resume=True)
    assert_same(values(parts[1]), values(whole))
    assert found.history == expected.history
    assert (tmp_path / "parts/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


def test_the_best_model_is_exported_with_the_slots_and_flags_of_its_own_epoch(tmp_path):
    # The second epoch unfreezes, and its rate spoils the model: the first one is best.
    class Spoil(Stages):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch)
            self.model.optimizer.learning_rate = [0.01, 100.0][epoch]

    task = MADE()
    runner = Runner(max_epochs=2, progress=False, run_dir=tmp_path, callbacks=[Spoil({1: {"base": True}})])
    result = runner.fit(task, (X, Y), batch_size=4)
    assert result.best.epoch == 1
    model = keras.models.load_model(tmp_path / "model.keras")
    assert [variable.path for variable in model.trainable_variables] == ["head/kernel"]
    assert int(model.optimizer.iterations) == 3
    np.testing.assert_array_equal(ops.convert_to_numpy(model.get_layer("base").kernel), START["base"])
    # The task keeps its current flags.
    assert int(task.optimizer.iterations) == 6
    assert task.model.get_layer("base").trainable
    again = Runner(max_epochs=1, progress=False, preflight=False, run_dir=tmp_path / "again").fit(
        task, (X, Y), batch_size=4
    )
    assert again.steps == 3


def test_an_exported_model_has_its_optimizer_in_the_order_of_its_variables(tmp_path):
    task = MADE()
    fitted(tmp_path, task, {1: {"base": True}}, max_epochs=2, monitor="train/loss", export=True)
    model = keras.models.load_model(tmp_path / "model.keras")
    best = checkpoint.load(checkpoint.find(tmp_path / "checkpoints", "best"))
    expected = [best.arrays[f"optimizer.{number:04d}"] for number in range(len(model.optimizer.variables))]
    for variable, value in zip(model.optimizer.variables, expected, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


@pytest.mark.any_backend
def test_a_second_fit_learns_what_was_unfrozen_since_the_first(tmp_path):
    task = MADE()
    fitted(tmp_path / "first", task, {}, max_epochs=1)
    task.model.get_layer("base").trainable = True
    fitted(tmp_path / "second", task, {}, max_epochs=1)
    assert int(task.optimizer.iterations) == 6
    assert not np.array_equal(ops.convert_to_numpy(task.model.get_layer("base").kernel), START["base"])


def test_a_step_that_breaks_after_a_layer_was_unfrozen_is_found_and_replayed(tmp_path):
    class Breaking(Task):
        """Its loss is not finite in the 7th step."""

        def build(self):
            self.model = two_layers()
            self.model.get_layer("base").trainable = False
            self.optimizer = keras.optimizers.Adam(0.05)

        def loss(self, batch, training):
            x, y = batch
            found = ops.mean(ops.square(self.model(x, training=training) - y))
            return found / ops.cast(ops.not_equal(self.optimizer.iterations, 6), "float32")

        def evaluate_step(self, batch):
            return ops.mean(ops.square(self.model(batch[0], training=False) - batch[1]))

    result = fitted(tmp_path, Breaking(), {1: {"base": True}}, max_epochs=4)
    assert result.diverged
    assert "at step 7 (epoch 3, batch 1)" in result.stop_reason
    found = broken_step.replay(tmp_path, Breaking())
    assert found.equal, found.differences


def test_a_state_of_other_layers_is_refused():
    task = MADE()
    task.set_up(0)
    with pytest.raises(CheckpointError, match="it has flags for 1 layers with 1 variables, and the task"):
        freezing.set_flags(task, freezing.Flags((True,), (True,), ()))
    found = freezing.record(task, freezing.flags_of(task)) | {"optimizers": {"other": ["model.0000"]}}
    with pytest.raises(CheckpointError, match=r"its other learns model\.0000, which the task"):
        freezing.restore(task, found)
