"""Plain values as JSON and back."""

from __future__ import annotations

import collections
import enum
import json
import math

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from lightkeras.system.plain_values import Encoder, NotPlainError, decode, fingerprint


def there_and_back(value):
    encoder = Encoder()
    data = json.loads(json.dumps(encoder.encode(value, "a"), allow_nan=False))
    return decode(data, encoder.arrays)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**80),
        0.1,
        -0.0,
        5e-324,
        math.inf,
        -math.inf,
        "",
        "naïve {'tuple': 1}",
        b"\x00\xff",
        [],
        (),
        {},
        [1, (2, [3.5, None])],
        (1,),
        {1: "a", "1": "b", (1, 2): {"tuple": [1]}, None: True},
        {"float": "nan"},
        pytest.param({1, 2, "3"}, id="a set"),  # its repr is another in each process
        frozenset({(1, 2)}),
        {frozenset({1}): {2}},
    ],
    ids=repr,
)
def test_a_plain_value_comes_back_as_it_was(value):
    found = there_and_back(value)
    assert found == value
    assert repr(found) == repr(value) or isinstance(value, (set, frozenset))  # tells 0.0 from -0.0 and 1 from True
    assert type(found) is type(value)


def test_what_is_not_a_number_comes_back():
    assert math.isnan(there_and_back(math.nan))
    assert math.isnan(there_and_back({"a": [math.nan]})["a"][0])


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype="float32").reshape(2, 3),
        np.float64([math.nan, -math.inf, 0.1]),
        np.zeros((0, 3), "int8"),
        np.array(2.5),
        np.array([True, False]),
        np.arange(6, dtype=">i4").reshape(2, 3)[:, ::2],
        np.array([1 + 2j]),
        np.array(["ab", "c"]),
        np.array([b"ab", b"c"]),
        np.array(["2026-11-22"], "datetime64[D]"),
        np.array([[1, "a"], [None, (1, 2)]], dtype=object),
        np.array([1.5, 2.0], ml_dtypes.bfloat16),
        np.arange(12).reshape(3, 4).T,
    ],
    ids=lambda array: str(array.dtype),
)
def test_an_array_comes_back_as_it_was(array):
    found = there_and_back(array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    if array.dtype == object:
        assert found.tolist() == array.tolist()
    else:
        assert found.tobytes() == array.tobytes()
    found[...] = found  # it can be written to


@pytest.mark.parametrize("scalar", [np.float64(0.1), np.float32("nan"), np.int64(3), np.bool_(True), np.str_("a")])
def test_a_scalar_of_numpy_stays_one(scalar):
    found = there_and_back(scalar)
    assert type(found) is type(scalar)
    np.testing.assert_array_equal(found, scalar)


def test_a_tensor_stays_one():
    tensor = keras.ops.convert_to_tensor([1.5, 2.5])
    found = there_and_back(tensor)
    assert type(found) is type(tensor)
    assert keras.ops.convert_to_numpy(found).tolist() == [1.5, 2.5]
    assert found.dtype == tensor.dtype


@pytest.mark.backends("tensorflow", reason="the others have no tensors of text")
def test_a_tensor_of_text_stays_one():
    found = there_and_back(tf.constant([b"a", b"bc"]))
    assert isinstance(found, tf.Tensor)
    assert found.numpy().tolist() == [b"a", b"bc"]
    assert found.dtype == tf.string


def test_an_array_is_copied():
    array = np.zeros(2)
    encoder = Encoder()
    data = encoder.encode(array, "a")
    array[:] = 1
    assert decode(data, encoder.arrays).tolist() == [0, 0]


class Colour(enum.IntEnum):
    RED = 1


ITSELF: list = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        len,
        Colour.RED,
        collections.Counter("a"),
        tf.Variable(1.0),
        keras.Variable(1.0),
        keras.Input((1,)),
        [1, {"a": object()}],
        ITSELF,
        np.array([object()]),
        np.zeros(2, [("a", "i4")]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_plain_is_refused(value):
    with pytest.raises(NotPlainError):
        Encoder().encode(value, "a")


def test_a_value_that_stands_twice_in_another_does_not_hold_itself():
    shared = [1]
    assert there_and_back([shared, shared]) == [[1], [1]]


def test_what_is_damaged_is_refused():
    with pytest.raises(ValueError, match=r"damaged: unknown value type 'lambda'\."):
        decode({"lambda": 1}, {})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0, 0.0),
        (1, True),
        ([1], (1,)),
        (np.zeros(2), np.zeros((2, 1))),
        (np.zeros(2, "float32"), np.zeros(2, "int32")),
        (np.zeros(2), np.array([0.0, -0.0])),
        ({"a": 1}, {"a": 2}),
        ({1: 1}, {"1": 1}),
        (None, []),
    ],
)
def test_different_values_have_different_fingerprints(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_the_order_of_a_set_does_not_matter():
    assert fingerprint({1, 2, "a", (3,)}) == fingerprint({(3,), "a", 2, 1})
    assert fingerprint({8, 0}) == fingerprint({0, 8})


def test_a_fingerprint_is_that_of_the_content():
    array = np.arange(3)
    before = fingerprint(array)
    assert fingerprint(array.copy()) == before
    array[0] = 7
    assert fingerprint(array) != before
