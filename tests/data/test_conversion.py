"""Arrays of other libraries are read as they are meant, or refused with what to do."""

import numpy as np
import pytest

from lightkeras.data.arrays import as_feed


def sparse():
    return pytest.importorskip("scipy.sparse").csr_matrix(np.eye(3, dtype="float32"))


def sparse_array():
    return pytest.importorskip("scipy.sparse").csr_array(np.eye(3, dtype="float32"))


def tf_sparse():
    import tensorflow as tf

    return tf.sparse.from_dense(np.eye(3, dtype="float32"))


def ragged():
    import tensorflow as tf

    return tf.ragged.constant([[1.0], [1.0, 2.0]])


def torch_sparse():
    return pytest.importorskip("torch").eye(3).to_sparse()


def jax_sparse():
    pytest.importorskip("jax")
    from jax.experimental import sparse

    return sparse.BCOO.fromdense(np.eye(3, dtype="float32"))


def masked():
    return np.ma.masked_less(np.arange(3.0), 1)


REFUSED = {
    "scipy": (sparse, r"csr_matrix: .*x\.toarray\(\)"),
    "scipy array": (sparse_array, r"csr_array: .*x\.toarray\(\)"),
    "tf.sparse": (tf_sparse, r"SparseTensor: .*tf\.sparse\.to_dense\(x\)"),
    "tf.ragged": (ragged, r"RaggedTensor: .*x\.to_tensor\(\)"),
    "torch": (torch_sparse, r"Tensor: .*x\.to_dense\(\)"),
    "jax": (jax_sparse, r"BCOO: .*x\.todense\(\)"),
    "masked": (masked, r"masked array with 1 masked values.*x\.filled\(0\)"),
}


@pytest.mark.parametrize("place", ["alone", "in a tuple", "in a batch"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_numpy_cannot_hold_is_refused_with_what_to_do(name, place):
    make, message = REFUSED[name]
    x = make()
    given = {"alone": lambda: x, "in a tuple": lambda: (x, np.zeros(3)), "in a batch": lambda: lambda: iter([(x,)])}
    with pytest.raises(TypeError, match=message):
        as_feed(given[place]())


def test_a_masked_array_without_a_mask_is_an_array():
    assert as_feed(np.ma.masked_less(np.arange(3.0), -1)).arrays.tolist() == [0.0, 1.0, 2.0]


def frame(**columns):
    return pytest.importorskip("pandas").DataFrame(columns)


def test_columns_of_booleans_and_nullable_numbers_are_numbers():
    pandas = pytest.importorskip("pandas")
    found = as_feed(frame(a=[1.5, 2.5], b=[True, False])).arrays
    assert (found.tolist(), found.dtype.name) == ([[1.5, 1.0], [2.5, 0.0]], "float32")
    found = as_feed(frame(a=pandas.array([1, None], "Int64"), b=pandas.array([True, False], "boolean"))).arrays
    np.testing.assert_array_equal(found, np.float32([[1, 1], [np.nan, 0]]))
    labels = as_feed(pandas.Series(pandas.array([1, 0], "Int64"))).arrays
    assert (labels.tolist(), labels.dtype.name) == ([1, 0], "int64")
    assert as_feed(pandas.Series([True, False])).arrays.dtype.name == "bool"


def test_columns_of_text_alone_are_text():
    pandas = pytest.importorskip("pandas")
    assert as_feed(pandas.Series(["a", "b"])).arrays.tolist() == ["a", "b"]
    assert as_feed(pandas.Series(["a", "b"], dtype="string")).arrays.tolist() == ["a", "b"]


def test_columns_that_are_not_numbers_are_named():
    with pytest.raises(TypeError, match=r"DataFrame are not numbers: b \(.*\)\. Encode them"):
        as_feed(frame(a=[1.0, 2.0], b=["x", "y"]))


def test_dates_are_refused_with_how_to_make_them_numbers():
    with pytest.raises(TypeError, match=r"datetime64.* days since"):
        as_feed(np.array(["2024-01-01", "2024-01-02"], "datetime64[D]"))
