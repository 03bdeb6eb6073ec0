"""Tests of the metrics of an artifact: with outputs that are known, and with those of a runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import lightkeras as lk
from lightkeras.exports import evaluation
from lightkeras.exports.errors import ExportError
from lightkeras.exports.evaluation import HeldOut, evaluate_artifact
from lightkeras.system import files
from lightkeras.testing import ArrayData, TwoMoons, two_moons


def record(outputs: str = "model", kind: str = "one", name: str = "logit", form: str = "onnx") -> dict[str, Any]:
    def ports(name: str, width: int) -> dict[str, Any]:
        return {"kind": kind, "each": [{"name": name, "dtype": "float32", "shape": [None, width]}]}

    return {
        "version": 1,
        "format": form,
        "file": "model.onnx",
        "part": "whole",
        "outputs_of": outputs,
        "backends": {"run": "jax", "written": "tensorflow"},
        "takes": ports("inputs", 2),
        "inputs": ports("inputs", 2),
        "outputs": ports(name, 1),
        "precision": "float32",
        "checked": True,
        "examples": "drawn",
        "tolerance": 1e-5,
        "largest_difference": 0.0,
        "files": {},
    }


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    files.write_json(tmp_path / "export.json", record())
    return tmp_path


def ready(task: lk.Task) -> lk.Task:
    task.set_up(0)
    assert task.data is not None
    task.data.prepare(task.lookup)
    return task


def test_the_metrics_are_those_of_the_outputs_of_the_artifact(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points, labels = two_moons(100, seed=2)
    logits = np.where(labels == 1, 3.0, -3.0).astype("float32")[:, None]
    logits[:25] *= -1  # a quarter is wrong
    monkeypatch.setattr(HeldOut, "outputs_of", lambda *_: {"logit": logits})
    monkeypatch.setattr(evaluation, "BATCH", 32)  # the last batch has 4 examples
    task = ready(TwoMoons())
    found = evaluate_artifact(task, artifact)
    assert (found.split, found.examples) == ("test", 100)
    assert found["accuracy"] == pytest.approx(0.75)
    assert found["loss"] == pytest.approx(0.75 * np.log1p(np.exp(-3)) + 0.25 * np.log1p(np.exp(3)), rel=1e-6)
    model = task.model(keras.ops.convert_to_tensor(points))
    assert not np.allclose(keras.ops.convert_to_numpy(model), logits)  # the model is itself again


def test_metrics_of_keras_are_computed_too(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ArrayData(two_moons(64), two_moons(64, seed=1), two_moons(64, seed=2), batch_size=32)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="sigmoid")])
    task = ready(lk.SupervisedTask(model, loss="binary_crossentropy", metrics=["accuracy"], data=data))
    labels = two_moons(64, seed=2)[1].astype("float32")[:, None]
    monkeypatch.setattr(HeldOut, "outputs_of", lambda *_: {"logit": 0.2 + 0.6 * labels})
    found = evaluate_artifact(task, artifact)
    assert found["accuracy"] == 1
    assert found["loss"] == pytest.approx(-np.log(0.8), rel=1e-5)


@pytest.mark.parametrize("change", [{"outputs_of": "predict"}, {"format": "weights"}])
def test_an_artifact_of_something_else_is_refused(artifact: Path, change: dict[str, str]) -> None:
    files.write_json(artifact / "export.json", {**record(), **change})
    with pytest.raises(ExportError, match="does not give the outputs of the model"):
        evaluate_artifact(ready(TwoMoons()), artifact)


def test_a_task_without_a_test_split_is_refused(artifact: Path) -> None:
    class NoTest(TwoMoons):
        def build_data(self) -> ArrayData:
            return ArrayData(two_moons(64), two_moons(64, seed=1))

    with pytest.raises(ExportError, match="NoTest has no test split"):
        evaluate_artifact(ready(NoTest()), artifact)


@pytest.mark.backends("tensorflow", reason="TensorFlow writes it")
def test_the_artifact_of_a_run_has_its_metrics(moons: Path, write: Callable[..., Any]) -> None:
    pytest.importorskip("onnxruntime", reason="the runtime is not installed")
    written = write(moons, "onnx")
    ports = {side: written.facts[side] for side in ("inputs", "outputs")}
    files.write_json(written.target / "export.json", {**record(), **ports})
    task = TwoMoons()
    tested = lk.Runner(run_dir=moons, progress=False, pictures=False).evaluate(task, weights="best")
    found = evaluate_artifact(task, written.target)
    assert found.examples == tested.examples
    assert dict(found.metrics) == pytest.approx(dict(tested.metrics), abs=1e-6)
    assert dataclasses.is_dataclass(found)
