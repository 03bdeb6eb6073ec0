"""Tests of the format `litert`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("ai_edge_litert", reason="the runtime ai_edge_litert is not installed")
pytestmark = pytest.mark.backends("tensorflow", reason="TensorFlow writes it")


def test_the_runtime_alone_computes_what_keras_does_at_any_batch_size(
    assert_computes_the_same: Callable[[str], None],
) -> None:
    assert_computes_the_same("litert")
