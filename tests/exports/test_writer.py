"""Tests of the process that writes an artifact, run in this one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from lightkeras import testing
from lightkeras.exports.errors import ExportError
from lightkeras.exports.writer import inputs_of_model

pytestmark = pytest.mark.backends("tensorflow", reason="text runs there alone")
FILE = testing.__file__


@pytest.mark.parametrize("name", ["onnx", "litert", "openvino"])
@pytest.mark.parametrize(("run", "layer"), [("words", "words (TextVectorization)"), ("grams", "bags (NgramBags)")])
def test_text_is_refused_before_anything_is_written(
    run: str, layer: str, name: str, write: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    written = write(request.getfixturevalue(run), name)
    assert written.status == 1
    assert written.error["kind"] == "ExportError"
    assert f"the input 'text' takes; it is read by {layer}. Give --format saved_model" in written.error["message"]
    assert not written.target.exists()


@keras.saving.register_keras_serializable(package="tests")
class Spectrum(layers.Layer):  # type: ignore[misc]
    """Singular values."""

    def call(self, inputs: Any) -> Any:
        return keras.ops.svd(inputs, compute_uv=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnx", r"ONNX lacks operators of the model: Svd \(in \S*spectrum\w*/Svd\). Give --format saved_model"),
        ("litert", r"LiteRT lacks operators of the model: Svd \(in \S*spectrum\w*/Svd\). Give --format saved_model"),
        (
            "openvino",
            r"OpenVINO lacks operators of the model: Svd \(in \S*spectrum\w*/Svd\). Give --format saved_model",
        ),
    ],
)
def test_an_operator_that_a_format_lacks_is_named(
    name: str, message: str, moons: Path, write: Callable[..., Any], tmp_path: Path
) -> None:
    points = keras.Input((2, 2))
    keras.Model(points, Spectrum(name="spectrum")(points)).save(tmp_path / "svd.keras")
    written = write(moons, name, model_file=tmp_path / "svd.keras")
    assert written.status == 1
    assert re.search(message, written.error["message"]), written.error["message"]


@pytest.mark.parametrize("run", ["words", "grams"])
def test_a_saved_model_takes_text(run: str, write: Callable[..., Any], request: pytest.FixtureRequest) -> None:
    import tensorflow as tf

    written = write(request.getfixturevalue(run), "saved_model")
    assert written.status == 0, written.error
    assert [(port["name"], port["dtype"]) for port in written.facts["inputs"]["each"]] == [("text", "string")]
    loaded = tf.saved_model.load(written.target / "saved_model")
    with np.load(written.exchange / "examples.npz") as file, np.load(written.exchange / "expected.npz") as expected:
        found = loaded.signatures["serving_default"](text=tf.constant(file["text"]))
        np.testing.assert_allclose(found["outputs"], expected["outputs"], atol=1e-6)


def test_with_the_task_the_examples_are_of_the_test_split(moons: Path, write: Callable[..., Any]) -> None:
    written = write(moons, "weights", task=f"{FILE}:TwoMoons")
    assert written.status == 0, written.error
    assert written.facts["examples"] == "test split"
    with np.load(written.exchange / "examples.npz") as file:
        np.testing.assert_array_equal(file["inputs"], testing.two_moons(100, seed=2)[0][:32])


def test_examples_are_drawn_if_the_data_of_the_task_is_no_input_of_the_model(
    moons: Path, write: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(task: Any, inputs: Any) -> Any:
        raise ExportError("other inputs")

    monkeypatch.setattr("lightkeras.exports.examples.examples_of", other)
    written = write(moons, "weights", task=f"{FILE}:TwoMoons")
    assert written.facts["examples"] == "drawn: other inputs"


def test_the_outputs_of_predict_step_need_the_task(moons: Path, write: Callable[..., Any]) -> None:
    written = write(moons, "weights", outputs="predict")
    assert "give --task FILE.py:ClassName" in written.error["message"]


def test_with_the_task_the_outputs_can_be_those_of_its_predict_step(moons: Path, write: Callable[..., Any]) -> None:
    pytest.importorskip("onnxruntime", reason="the runtime is not installed")
    written = write(moons, "onnx", outputs="predict", task=f"{FILE}:TwoMoons")
    assert written.status == 0, written.error
    assert written.prove("onnx").differences.keys() == {"prediction"}


def test_weights_that_are_not_finite_are_refused(moons: Path, write: Callable[..., Any], tmp_path: Path) -> None:
    model = keras.saving.load_model(moons / "model.keras")
    model.layers[-1].bias.assign([float("nan")])
    model.save(tmp_path / "broken.keras")
    written = write(moons, "weights", model_file=tmp_path / "broken.keras")
    assert "is not finite for its examples" in written.error["message"]
    assert not written.target.exists()


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):  # type: ignore[misc]
    """A model whose inputs Keras knows from its build alone."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)


def test_the_inputs_of_a_subclassed_model_are_those_of_its_build() -> None:
    model = Subclassed()
    model(np.zeros((3, 4), "float32"))
    assert [(port.name, port.shape) for port in inputs_of_model(model).each] == [("inputs", (None, 4))]
