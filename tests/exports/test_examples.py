"""Tests of the examples that an artifact is compared on."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import lightkeras as lk
from lightkeras.exports import examples
from lightkeras.exports.errors import ExportError
from lightkeras.exports.ports import Port, Ports
from lightkeras.testing import TwoMoons, two_moons

POINTS = Ports("one", (Port("points", "float32", (None, 2)),))


def test_the_examples_of_a_task_are_the_first_of_its_test_split() -> None:
    task = TwoMoons()
    task.set_up(0)
    found, split = examples.examples_of(task, POINTS)
    assert split == "test"
    np.testing.assert_array_equal(found["points"], two_moons(100, seed=2)[0][:32])


def test_without_a_test_split_they_are_those_of_the_validation_split() -> None:
    class NoTest(TwoMoons):
        def build_data(self) -> lk.DataModule:
            return lk.testing.ArrayData(two_moons(40), two_moons(36, seed=1))

    task = NoTest()
    task.set_up(0)
    found, split = examples.examples_of(task, POINTS)
    assert split == "validation"
    np.testing.assert_array_equal(found["points"], two_moons(36, seed=1)[0][:32])


def test_a_task_without_data_is_refused() -> None:
    class NoData(TwoMoons):
        def build_data(self) -> None:  # type: ignore[override]
            return None

    task = NoData()
    task.set_up(0)
    with pytest.raises(ExportError, match=r"NoData has no data module: leave out --task"):
        examples.examples_of(task, POINTS)


def test_data_that_does_not_fit_the_model_is_refused() -> None:
    task = TwoMoons()
    task.set_up(0)
    with pytest.raises(ExportError, match=r"does not fit the model's inputs: expected 2 arrays \(a, b\), got 1"):
        examples.examples_of(task, Ports("list", (Port("a", "float32", (None, 2)), Port("b", "float32", (None, 2)))))


def test_drawn_integers_are_in_the_table_of_an_embedding() -> None:
    words = keras.Input((None,), dtype="int32")
    model = keras.Model(words, layers.Embedding(3, 2)(words))
    found = examples.drawn_examples(model, Ports("one", (Port("words", "int32", (None, None)),)))["words"]
    assert (found.shape, str(found.dtype)) == ((32, examples.OPEN), "int32")
    assert set(np.unique(found)) == {0, 1, 2}


def test_drawn_texts_are_reviews_and_need_no_pickle() -> None:
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    found = examples.drawn_examples(model, Ports("one", (Port("text", "string", (None,)),)))["text"]
    assert (found.shape, found.dtype.kind) == ((32,), "S")
    assert len(set(found.tolist())) == 32


def test_texts_become_bytes() -> None:
    np.testing.assert_array_equal(examples.plain(np.array(["ü", b"b"], dtype=object)), [b"\xc3\xbc", b"b"])


def test_the_layers_of_a_model_include_those_inside_others() -> None:
    inner = keras.Sequential([keras.Input((1,)), layers.Dense(1, name="inside")])
    model = keras.Sequential([keras.Input((1,)), inner])
    assert "inside" in {layer.name for layer in examples.layers_of(model)}
    assert lk.ExportError is ExportError
