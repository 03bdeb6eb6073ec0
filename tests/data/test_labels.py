"""Labels of a whole split are checked against the loss."""

import keras
import numpy as np
import pytest

from lightkeras.data.labels import check_labels, outputs_by_name

CLASSES, ONE_HOT, BINARY = "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy"


def outputs(units=3):
    return {"": keras.KerasTensor((None, units))}


@pytest.mark.parametrize(
    ("loss", "labels", "found"),
    [
        (CLASSES, np.array([0, 2]), outputs()),
        (CLASSES, np.array([[0], [2]]), outputs()),
        (CLASSES, np.array([0.0, 2.0]), outputs()),
        (CLASSES, np.array([0, 9]), {}),  # the number of classes is not known
        (CLASSES, np.zeros((0,), int), outputs()),
        (keras.losses.SparseCategoricalCrossentropy(ignore_class=-1), np.array([-1, 2]), outputs()),
        (keras.losses.SparseCategoricalCrossentropy(ignore_class=-1), np.array([-1]), outputs()),
        (keras.losses.sparse_categorical_crossentropy, np.array([1]), outputs()),
        (ONE_HOT, np.eye(3), outputs()),
        (ONE_HOT, np.array([1, 2]), {}),
        (ONE_HOT, np.eye(3), {"": keras.KerasTensor((None, None))}),
        (BINARY, np.array([0, 1]), outputs(1)),
        (BINARY, np.array([0.0, 0.5]), outputs(1)),
        ("mse", np.array([-7.0]), outputs(1)),  # of this loss any number is a label
        ([BINARY], np.array([7]), outputs(1)),
        (BINARY, [np.array([7])], outputs(1)),
    ],
)
def test_labels_of_the_loss_pass(loss, labels, found):
    check_labels(loss, labels, found, "train")


@pytest.mark.parametrize(
    ("loss", "labels", "message"),
    [
        (CLASSES, np.array([0, 3]), r"train hold 3; .* from 0 to 2, one for each of the model's 3 outputs"),
        (CLASSES, np.array([-1, 3]), r"train hold -1; "),
        (CLASSES, np.array([0.0, 1.5]), r"hold 1\.5; .* from 0 to 2\. Give the number of the class"),
        (CLASSES, np.array([0.0, np.nan]), r"hold nan; "),
        (CLASSES, np.eye(3, dtype="int32"), r"are int32\[batch, 3\]; .* takes the number of the class"),
        (CLASSES, np.array(["a"], object), r"are text; the loss takes numbers\. .*StringLookup"),
        (ONE_HOT, np.array([1, 2]), r"are int64\[batch\]; .* a number for each of the model's 3 outputs"),
        (ONE_HOT, np.eye(4), r"are float64\[batch, 4\]; "),
        (ONE_HOT, np.array(["a"]), r"are str\d*; the loss takes numbers"),
        (BINARY, np.array([0, 2]), r"hold 2; binary cross entropy takes numbers from 0 to 1"),
        (BINARY, np.array([-1, 1]), r"hold -1; binary"),
        (BINARY, np.array([-1, 2]), r"hold -1; binary"),
        (BINARY, np.array([0.5, np.nan]), r"hold nan; binary"),
        (BINARY, np.array([1j]), r"are complex128; the loss takes numbers"),
    ],
)
def test_labels_of_another_loss_are_refused_with_the_value_and_a_remedy(loss, labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(loss, labels, outputs(), "train")


def test_without_a_known_number_of_classes_only_negative_ones_are_refused():
    with pytest.raises(ValueError, match=r"hold -2; .* whole numbers from 0 up\. Count"):
        check_labels(CLASSES, np.array([-2, 7]), {}, "train")


def test_losses_and_labels_are_matched_by_name():
    labels = {"a": np.array([0]), "b": np.array([5]), "other": np.array([9])}
    found = {"a": keras.KerasTensor((None, 9)), "b": keras.KerasTensor((None, 3))}
    check_labels({"a": CLASSES, "absent": CLASSES}, labels, found, "test")
    with pytest.raises(ValueError, match=r"The labels of test \(b\) hold 5; .* the model's 3 outputs"):
        check_labels({"a": CLASSES, "b": CLASSES}, labels, found, "test")
    check_labels({"b": CLASSES}, labels, {}, "test")  # of a subclassed model


def test_outputs_have_the_names_that_losses_refer_to():
    x = keras.Input((2,))
    one, two = keras.layers.Dense(1, name="one")(x), keras.layers.Dense(2, name="two")(x)
    assert outputs_by_name(keras.Model(x, two)) == {"": two}
    assert outputs_by_name(keras.Model(x, [one, two])) == {"one": one, "two": two}
    assert outputs_by_name(keras.Model(x, {"p": one, "q": two})) == {"p": one, "q": two}

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    assert outputs_by_name(Subclassed()) == {}


@pytest.mark.parametrize(
    ("loss", "labels", "found"),
    [
        (ONE_HOT, np.zeros((2, 4, 3)), {"": keras.KerasTensor((None, 4, 3))}),
        (ONE_HOT, np.zeros(2), {"": keras.KerasTensor((None,))}),
        (CLASSES, np.zeros((2, 1), int), outputs()),
        (CLASSES, np.zeros((2, 4), int), {"": keras.KerasTensor((None, 4, 3))}),
        (BINARY, np.array([0, 1], bool), outputs(1)),
        (keras.losses.BinaryCrossentropy(), np.array([1.0]), outputs(1)),
        ({"a": BINARY}, np.array([7]), outputs(1)),  # left to Keras
        (BINARY, {"a": np.array([7])}, outputs(1)),
        ((BINARY,), np.array([7]), outputs(1)),
        (None, np.array([7]), outputs(1)),
    ],
)
def test_labels_at_the_border_pass(loss, labels, found):
    check_labels(loss, labels, found, "train")


def test_labels_just_beyond_the_border_are_refused():
    for loss, labels, found, message in [
        (ONE_HOT, np.zeros((2, 3)), {"": keras.KerasTensor((None, 4, 3))}, r"each of the model's 3 outputs"),
        (CLASSES, np.zeros((2, 2), int), outputs(), r"are int64\[batch, 2\]; "),
        (CLASSES, np.array([3]), outputs(), r"hold 3; .* from 0 to 2, one for each of the model's 3 outputs\. Count"),
        (keras.losses.CategoricalCrossentropy(), np.array([1]), outputs(), r"takes a number for each"),
        (keras.losses.SparseCategoricalCrossentropy(ignore_class=5), np.array([5, 4]), outputs(), r"hold 4; "),
        (keras.losses.binary_crossentropy, np.array([1.01]), outputs(), r"hold 1\.01; "),
    ]:
        with pytest.raises(ValueError, match=message):
            check_labels(loss, labels, found, "train")
