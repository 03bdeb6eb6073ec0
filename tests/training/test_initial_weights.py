"""Runs that begin with the weights of another run or of a file of Keras."""

import dataclasses
import json
import os
import shutil
import zipfile

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from keras import layers

from lightkeras import CheckpointError, Runner, SupervisedTask, Task
from lightkeras.runs import checkpoint
from lightkeras.system import files
from lightkeras.testing import TwoMoons, two_moons
from lightkeras.training.initial_weights import WeightsError, converts_exactly, load_initial


@pytest.fixture
def runner(tmp_path):
    return Runner(max_epochs=1, run_dir=tmp_path / "run", progress=False, pictures=False, export=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, its best weights, and the same in files of Keras, with an optimizer."""
    folder = tmp_path_factory.mktemp("trained")
    task = TwoMoons()
    Runner(max_epochs=2, run_dir=folder / "run", progress=False, pictures=False).fit(task)
    model = keras.models.load_model(folder / "run" / "model.keras", compile=False)
    model.compile("adam", "mse")
    model.fit(*two_moons(32), verbose=0)
    model.save(folder / "compiled.keras")
    model.save_weights(folder / "own.weights.h5")
    return folder, model.get_weights()


def first_weights(runner, task, source, **arguments):
    """The weights with which a fit begins, as a callback sees them."""
    seen = []
    begins = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: seen.append(task.model.get_weights()))
    dataclasses.replace(runner, callbacks=[begins]).fit(task, init_from=source, **arguments)
    return seen[0]


@pytest.mark.parametrize("name", ["compiled.keras", "own.weights.h5"])
def test_a_run_begins_with_the_weights_of_a_file(runner, trained, name):
    folder, expected = trained
    task = TwoMoons()
    for found, value in zip(first_weights(runner, task, folder / name), expected, strict=True):
        np.testing.assert_array_equal(found, value)
    assert int(task.optimizer.iterations) == 10  # its own: the file has an optimizer after one more step
    assert json.loads((runner.run_dir / "config.json").read_text())["init_from"] == str(folder / name)


@pytest.mark.parametrize("which", ["run", "checkpoint"])
def test_a_run_begins_with_the_best_weights_of_another_or_those_of_a_checkpoint(runner, trained, which):
    folder, _ = trained
    checkpoints = folder / "run" / "checkpoints"
    source = folder / "run" if which == "run" else checkpoint.find(checkpoints, "last")
    wanted = checkpoint.load(checkpoint.find(checkpoints, "best" if which == "run" else "last"))
    task = TwoMoons()
    found = first_weights(runner, task, str(source))
    expected = [array for key, array in sorted(wanted.arrays.items()) if key.startswith("model.")]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_resumed_run_has_its_own_weights_and_needs_the_source_no_more(runner, trained, tmp_path):
    source = tmp_path / "own.weights.h5"
    shutil.copy(trained[0] / "own.weights.h5", source)
    straight = dataclasses.replace(runner, max_epochs=2, run_dir=tmp_path / "straight").fit(
        TwoMoons(), init_from=source
    )
    runner.fit(TwoMoons(), init_from=source)
    source.unlink()
    longer = dataclasses.replace(runner, max_epochs=2)
    assert longer.fit(TwoMoons(), init_from=source, resume=True).history == straight.history
    assert json.loads((runner.run_dir / "config.json").read_text())["init_from"] == str(source)


# ---------------------------------------------------------------------- a safetensors file, by the paths of variables


class Named(TwoMoons):
    def build_model(self):
        hidden = layers.Dense(16, "relu", name="hidden")
        return keras.Sequential([keras.Input((2,)), hidden, layers.Dense(1, name="logit")], name="moons")


SHAPES = {"hidden/kernel": (2, 16), "hidden/bias": (16,), "logit/kernel": (16, 1), "logit/bias": (1,)}


def named_arrays(front="", dtype="float32"):
    return {f"{front}{key}": np.full(shape, n + 0.5, dtype) for n, (key, shape) in enumerate(SHAPES.items())}


def ready(task):
    task.set_up(0)
    return task


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("front", ["moons/", ""])
def test_a_safetensors_file_names_weights_by_their_paths(tmp_path, front, dtype):
    task = ready(Named())
    safetensors.numpy.save_file(named_arrays(front, dtype), tmp_path / "a.safetensors")
    load_initial(task, tmp_path / "a.safetensors")
    for n, weight in enumerate(task.model.weights):
        np.testing.assert_array_equal(weight, np.full(weight.shape, n + 0.5, "float32"))
        assert weight.dtype == "float32"


def test_the_own_name_of_a_functional_model_may_stand_in_front(runner, tmp_path):
    class Functional(TwoMoons):
        def build_model(self):
            points = keras.Input((2,))
            return keras.Model(points, layers.Dense(1, name="logit")(points), name="moons")

    arrays = {"moons/logit/kernel": np.full((2, 1), 3, "float32"), "logit/bias": np.full((1,), 4, "float32")}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    kernel, bias = first_weights(runner, Functional(), tmp_path / "a.safetensors")
    assert kernel.tolist() == [[3], [3]]
    assert bias.tolist() == [4]


def test_a_weight_that_is_named_twice_is_listed(tmp_path):
    arrays = {**named_arrays(), "moons/logit/bias": np.zeros(1, "float32")}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"1 weights of .*: logit/bias: not in the task, \[1\] in the file"):
        load_initial(ready(Named()), tmp_path / "a.safetensors")


def test_names_and_shapes_of_a_safetensors_file_are_listed_and_nothing_changes(tmp_path):
    task = ready(Named())
    before = task.model.get_weights()
    arrays = {**named_arrays(), "hidden/kernel": np.zeros((3, 16), "float32"), "more": np.zeros((2, 2), "float32")}
    del arrays["logit/bias"]
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError) as raised:
        load_initial(task, tmp_path / "a.safetensors")
    for line in (
        "init_from: 3 weights of",
        "moons/hidden/kernel: [2, 16] in the task, [3, 16] in the file",
        "moons/logit/bias: [1] in the task, not in the file",
        "more: not in the task, [2, 2] in the file",
        "Nothing was changed",
    ):
        assert line in str(raised.value)
    for found, value in zip(task.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, value)


def test_a_dtype_that_would_lose_something_is_refused(tmp_path):
    task = ready(Named())
    before = task.model.get_weights()
    arrays = named_arrays()
    arrays["hidden/bias"] = np.full(16, 0.1, "float64")
    arrays["logit/bias"] = np.ones(1, "int32")
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    wanted = (
        r"2 weights of .* cannot be converted without loss: moons/hidden/bias: float32 in the task, float64 in the "
        r"file; moons/logit/bias: float32 in the task, int32 in the file\. Nothing was changed"
    )
    with pytest.raises(WeightsError, match=wanted):
        load_initial(task, tmp_path / "a.safetensors")
    for found, value in zip(task.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize(
    ("values", "dtype", "exact"),
    [
        (np.array([1, 2.5, np.nan, np.inf, -0.0]), "float16", True),
        (np.array([1e-9]), "float16", False),
        (np.array([1e5]), "float16", False),
        (np.array([257.0]), "bfloat16", False),
        (np.array([256.0]), "bfloat16", True),
        (np.array([-128, 127]), "int8", True),
        (np.array([128]), "int8", False),
        (np.array([-1]), "uint64", False),
        (np.array([], "int64"), "int8", True),
        (np.array([1.0]), "int32", False),
        (np.array([True]), "int32", False),
    ],
)
def test_a_conversion_is_exact_if_no_value_changes(values, dtype, exact):
    assert converts_exactly(values, dtype) is exact


def test_weights_with_one_path_cannot_be_named(tmp_path):
    class Twins(TwoMoons):
        def build_model(self):
            branches = [keras.Sequential([keras.Input((2,)), layers.Dense(1, name="logit")], name="side")]
            branches.append(keras.Sequential([keras.Input((2,)), layers.Dense(1, name="logit")], name="side"))
            return Sum(branches)

    class Sum(keras.Model):
        def __init__(self, branches):
            super().__init__(name="twins")
            self.branches = branches

        def call(self, inputs):
            return sum(branch(inputs) for branch in self.branches)

    safetensors.numpy.save_file(named_arrays(), tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"'twins' has several weights with one path, side/logit/bias, side/logit/k"):
        load_initial(ready(Twins()), tmp_path / "a.safetensors")


# ---------------------------------------------------------------------- what does not fit


class Wider(TwoMoons):
    def build_model(self):
        return keras.Sequential([keras.Input((2,)), layers.Dense(24, "relu"), layers.Dense(1), layers.Dense(1)])


@pytest.mark.parametrize("name", ["compiled.keras", "own.weights.h5", "run"])
def test_names_and_shapes_that_do_not_fit_are_listed_and_nothing_changes(runner, trained, name):
    task = Wider()
    task.set_up(0)
    before = task.model.get_weights()
    with pytest.raises(WeightsError) as raised:
        load_initial(task, trained[0] / name)
    message = str(raised.value)
    assert "init_from: 5 weights of" in message
    assert "[2, 24] in the task, [2, 16] in the file" in message
    assert "[1, 1] in the task, not in the file" in message
    assert "Nothing was changed" in message
    if name != "run":
        assert "layers/dense/vars/0: " in message
    for found, value in zip(task.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, value)
    with pytest.raises(CheckpointError, match="init_from: 5 weights"):
        runner.fit(Wider(), init_from=trained[0] / name)
    assert not runner.run_dir.exists()


def test_weights_of_a_larger_model_are_unknown(trained):
    class Narrow(TwoMoons):
        def build_model(self):
            return keras.Sequential([keras.Input((2,)), layers.Dense(16, "relu")])

    task = Narrow()
    task.set_up(0)
    with pytest.raises(WeightsError, match=r"layers/dense_1/vars/0: not in the task, \[16, 1\] in the file"):
        load_initial(task, trained[0] / "own.weights.h5")


def test_random_states_and_batch_statistics(tmp_path):
    def built(seed):
        inside = [layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.5, seed=seed), layers.Dense(1)]
        model = keras.Sequential([keras.Input((2,)), *inside])
        task = SupervisedTask(model, loss="mse")
        task.set_up(0)
        return task

    first, second = built(1), built(2)
    first.model(np.ones((4, 2), "float32"), training=True)  # moves the statistics and the generator
    first.model.save_weights(tmp_path / "a.weights.h5")
    load_initial(second, tmp_path / "a.weights.h5")
    named = [{v.path.split("/", 1)[1]: np.array(v) for v in task.model.variables} for task in (first, second)]
    seeds = [key for key in named[0] if "seed" in key]
    assert seeds
    same = {key: np.array_equal(named[0][key], value) for key, value in zip(named[0], named[1].values(), strict=True)}
    assert {key for key, equal in same.items() if not equal} == set(seeds)


# ---------------------------------------------------------------------- what is no weights


def test_other_paths_are_refused(runner, trained, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"init_from='.*/none' does not exist: expected a run directory"):
        runner.fit(TwoMoons(), init_from=tmp_path / "none")
    (tmp_path / "weights.pkl").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"expected a run directory, .* a \.keras file, a \.weights\.h5 file"):
        runner.fit(TwoMoons(), init_from=tmp_path / "weights.pkl")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        runner.fit(TwoMoons(), init_from=tmp_path)


class NoModel(Task):
    def build(self):
        self.net = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD()


def test_a_file_needs_a_model_of_the_task(trained):
    task = NoModel()
    task.set_up(0)
    with pytest.raises(ValueError, match=r"NoModel has no `self\.model` to load a file into"):
        load_initial(task, trained[0] / "compiled.keras")


@pytest.mark.parametrize("name", ["damaged.keras", "damaged.weights.h5", "empty.keras", "damaged.safetensors"])
def test_a_damaged_file_is_named(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"not weights" * 100)
    if name == "empty.keras":
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("config.json", "{}")
    task = TwoMoons()
    task.set_up(0)
    with pytest.raises(WeightsError, match=rf"{name} is damaged"):
        load_initial(task, path)


def test_nothing_outside_of_the_file_is_read(trained, tmp_path):
    task = TwoMoons()
    task.set_up(0)
    path = tmp_path / "linked.weights.h5"
    shutil.copy(trained[0] / "own.weights.h5", path)
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.ExternalLink(str(trained[0] / "own.weights.h5"), "layers/dense/vars/0")
    with pytest.raises(WeightsError, match=r"layers/dense/vars/0: \[2, 16\] in the task, not in the file"):
        load_initial(task, path)
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        raw = [(str(tmp_path / "secret"), 0, 128)]
        file["layers/dense/vars"].create_dataset("0", (2, 16), "float32", external=raw)
    with pytest.raises(WeightsError, match=r"which is not an array of numbers in that file"):
        load_initial(task, path)


def test_the_code_of_a_keras_file_is_not_run(tmp_path):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(16, "relu"), layers.Dense(1)])
    model.save(tmp_path / "plain.keras")
    with zipfile.ZipFile(tmp_path / "plain.keras") as packed, zipfile.ZipFile(tmp_path / "odd.keras", "w") as odd:
        odd.writestr("config.json", '{"module": "os", "class_name": "system", "config": "touch ran"}')
        odd.writestr("model.weights.h5", packed.read("model.weights.h5"))
    task = TwoMoons()
    task.set_up(0)
    load_initial(task, tmp_path / "odd.keras")
    np.testing.assert_array_equal(task.model.get_weights()[0], model.get_weights()[0])


@pytest.mark.parametrize("name", ["a.weights.h5", "a.safetensors"])
def test_a_pipe_is_no_file(name, tmp_path):
    os.mkfifo(tmp_path / name)
    task = TwoMoons()
    task.set_up(0)
    with pytest.raises(files.DamagedFileError, match="expected a file"):
        load_initial(task, tmp_path / name)
