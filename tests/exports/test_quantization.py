"""Tests of quantization."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from lightkeras import testing
from lightkeras.exports.errors import ExportError
from lightkeras.exports.formats import FORMATS
from lightkeras.exports.quantization import precision_of, quantized

FILE = testing.__file__


def test_keras_quantizes_what_it_can(moons: Path, write: Callable[..., Any]) -> None:
    written = write(moons, "weights", quantize="int8")
    assert written.status == 0, written.error
    assert written.facts["precision"] == "int8"
    with np.load(written.exchange / "expected.npz") as file:
        assert {str(file[name].dtype) for name in file.files if name.endswith("/kernel")} == {"int8"}
    assert written.facts["sizes"].keys() == {"before", "after"}
    assert "metrics" not in written.facts


@pytest.mark.backends("tensorflow", reason="TensorFlow writes it")
def test_sizes_and_metrics_are_those_before_and_after(moons: Path, write: Callable[..., Any]) -> None:
    pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
    written = write(moons, "litert", quantize="float16", task=f"{FILE}:TwoMoons")
    assert written.status == 0, written.error
    metrics, sizes = written.facts["metrics"], written.facts["sizes"]
    assert metrics["before"].keys() == metrics["after"].keys() == {"accuracy", "loss"}
    assert metrics["after"]["loss"] == pytest.approx(metrics["before"]["loss"], abs=1e-2)
    assert metrics["after"]["loss"] != metrics["before"]["loss"]
    assert sizes["after"] == (written.target / "model.tflite").stat().st_size
    assert written.prove("litert", 1e-2).largest_difference > 1e-6


@pytest.mark.backends("tensorflow", reason="TensorFlow writes it")
def test_an_unknown_quantization_lists_those_of_the_format(moons: Path, write: Callable[..., Any]) -> None:
    written = write(moons, "litert", quantize="int3")
    assert "--format litert itself has: float16, dynamic_range" in written.error["message"]
    assert not written.target.exists()


def test_a_model_without_such_a_layer_is_refused() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Activation("relu")])
    with pytest.raises(ExportError, match="no layer that Keras can quantize, such as Dense"):
        quantized(model, "int8", FORMATS["onnx"])


def test_the_precision_is_the_lowest_of_a_layer() -> None:
    half = keras.layers.Dense(2, dtype="mixed_bfloat16")
    assert precision_of(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])) == "float32"
    assert precision_of(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), half])) == "bfloat16"
