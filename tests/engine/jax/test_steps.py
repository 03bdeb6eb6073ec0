"""Traced steps on JAX: the dtypes that reach a step."""

import keras
import numpy as np
import pytest
from by_hand import (
    Line,
    learn,
)

from lightkeras.data.feed import ArrayFeed
from lightkeras.engine.jax.steps import Traced


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
