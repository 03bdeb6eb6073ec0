"""Tests of the format `onnx`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="the runtime onnxruntime is not installed")
pytestmark = pytest.mark.backends("tensorflow", reason="TensorFlow writes it")


def test_the_runtime_alone_computes_what_keras_does_at_any_batch_size(moons: Path, write: Callable[..., Any]) -> None:
    written = write(moons, "onnx")
    assert written.status == 0, written.error
    proof = written.prove("onnx")
    assert proof.largest_difference <= 1e-6
    assert [name.startswith("dense") for name in proof.differences] == [True]
    assert proof.seconds is not None
    assert min(proof.seconds) > 0
