"""Traced steps on JAX: the dtypes that reach a step."""

import keras
import numpy as np
import pytest
from by_hand import (
    Line,
    learn,
)
from keras import ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine.jax.steps import Traced


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool"])
def test_numbers_of_any_dtype_reach_the_step(dtype):
    class Cast(Line):
        def loss(self, batch, training):
            self.dtype = batch[0].dtype.name
            return super().loss([ops.cast(part, "float32") for part in batch], training)

    x = np.array([[1], [0], [1]], dtype)
    for feed in (ArrayFeed((x, x), 2), as_feed(lambda: iter([(x[:2], x[:2]), (x[2:], x[2:])]))):
        task = Cast()
        logs = learn(task, feed)
        assert logs["largest"].tolist() == [1.0, 1.0]
        assert logs["loss"].tolist() == [0.0, 0.0]
        assert task.dtype == {"int64": "int32", "float64": "float32"}.get(dtype, dtype)


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
