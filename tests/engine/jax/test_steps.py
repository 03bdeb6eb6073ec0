"""Traced steps on JAX: the dtypes that reach a step."""

import jax
import keras
import numpy as np
import pytest
from by_hand import (
    Line,
    learn,
)

from lightkeras.data.feed import ArrayFeed
from lightkeras.data.structure import ArraySpec
from lightkeras.engine.jax.steps import Traced, abstract, abstract_batch, check_no_text, form, strongly_typed
from lightkeras.engine.unsupported_layers import TextInputError


def test_text_is_refused_before_anything_is_compiled_and_the_way_out_is_named():
    feed = ArrayFeed({"text": np.array(["a", "b"])}, 2)
    with pytest.raises(
        ValueError, match=r"Array text of a batch is text, which JAX cannot compute with.* `build_encoder`"
    ):
        learn(Line(), feed)


def test_variables_that_are_never_written_are_read_only():
    read, written = keras.Variable(1.0), keras.Variable(2.0)
    traced = Traced((read, written), (written,), None, (), None)
    assert [variable is read for variable in traced.read_only] == [True]


def test_sizes_that_are_not_known_are_those_of_a_trace():
    spec = {"x": ArraySpec((None, 3), "float64"), "y": ArraySpec((), "int64")}
    found = abstract_batch(spec, None)
    assert {name: (leaf.shape, str(leaf.dtype)) for name, leaf in found.items()} == {
        "x": ((2, 64, 3), "float32"),
        "y": ((2,), "int32"),
    }
    assert abstract_batch(spec, 5)["x"].shape == (5, 64, 3)
    with pytest.raises(TextInputError, match="Array a of a batch is text"):
        abstract_batch({"a": ArraySpec((), "string")}, 5)


def test_arrays_lose_leading_axes_and_get_another():
    arrays = {"x": np.zeros((4, 2, 3), "float32")}
    assert abstract(arrays)["x"].shape == (4, 2, 3)
    assert abstract(arrays, drop=1)["x"].shape == (2, 3)
    assert abstract(arrays, drop=2, size=7)["x"].shape == (7, 3)
    assert form(arrays) == (("x", (4, 2, 3), "float32"),)


def test_a_number_becomes_an_array_of_a_fixed_type():
    assert not strongly_typed(2.0).weak_type
    assert jax.numpy.asarray(2.0).weak_type
    for dtype in ("string", "object"):
        with pytest.raises(TextInputError):
            check_no_text("x", dtype)
    check_no_text("x", "float32")


def test_a_variable_that_is_not_given_is_zero_in_a_call():
    used, unused = keras.Variable(np.float32([1, 2])), keras.Variable(np.float32([7]))

    def function(used_value, unused_value, batch):
        return {"sum": used_value.sum() + batch}, used_value * 2

    jaxpr = jax.make_jaxpr(function)(used.value, unused.value, np.float32(0))
    outputs = {"sum": jax.ShapeDtypeStruct((), "float32")}
    traced = Traced((used,), (used,), outputs, (used, unused), jaxpr)
    found, written = traced.call({id(used): jax.numpy.float32([3, 4])}, np.float32(0.5))
    assert (float(found["sum"]), [array.tolist() for array in written]) == (7.5, [[6, 8]])
    assert traced.read_only == ()
