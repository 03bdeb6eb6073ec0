"""Tests of the format `saved_model`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("tensorflow", reason="the runtime tensorflow is not installed")
pytestmark = [pytest.mark.backends("tensorflow", reason="TensorFlow writes it"), pytest.mark.long]


def test_the_runtime_alone_computes_what_keras_does_at_any_batch_size(
    assert_computes_the_same: Callable[[str], None],
) -> None:
    assert_computes_the_same("saved_model")
