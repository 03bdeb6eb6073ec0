"""Tests of `lk.export`, with the processes that it starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import keras
import pytest

import lightkeras as lk
from lightkeras.exports import export as module
from lightkeras.system import files

pytestmark = pytest.mark.backends("tensorflow", reason="it starts the backend that it needs itself")


def test_an_export_is_proven_and_recorded(moons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # of the user's process: it stays as it is
    result = lk.export(moons, "onnx", tmp_path / "out")
    assert os.environ["KERAS_BACKEND"] == "jax"
    assert (result.checked, result.inputs, result.path) == (True, ("inputs",), tmp_path / "out")
    assert result.largest_difference is not None
    assert result.largest_difference < 1e-6
    record = files.read_json(tmp_path / "out" / "export.json")
    assert record == result.record
    assert record["files"].keys() == {"model.onnx"}
    assert record["files"]["model.onnx"]["bytes"] == result.file.stat().st_size
    assert record["backends"]["written"] == "tensorflow"
    assert record["latency"].keys() == {"artifact_s", "predict_s"}
    assert sorted(os.listdir(tmp_path)) == ["out"]


def fails(*args: Any, **kwargs: Any) -> Any:
    raise lk.ExportError("it differs")


def written(request: Any, exchange: Path, backend: str) -> dict[str, Any]:
    folder = Path(request["target"])
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    ports = {"kind": "one", "each": [{"name": "x", "dtype": "float32", "shape": [None]}]}
    facts = {
        "takes": ports,
        "inputs": ports,
        "outputs": ports,
        "precision": "float32",
        "examples": "drawn",
        "predict_seconds": None,
    }
    return {**facts, "backend": backend, "versions": {}, "request": dict(request)}


def test_nothing_remains_of_what_fails_the_proof(moons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_written", written)
    monkeypatch.setattr(module, "prove", fails)
    with pytest.raises(lk.ExportError, match="it differs"):
        lk.export(moons, "weights", tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_unchecked_is_recorded(moons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_written", written)
    monkeypatch.setattr(module, "prove", fails)
    result = lk.export(moons, "weights", tmp_path / "out", unchecked=True)
    assert (result.checked, result.largest_difference) == (False, None)
    assert files.read_json(tmp_path / "out" / "export.json")["checked"] is False


def test_a_full_disk_leaves_nothing_half_written(moons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: Any) -> None:
        if path.name == "export.json":
            raise OSError(28, "No space left on device")
        write_json(path, data)

    write_json = files.write_json
    monkeypatch.setattr(module, "_written", written)
    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(OSError, match=r"could not write .*out: No space left"):
        lk.export(moons, "weights", tmp_path / "out", unchecked=True)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_holds_something_is_refused(moons: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match=r"exists and is not empty. Give another --out, or remove it first"):
        lk.export(moons, "weights", tmp_path)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_nothing_is_written_behind_a_link_in_the_run(moons: Path, tmp_path: Path) -> None:
    run = shutil.copytree(moons, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    (tmp_path / "elsewhere").mkdir()
    (run / "export").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="export is a link"):
        lk.export(run, "weights")
    assert os.listdir(tmp_path / "elsewhere") == []


def test_the_default_folder_is_in_the_run(moons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_written", written)
    assert lk.export(moons, "weights", unchecked=True).path == moons / "export" / "weights"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onxx"}, r"format='onxx' is not known. Did you mean 'onnx'"),
        ({"format": "onnx", "part": "half"}, "part='half': expected 'whole' or 'numbers'"),
        ({"format": "onnx", "outputs": "all"}, "outputs='all': expected 'model' or 'predict'"),
    ],
)
def test_a_wrong_argument_is_refused(moons: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(lk.ExportError, match=message):
        lk.export(moons, **arguments)


def test_a_model_in_memory_needs_a_folder() -> None:
    with pytest.raises(lk.ExportError, match="needs `out`"):
        lk.export(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), "weights")
    with pytest.raises(TypeError, match=r"takes a run directory or a keras.Model, got int"):
        lk.export(5, "weights")  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.parametrize("name", ["saved_model", "litert", "openvino", "torch", "keras", "weights"])
def test_every_format_is_proven(moons: Path, tmp_path: Path, name: str) -> None:
    if name != "weights":
        pytest.importorskip(module.FORMATS[name].runtime, reason="the runtime is not installed")
    result = lk.export(moons, name, tmp_path / "out")
    assert result.checked
    assert result.largest_difference is not None
    assert result.largest_difference < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("run", ["words", "grams"])
def test_keras_with_text_is_proven(run: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    result = lk.export(request.getfixturevalue(run), "keras", tmp_path / "out")
    assert result.largest_difference == pytest.approx(0, abs=1e-6)  # batches of 1 and 7 are summed in another order


def test_the_class_of_a_task_is_given_by_its_file() -> None:
    assert module._reference(lk.testing.TwoMoons) == f"{lk.testing.__file__}:TwoMoons"

    class Local(lk.testing.TwoMoons):
        pass

    with pytest.raises(lk.ExportError, match="is not at the top of a file"):
        module._reference(Local)
    assert module._reference(None) is None
