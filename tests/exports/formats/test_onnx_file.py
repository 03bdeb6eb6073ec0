"""Tests of the format `onnx`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

pytest.importorskip("onnxruntime", reason="the runtime onnxruntime is not installed")
pytestmark = pytest.mark.backends("tensorflow", reason="TensorFlow writes it")


def test_the_runtime_alone_computes_what_keras_does_at_any_batch_size(
    assert_computes_the_same: Callable[[str], None],
) -> None:
    assert_computes_the_same("onnx")


def test_the_class_with_the_largest_logit_can_be_an_output(
    moons: Path, write: Callable[..., Any], tmp_path: Path
) -> None:
    points = keras.Input((2,))
    keras.Model(points, keras.ops.argmax(points, -1)).save(tmp_path / "argmax.keras")
    written = write(moons, "onnx", model_file=tmp_path / "argmax.keras")
    assert written.status == 0, written.error
    assert written.prove("onnx").largest_difference == 0
