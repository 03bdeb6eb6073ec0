"""The contract of a data module."""

import numpy as np
import pytest

from lightkeras.data.feed import ArrayFeed
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule


class Squares(DataModule):
    def train(self):
        return ArrayFeed(np.arange(3) ** 2, 2)


def test_a_module_needs_to_define_train_alone():
    data = Squares()
    data.prepare(Lookup())
    assert data.train().steps == 2
    assert data.validation() is None
    assert data.test() is None
    assert data.source is None


def test_a_module_without_train_cannot_be_made():
    with pytest.raises(TypeError, match=r"abstract method '?train'?"):
        DataModule()


def test_typed_inputs_are_refused_by_a_module_that_does_not_define_them():
    with pytest.raises(
        NotImplementedError, match=r"Squares cannot make batches of typed inputs: define its `predict\(inputs\)`"
    ):
        Squares().predict(["4"])


def test_each_typed_input_is_one_example_unless_a_module_overrides_it():
    assert Squares().expand(("4", "5"), Lookup()) == ["4", "5"]
