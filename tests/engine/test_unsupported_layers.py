"""The layer that failed in a trace, and the layers that read text."""

import keras
import numpy as np
import pytest
from keras import layers

from lightkeras.engine.unsupported_layers import Failure, TextInputError, record_failure, text_readers


class Failing(layers.Layer):
    def call(self, x):
        raise RuntimeError("no")


class Around(layers.Layer):
    def __init__(self, inner, name, catches=False):
        super().__init__(name=name)
        self.inner, self.catches = inner, catches

    def call(self, x):
        if not self.catches:
            return self.inner(x)
        try:
            return self.inner(x)
        except RuntimeError:
            return x


def test_the_innermost_layer_that_raised_is_recorded_with_its_path():
    call, inner = keras.Operation.__call__, Failing(name="inner")
    with pytest.raises(RuntimeError, match="no"), record_failure() as failure:
        Around(Around(inner, "middle"), "outer")(np.ones((1, 1)))
    assert failure.name == "outer/middle/inner (Failing)"
    assert failure.layer is inner
    assert not failure.needs_tensorflow
    assert keras.Operation.__call__ is call


def test_of_two_errors_the_last_is_recorded():
    second = Failing(name="second")
    with record_failure() as failure:
        Around(Failing(name="first"), "outer", catches=True)(np.ones((1, 1)))
        assert failure.name == "outer/first (Failing)"
        with pytest.raises(RuntimeError, match="no"):
            second(np.ones((1, 1)))
    assert (failure.name, failure.layer) == ("second (Failing)", second)


def test_where_no_layer_raised_none_is_recorded():
    with record_failure() as failure:
        layers.Dense(1)(np.ones((1, 1)))
    assert failure == Failure(None, None)


def test_a_lookup_needs_tensorflow_on_another_backend_alone():
    assert Failure("words", layers.StringLookup(vocabulary=["a"])).needs_tensorflow == (
        keras.backend.backend() != "tensorflow"
    )


def test_layers_that_read_text_are_found_inside_of_others_each_once():
    text, number = keras.Input((), dtype="string", name="text"), keras.Input((1,), name="number")
    words = layers.TextVectorization(vocabulary=["a"], output_sequence_length=2, name="words")
    lookup = layers.StringLookup(vocabulary=["a"], name="lookup")
    model = keras.Model([text, number], [words(text), lookup(text), layers.Dense(1)(number)])
    assert text_readers([model, words]) == [words, lookup]
    assert text_readers([keras.Sequential([number, layers.Dense(1)])]) == []


def test_text_is_refused_with_the_path_of_its_array_and_the_way_out():
    message = r"^Array 0 of a batch is text, which JAX cannot compute with: .*`build_encoder`.*KERAS_BACKEND=tensorflow"
    with pytest.raises(ValueError, match=message):
        raise TextInputError("", "JAX")
