"""Tests of the format `saved_model`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow", reason="the runtime tensorflow is not installed")
pytestmark = [pytest.mark.backends("tensorflow", reason="TensorFlow writes it"), pytest.mark.long]


def test_the_runtime_alone_computes_what_keras_does_at_any_batch_size(moons: Path, write: Callable[..., Any]) -> None:
    written = write(moons, "saved_model")
    assert written.status == 0, written.error
    proof = written.prove("saved_model")
    assert proof.largest_difference <= 1e-6
    assert list(proof.differences) == ["outputs"]
    assert proof.seconds is not None
    assert min(proof.seconds) > 0
