"""Arrays, texts and structures of them as batches."""

import collections

import numpy as np

from lightkeras.data.structure import as_arrays, flatten, map_structure


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
