"""`predict` gives one output for each input, however the inputs come."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import lightkeras as lk
from lightkeras.testing import two_moons

X = two_moons(70)[0]
QUIET = {"pictures": False, "export": False, "progress": False}


def predict(task, data, **settings):
    return lk.Runner(**QUIET).predict(task, data, **settings)


class Moons(lk.Task):
    """A model of two numbers; subclasses differ in what their `predict_step` takes."""

    def build_model(self):
        return keras.Sequential([keras.Input((2,)), layers.Dense(3)])

    def expected(self, x):
        return ops.convert_to_numpy(self.model(x))


class TakesTuples(Moons):
    def predict_step(self, batch):
        return self.model(batch[0], training=False)


class TakesArrays(Moons):
    def predict_step(self, batch):
        return self.model(batch, training=False)


class Data(keras.utils.PyDataset):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return self.wrap(X[10 * index : 10 * index + 10])


def dataset(wrap):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(X).batch(32).map(wrap)


def generator(wrap):
    return (wrap(X[start : start + 16]) for start in range(0, len(X), 16))


WAYS = {
    "arrays": lambda wrap: wrap(X),
    "function": lambda wrap: lambda: generator(wrap),
    "generator": generator,
    "PyDataset": Data,
    "tf.data": dataset,
}
FORMS = {"x": lambda x: x, "(x,)": lambda x: (x,), "(x, y)": lambda x: (x, x[:, 0])}


@pytest.mark.parametrize("task", [Moons, TakesTuples, TakesArrays])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WAYS)
def test_there_is_one_output_for_each_input(way, form, task):
    if task is TakesArrays and form != "x":
        pytest.skip("its batches are no tuples")
    task = task()
    found = predict(task, WAYS[way](FORMS[form]), batch_size=32)
    np.testing.assert_allclose(found, task.expected(X), rtol=1e-5, atol=1e-6)


class TwoInputs(lk.Task):
    names = ("one", "two")

    def build_model(self):
        one, two = (keras.Input((2,), name=name) for name in self.names)
        return keras.Model([one, two], layers.Dense(1)(layers.subtract([one, two])))


class NamedInputs(TwoInputs):
    def build_model(self):
        inputs = {name: keras.Input((2,), name=name) for name in self.names}
        return keras.Model(inputs, layers.Dense(1)(layers.subtract(list(inputs.values()))))


@pytest.mark.parametrize("kind", [list, tuple])
def test_several_arrays_are_the_inputs_of_a_model_that_takes_several(kind):
    task = TwoInputs()
    found = predict(task, kind([X, X[::-1]]), batch_size=16)
    np.testing.assert_allclose(found, ops.convert_to_numpy(task.model([X, X[::-1]])), rtol=1e-5, atol=1e-6)


def test_arrays_by_name_are_the_inputs_of_a_model_that_names_them():
    task, given = NamedInputs(), {"two": X[::-1], "one": X}
    expected = predict(TwoInputs(), [X, X[::-1]]).shape
    found = predict(task, given)
    assert found.shape == expected
    np.testing.assert_allclose(found, ops.convert_to_numpy(task.model(given)), rtol=1e-5, atol=1e-6)


def test_the_first_example_of_a_square_array_is_not_taken_for_its_batch():
    class Sequences(TakesTuples):
        def build_model(self):
            inputs = keras.Input((None, 2))
            return keras.Model(inputs, layers.Dense(3)(inputs))

        def predict_step(self, batch):
            return self.model.layers[1](batch[0])

    task = Sequences()
    x = np.stack([X[4 * i : 4 * i + 4] for i in range(4)])  # as many examples as rows in an example
    assert predict(task, x, batch_size=4).shape == (4, 4, 3)


def test_a_layer_with_a_fixed_batch_size_can_predict():
    class Fixed(TakesTuples):
        def build_model(self):
            return keras.Sequential([keras.Input(batch_shape=(10, 2)), layers.Dense(3)])

    task = Fixed()
    found = predict(task, X, batch_size=10)
    assert found.shape == (70, 3)


def test_outputs_that_are_not_one_for_each_input_are_refused():
    class Mean(Moons):
        def predict_step(self, batch):
            return ops.mean(self.model(batch), axis=0)

    with pytest.raises(ValueError, match=r"predict_step returned .* expected one row for each"):
        predict(Mean(), X)


def test_the_first_of_the_errors_is_raised_if_no_form_fits():
    class Misspelled(Moons):
        def predict_step(self, batch):
            return self.modle(batch)

    with pytest.raises(AttributeError, match="modle"):
        predict(Misspelled(), X)


def test_an_endless_source_is_refused():
    class Endless(Data):
        num_batches = None

    with pytest.raises(ValueError, match="this is endless: give an end"):
        predict(Moons(), Endless(lambda x: x))


def test_a_dataset_is_told_of_one_pass_and_a_generator_is_closed():
    calls = []

    class Told(Data):
        def on_epoch_begin(self):
            calls.append("begin")

        def on_epoch_end(self):
            calls.append("end")

    predict(TakesTuples(), Told(lambda x: x))
    assert calls == ["begin", "end"]
