"""Checkpoints restore every variable, and steps keep the set of variables."""

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers

from lightkeras.runner import Runner
from lightkeras.runs import checkpoint
from lightkeras.system.variables import read_variables
from lightkeras.testing import TwoMoons
from lightkeras.training.preflight.saved import SAMPLE, check_same_state, check_saved, forms, warn_of_missing_config
from lightkeras.training.step_errors import TaskError


class Holding(TwoMoons):
    """Holds one variable more."""

    def __init__(self, variable):
        super().__init__()
        self.holder = layers.Layer(name="holder")
        self.holder.more = variable


def ready(task):
    task.set_up(0)
    return task


WIDE = pytest.mark.backends("tensorflow", "torch", reason="JAX has 32 bits by default")


@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "uint8", "float16", "bfloat16", "float32", "complex64"),
        pytest.param("int64", marks=WIDE),
        pytest.param("float64", marks=WIDE),
    ],
)
def test_variables_of_every_dtype_that_numpy_knows_come_back(dtype):
    variable = keras.Variable([1, 0, 1], dtype=dtype, trainable=False)
    check_saved(ready(Holding(variable)))
    found = checkpoint.round_trip(read_variables({"": variable})[""], dtype)
    assert found.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert found.tolist() == [1, 0, 1]


def test_numbers_that_are_none_and_scalars_and_empty_variables_come_back():
    for value in (np.nan, np.zeros((0, 3), "float32"), np.float32([np.inf, -0.0])):
        check_saved(ready(Holding(keras.Variable(value, trainable=False))))


@pytest.mark.backends("tensorflow", reason="the others have no variables of text")
def test_a_variable_of_text_is_named():
    words = keras.Variable(["a"], dtype="string", trainable=False, name="words")
    message = r"Holding: a checkpoint cannot hold the variable words \(holder\.0000\), string\[1\]: .*Give it a dtype"
    with pytest.raises(TaskError, match=message):
        check_saved(ready(Holding(words)))


def test_a_variable_that_a_checkpoint_changes_is_named(monkeypatch):
    monkeypatch.setattr(checkpoint, "_restored", lambda array, dtype: array.astype("float16"))
    with pytest.raises(
        TaskError, match=r"does not restore the bits of the variable .*kernel \(model\.0000\), float32\[2, 16\]\."
    ):
        check_saved(ready(TwoMoons()))


def test_the_first_values_of_a_large_variable_are_tried(monkeypatch):
    tried = []
    original = checkpoint.round_trip
    monkeypatch.setattr(checkpoint, "round_trip", lambda *given: tried.append(given[0].size) or original(*given))
    check_saved(ready(Holding(keras.Variable(np.zeros((SAMPLE, 3), "float32"), trainable=False))))
    assert max(tried) == SAMPLE


def test_variables_that_were_added_removed_or_replaced_are_named():
    task = ready(Holding(keras.Variable(1.0, trainable=False, name="more")))
    before = forms(task.variables())
    check_same_state(task, before)
    task.holder = layers.Layer()
    task.holder.more = keras.Variable(1.0, trainable=False, name="another")
    with pytest.raises(
        TaskError, match=r"train_step changed the set of variables: added another \(holder\.0000\); removed none"
    ):
        check_same_state(task, before)
    del task.holder
    with pytest.raises(TaskError, match=r"added none; removed holder\.0000\. Create every layer"):
        check_same_state(task, before)


class Net(keras.Model):
    """A model that is a class: its units are an argument."""

    def __init__(self, units):
        super().__init__()
        self.units = units
        self.dense = layers.Dense(1)

    def call(self, points):
        return self.dense(points)


class Described(Net):
    def get_config(self):
        return {**super().get_config(), "units": self.units}


class WithNet(TwoMoons):
    kind = Net

    def build_model(self):
        model = self.kind(3)
        model(keras.Input((2,)))
        return model


def keras_refuses(model):
    try:
        model.get_config()
    except NotImplementedError:
        return True
    return False


REFUSED = pytest.mark.skipif(
    not keras_refuses(Net(3)), reason="Keras 3.10 writes a file of such a model that it cannot load"
)


@REFUSED
def test_a_model_without_get_config_is_warned_of():
    message = (
        r"WithNet: model\.keras cannot be written at the end: Net, or a layer in it, has no `get_config`\."
        " Define one"
    )
    with pytest.warns(UserWarning, match=message):
        warn_of_missing_config(ready(WithNet()))


def test_models_that_say_it_and_tasks_without_a_model_are_not_warned_of():
    class Says(WithNet):
        kind = Described

    class HasNone(TwoMoons):
        def build(self):
            self.network = self.build_model()

    for task in (TwoMoons(), Says(), HasNone()):
        warn_of_missing_config(ready(task))  # a warning would be an error


@REFUSED
def test_a_run_whose_model_cannot_be_written_keeps_its_result_and_its_weights(tmp_path):
    with pytest.warns(UserWarning, match=r"model\.keras was not written: Object Net was created by passing"):
        result = Runner(max_epochs=1, run_dir=tmp_path / "run", preflight=False).fit(WithNet())
    assert result.epochs == 1
    assert (tmp_path / "run" / "result.json").exists()
    assert (tmp_path / "run" / "checkpoints" / "best").exists()
    assert {path.name for path in (tmp_path / "run").glob("*.keras")} == set()
