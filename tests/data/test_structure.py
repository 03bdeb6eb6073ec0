"""Arrays, texts and structures of them as batches."""

import collections

import numpy as np
import pytest

from lightkeras.data.bags import Bags
from lightkeras.data.structure import (
    ALIGNMENT,
    ArraySpec,
    as_arrays,
    digest_of,
    first_examples,
    flatten,
    map_structure,
    owned,
    spec_of,
)


def test_lists_of_plain_values_are_arrays_and_others_are_structures():
    arrays = as_arrays(([1, 2], [[1.0], [2.0]], [np.zeros(2), [True, False]]))
    assert [array.dtype.name for _, array in flatten(arrays)] == ["int64", "float32", "float32", "bool"]
    assert [path for path, _ in flatten(arrays)] == ["0", "1", "2/0", "2/1"]


def test_a_list_of_texts_keeps_every_text_as_it_is():
    texts = as_arrays([b"ends in zero\0", b"", b"long" * 1000])
    assert texts.dtype == object
    assert texts.tolist() == [b"ends in zero\0", b"", b"long" * 1000]


def test_text_of_any_numpy_kind_becomes_an_object_array():
    kinds = [np.array(["a", "bc"]), np.array([b"a", b"bc"]), np.array(["a", "bc"], np.dtypes.StringDType())]
    assert [as_arrays(array).dtype for array in kinds] == [object] * 3
    assert [as_arrays(array).tolist() for array in kinds] == [["a", "bc"], [b"a", b"bc"], ["a", "bc"]]


def test_namedtuples_keep_their_type():
    pair = collections.namedtuple("pair", "x y")
    assert as_arrays(pair([1], [2])) == pair(np.array([1]), np.array([2]))
    assert map_structure(lambda number: number + 1, {"a": pair(1, [2])}) == {"a": pair(2, [3])}


def test_leaves_have_paths_and_none_is_not_a_leaf():
    found = flatten(({"x": 1, "y": [2, 3]}, None, 4))
    assert found == [("0/x", 1), ("0/y/0", 2), ("0/y/1", 3), ("2", 4)]
    assert flatten(5) == [("", 5)]


def test_float64_becomes_float32_and_other_numbers_keep_their_dtype():
    arrays = as_arrays({"a": np.zeros(2), "b": np.zeros(2, "float16"), "c": np.zeros(2, "int64"), "d": [1.5]})
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "a": "float32",
        "b": "float16",
        "c": "int64",
        "d": "float32",
    }


def test_an_empty_list_is_a_structure_without_arrays():
    assert as_arrays([]) == []


def test_the_digest_tells_paths_shapes_dtypes_and_contents_apart():
    x = np.arange(4, dtype="int32")
    different = [x, x[::-1], x.reshape(2, 2), x.astype("int64"), (x,), {"a": x}, np.array([b"a", b"bc"], object)]
    different += [np.array([b"ab", b"c"], object), Bags(x, np.ones(4, "float32"), np.array([0, 4]))]
    digests = [digest_of(each) for each in different]
    assert len(set(digests)) == len(different)
    assert digest_of(x.copy()) == digests[0]


def test_bags_have_the_form_of_their_batches_and_their_first_examples_are_bags():
    bags = Bags(np.int32([3, 1, 2]), np.float32([1, 2, 3]), np.array([0, 1, 3]))
    spec = spec_of(bags)
    assert {name: found.shape for name, found in spec.items()} == dict.fromkeys(spec, ())
    assert spec["ids"] == ArraySpec((), "int32")
    assert first_examples(bags, 1).ids.tolist() == [3]
    assert first_examples(np.arange(5), 2).tolist() == [0, 1]
    assert as_arrays((bags,)) == (bags,)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, ValueError, r"^Received None where an array was expected: leave it out"),
        (np.float32(3), ValueError, r"^Received the scalar .*3\.0.*: expected an array with one row per ex"),
        ([[1, 2], [3]], ValueError, r"^Cannot convert to an array: .* Pad rows of different lengths to one length\.$"),
        (np.array(["2026-01-01"], "M8[D]"), TypeError, r"^Received an array of datetime64\[D\]: expected numbers"),
        (np.array([1], "m8[D]"), TypeError, r"^Received an array of timedelta64\[D\]: expected numbers or text"),
        (np.array(["a", 1], object), TypeError, r"^An array of dtype object holds int; expected text"),
    ],
)
def test_a_value_that_is_not_an_array_is_refused_with_a_remedy(given, error, message):
    with pytest.raises(error, match=message):
        as_arrays(given)


def test_an_owned_batch_is_an_aligned_copy():
    batch = {"x": np.arange(6, dtype="int16").reshape(2, 3)[:, ::2], "text": np.array(["a", "b"], object)}
    for _ in range(5):
        found = owned(batch)
        assert found["x"].tolist() == [[0, 2], [3, 5]]
        assert found["text"].tolist() == ["a", "b"]
        assert found["x"].ctypes.data % ALIGNMENT == 0
    batch["x"][0, 0], batch["text"][0] = 9, "z"
    assert (found["x"][0, 0], found["text"][0]) == (0, "a")
    assert owned(np.zeros((0, 3))).shape == (0, 3)
    assert ALIGNMENT == 64


def test_the_form_of_an_array_is_named_without_its_batch():
    assert spec_of(np.zeros((4, 2, 3), "float16")) == ArraySpec((2, 3), "float16")
    assert spec_of(np.array(["a"], object)) == ArraySpec((), "string")
    assert (str(ArraySpec((None, 3), "int32")), str(ArraySpec((), "string"))) == (
        "int32[batch, None, 3]",
        "string[batch]",
    )


def test_texts_are_told_apart_by_where_they_end():
    one, other = (np.array(texts, object) for texts in (["a", "bc"], ["ab", "c"]))
    assert digest_of(one) != digest_of(other)
    assert digest_of(one) == digest_of(np.array([b"a", b"bc"], object))
