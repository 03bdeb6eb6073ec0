"""Tests of the format `onnx`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

pytest.importorskip("onnxruntime", reason="the runtime onnxruntime is not installed")
pytestmark = pytest.mark.backends("tensorflow", reason="TensorFlow writes it")


def test_the_runtime_alone_computes_what_keras_does_at_any_batch_size(moons: Path, write: Callable[..., Any]) -> None:
    written = write(moons, "onnx")
    assert written.status == 0, written.error
    proof = written.prove("onnx")
    assert proof.largest_difference <= 1e-6
    assert list(proof.differences) == ["outputs"]
    assert proof.seconds is not None
    assert min(proof.seconds) > 0


def test_the_class_with_the_largest_logit_can_be_an_output(
    moons: Path, write: Callable[..., Any], tmp_path: Path
) -> None:
    points = keras.Input((2,))
    keras.Model(points, keras.ops.argmax(points, -1)).save(tmp_path / "argmax.keras")
    written = write(moons, "onnx", model_file=tmp_path / "argmax.keras")
    assert written.status == 0, written.error
    assert written.prove("onnx").largest_difference == 0
