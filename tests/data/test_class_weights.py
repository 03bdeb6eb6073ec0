"""Weights of examples by class: as Keras's own function computes them, and what is refused."""

import keras
import numpy as np
import pytest
from keras.src.trainers.data_adapters.data_adapter_utils import class_weight_to_sample_weights

from lightkeras.data.class_weights import check_class_weight, checked, class_weights, read, recorded, weighted_by_class

WEIGHT = {0: 0.5, 2: 4.0}  # none for class 1
LABELS = {
    "integers": np.array([0, 1, 2, 2]),
    "unsigned": np.array([0, 1, 2, 2], "uint8"),
    "a column": np.array([[0], [1], [2], [2]]),
    "floats": np.array([0.0, 0.9, 2.4, 1.6], "float32"),
    "booleans": np.array([False, True, True, False]),
    "one-hot": np.eye(3, dtype="float32")[[0, 1, 2, 2]],
    "soft": np.array([[0.6, 0.4, 0.0], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.4, 0.2, 0.4]], "float32"),
    "below and above": np.array([-1, 0, 2, 7]),
}


@pytest.mark.parametrize("form", LABELS)
def test_weights_are_those_of_keras(form):
    expected = class_weight_to_sample_weights(LABELS[form], WEIGHT)
    found = keras.ops.convert_to_numpy(class_weights(LABELS[form], WEIGHT))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_labels_of_parts_and_negative_classes_have_weights_too():
    found = class_weights(np.array([[[0], [2]], [[1], [2]]]), WEIGHT)
    assert keras.ops.convert_to_numpy(found).tolist() == [[0.5, 4.0], [1.0, 4.0]]
    assert keras.ops.convert_to_numpy(class_weights([-1, 1, 0], {-1: 2.0, 1: 3.0})).tolist() == [2.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("sample_weight", "expected"),
    [
        (None, [0.5, 4.0]),
        (np.array([2.0, 0.25], "float32"), [1.0, 1.0]),
        (np.array([3, 1]), [1.5, 4.0]),
        (np.array([[2.0], [0.25]], "float32"), [[1.0], [1.0]]),  # and not [2, 2]
        (np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 2.0]], "float32"), [[1.0, 0.5, 0.0], [4.0, 4.0, 8.0]]),
    ],
)
def test_weights_of_examples_are_multiplied(sample_weight, expected):
    found = weighted_by_class(np.array([0, 2]), sample_weight, WEIGHT)
    assert keras.ops.convert_to_numpy(found).tolist() == expected


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([1.0, 2.0], TypeError, r"class_weight=\[1.0, 2.0\]: expected a dict .* dict\(enumerate\(weights\)\)"),
        ("balanced", TypeError, "expected a dict of class numbers and weights"),
        ({}, ValueError, "class_weight is empty: expected the weight of a class"),
        ({"cat": 1.0}, TypeError, "class_weight has the class 'cat': expected its number"),
        ({1.0: 1.0}, TypeError, "class_weight has the class 1.0"),
        ({True: 1.0}, TypeError, "class_weight has the class True"),
        ({0: "1"}, TypeError, "class_weight has the weight '1' for class 0: expected a number"),
        ({0: -1.0}, ValueError, "class_weight has the weight -1.0 for class 0: expected a number from 0"),
        ({0: float("nan")}, ValueError, "class_weight has the weight nan for class 0"),
        ({0: float("inf")}, ValueError, "class_weight has the weight inf for class 0"),
    ],
)
def test_what_is_no_mapping_of_classes_to_weights_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        checked(given)


def test_a_mapping_becomes_plain_numbers_and_json_and_back():
    found = checked({np.int64(10): np.float32(0.5), 2: 3})
    assert found == {10: 0.5, 2: 3.0}
    assert {type(number) for number in found} == {int}
    assert recorded(found) == {"2": 3.0, "10": 0.5}
    assert read(recorded(found)) == found
    assert recorded(None) is read(None) is None


def test_a_class_that_no_label_has_is_refused():
    message = "weight for class 3, and no label of train has that class: the labels are of classes 0, 1, 2"
    with pytest.raises(ValueError, match=message):
        check_class_weight({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, np.array([0, 1, 2, 2]), "train")
    with pytest.raises(ValueError, match="weight for classes 3, 4, and no label"):
        check_class_weight({3: 1.0, 4: 1.0}, LABELS["one-hot"], "train")


def test_a_label_without_a_weight_is_warned_of():
    message = "no weight for classes 0, 2, the label of 3 of 4 examples of train: they have the weight 1.* Add 0: 1.0"
    with pytest.warns(UserWarning, match=message):
        check_class_weight({1: 5.0}, np.array([[0.0], [1.0], [2.0], [2.0]]), "train")


def test_labels_that_have_weights_or_are_ignored_or_not_known_pass():
    check_class_weight({0: 1.0, 1: 2.0}, np.array([0, 1, 1, -1]), "train", ignored=-1)
    check_class_weight({0: 1.0, 1: 2.0}, np.array([0.0, 1.0, np.nan]), "train")
    check_class_weight({0: 1.0, 1: 2.0}, np.array([False, True]), "train")
    check_class_weight({0: 1.0, 1: 2.0}, np.array(["cat"], object), "train")
    check_class_weight({0: 1.0}, None, "train")


def test_labels_of_several_outputs_or_none_are_refused():
    with pytest.raises(ValueError, match="class_weight was given, and the batch has labels of several outputs"):
        weighted_by_class({"a": np.zeros(3)}, None, WEIGHT)
    with pytest.raises(ValueError, match="class_weight was given, and the batch has no labels"):
        weighted_by_class(None, None, WEIGHT)


def test_labels_whose_last_axis_has_no_known_size_are_refused():
    with pytest.raises(ValueError, match=r"size of the last axis of the labels is not known.* tf.ensure_shape"):
        class_weights(keras.Input((None,), dtype="int32"), WEIGHT)
