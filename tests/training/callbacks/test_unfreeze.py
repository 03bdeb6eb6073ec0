"""Parts of a model that begin to learn in later epochs, each with its own learning rate."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers, ops

import lightkeras as lk
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine.optimizer_state import rate_of
from lightkeras.system.variables import read_variables

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype("float32")
Y = np.tanh(X @ RNG.normal(size=(4, 1))).astype("float32")
START = {name: RNG.normal(size=shape).astype("float32") for name, shape in {"base": (4, 3), "head": (3, 1)}.items()}
OPTIMIZERS = {
    "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "adamw": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.1),
}


def task_of(optimizer):
    first = layers.Dense(3, "tanh", use_bias=False, name="base")
    model = keras.Sequential([keras.Input((4,)), first, layers.Dense(1, use_bias=False, name="head")])
    for name, value in START.items():
        model.get_layer(name).kernel.assign(value)
    return lk.SupervisedTask(model, loss="mse", optimizer=optimizer)


def fitted(run_dir, callback, optimizer="momentum", resume=False, **settings):
    task = task_of(OPTIMIZERS[optimizer](0.05))
    given = {"max_epochs": 5, "patience": None, "progress": False, "pictures": False, "export": False} | settings
    runner = lk.Runner(callbacks=[callback], run_dir=run_dir, **given)
    result = runner.fit(task, ArrayFeed((X, Y), 4), (X[:5], Y[:5]), resume=resume)
    return task, result


def by_hand(optimizer, after, rates, epochs=5):
    """The weights of a loop with an optimizer for each part, and the gradients of NumPy."""
    weights = {name: keras.Variable(value, name=name) for name, value in START.items()}
    parts = {name: OPTIMIZERS[optimizer](0.05 * rates.get(name, 1.0)) for name in weights}
    for name, part in parts.items():
        part.build([weights[name]])
    for step in range(3 * epochs):
        rows = slice(step % 3 * 4, step % 3 * 4 + 4)
        base, head = (ops.convert_to_numpy(weights[name]) for name in START)
        hidden = np.tanh(X[rows] @ base)
        error = hidden @ head - Y[rows]
        gradients = {"head": hidden.T @ error / 2, "base": X[rows].T @ ((error @ head.T) * (1 - hidden**2)) / 2}
        for name, part in parts.items():
            if step // 3 >= after.get(name, 0):
                part.iterations.assign(step)  # one count for all, as of one optimizer
                part.apply([ops.convert_to_tensor(gradients[name])], [weights[name]])
    return {name: ops.convert_to_numpy(value) for name, value in weights.items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("preflight", [True, pytest.param(False, marks=pytest.mark.long)])
def test_each_part_learns_as_with_an_optimizer_of_its_own(tmp_path, optimizer, preflight):
    after, rates = {"base": 2, "head": 0}, {"base": 0.1, "head": 2.0}
    task, _ = fitted(tmp_path / "run", lk.callbacks.Unfreeze(after, rates), optimizer, preflight=preflight)
    for name, expected in by_hand(optimizer, after, rates).items():
        found = ops.convert_to_numpy(task.model.get_layer(name).kernel)
        np.testing.assert_allclose(found, expected, rtol=2e-5, err_msg=name)


def test_rates_without_freezing_hold_from_the_first_step(tmp_path):
    rates = {"base": 0.1}
    task, _ = fitted(tmp_path / "run", lk.callbacks.Unfreeze({"base": 0}, rates), "adamw", max_epochs=1)
    expected = by_hand("adamw", {}, rates, epochs=1)
    np.testing.assert_allclose(ops.convert_to_numpy(task.model.get_layer("base").kernel), expected["base"], rtol=2e-5)


def test_the_next_fit_has_rates_of_its_own(tmp_path):
    task, _ = fitted(tmp_path / "run", made())
    assert rate_of(task.model.get_layer("base").kernel) == 0.1
    lk.Runner(max_epochs=1, progress=False, pictures=False, run_dir=tmp_path / "next").fit(task, (X, Y))
    assert rate_of(task.model.get_layer("base").kernel) == 1.0


def made():
    return lk.callbacks.Unfreeze({"base": 2}, {"base": 0.1})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    task, result = fitted(tmp_path_factory.mktemp("whole") / "run", made(), "adamw")
    return read_variables(task.variables()), result.history


@pytest.mark.parametrize("step", [4, 6, 8, *(pytest.param(at, marks=pytest.mark.long) for at in (1, 3, 5, 7, 9, 12))])
def test_a_run_that_is_resumed_ends_as_one_that_never_stopped(tmp_path, whole, step):
    """Before the part learns (epoch 3 begins with step 7), where it begins, and after it; inside an epoch too."""
    fitted(tmp_path / "run", made(), "adamw", max_steps=step)
    task, result = fitted(tmp_path / "run", made(), "adamw", resume=True)
    found = read_variables(task.variables())
    assert {key for key, value in whole[0].items() if not np.array_equal(found[key], value)} == set()
    assert result.history == whole[1]


def nested():
    inner = [layers.Dense(2, name="low"), layers.BatchNormalization(name="norm"), layers.Dense(2, name="high")]
    base = keras.Sequential([keras.Input((4,)), *inner], name="base")
    model = keras.Sequential([keras.Input((4,)), base, layers.Dense(1, name="head")])
    model.compile("sgd", "mse")
    return model, {layer.name: layer for layer in [*inner, base, model.get_layer("head")]}


def test_an_inner_layer_has_its_own_epoch_and_rate_whatever_the_order():
    model, found = nested()
    callback = lk.callbacks.Unfreeze(
        {"*/norm": None, "base/high": 1, "base/low": 2, "base": 3}, {"base": 0.5, "base/low": 0.1}
    )
    callback.set_model(model)
    callback.on_train_begin()
    learning = []
    for epoch in range(4):
        callback.on_epoch_begin(epoch)
        learning.append({name for name in ("low", "norm", "high", "head") if found[name].trainable})
    assert learning == [{"head"}, {"head", "high"}, {"head", "high", "low"}, {"head", "high", "low"}]
    assert [rate_of(found[name].weights[0]) for name in ("low", "norm", "high", "head")] == [0.1, 1.0, 1.0, 1.0]


def test_a_part_that_learns_from_the_start_may_be_inside_a_frozen_one():
    model, found = nested()
    callback = lk.callbacks.Unfreeze({"base/high": 0, "base": 3})
    callback.set_model(model)
    callback.on_train_begin()
    assert [found[name].trainable for name in ("low", "high")] == [False, True]
    assert [v.path for v in model.trainable_variables] == [
        v.path for name in ("high", "head") for v in found[name].weights
    ]


@pytest.mark.parametrize(
    ("after", "rates", "message"),
    [
        ({}, None, r"expected at least one layer"),
        ({"base": -1}, None, r"Unfreeze\(after\['base'\]=-1\): expected a whole number of at least 0, or None"),
        ({"base": 1}, {"bas": 0.1}, r"rates=\{'bas': \.\.\.\}\): no such part in `after`. Did you mean 'base'\?"),
        ({"base": 1}, {"base": 0.0}, r"rates=\{'base': 0.0\}\): expected a number above 0"),
        ({"base": 1}, {"base": float("nan")}, r"expected a number above 0"),
    ],
)
def test_numbers_and_names_are_checked(after, rates, message):
    with pytest.raises(ValueError, match=message):
        lk.callbacks.Unfreeze(after, rates)


def test_what_the_model_does_not_have_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"the model has no such layer. Did you mean 'base'\?"):
        fitted(tmp_path / "run", lk.callbacks.Unfreeze({"bases": 1}))
    task = task_of(keras.optimizers.SGD(0.1, use_ema=True))
    runner = lk.Runner(callbacks=[made()], run_dir=tmp_path / "run", max_epochs=1)
    with pytest.raises(ValueError, match="use_ema=True: its averages would be those of weights with other rates"):
        runner.fit(task, (X, Y))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="use_ema"):
        dataclasses.replace(runner, preflight=False).fit(task, (X, Y))


def test_a_constraint_holds_after_a_change_with_a_rate(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, name="head", kernel_constraint="unit_norm")])
    task = lk.SupervisedTask(model, loss="mse", optimizer=keras.optimizers.SGD(0.1))
    callback = lk.callbacks.Unfreeze({"head": 0}, {"head": 0.5})
    lk.Runner(max_epochs=2, callbacks=[callback], run_dir=tmp_path / "run", pictures=False, progress=False).fit(
        task, (X, Y)
    )
    assert np.linalg.norm(ops.convert_to_numpy(model.layers[-1].kernel)) == pytest.approx(1.0, abs=1e-5)
