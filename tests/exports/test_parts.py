"""Exports of the numeric part of models that take text, with the text stage beside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import lightkeras as lk
from lightkeras.data.lookup import Lookup
from lightkeras.exports.evaluation import HeldOut, evaluate_artifact
from lightkeras.exports.formats import FORMATS
from lightkeras.exports.ports import Ports
from lightkeras.exports.reader import with_preprocessing
from lightkeras.exports.text_stage import READER, split_text
from lightkeras.training.task_file import load_task

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
pytestmark = pytest.mark.backends("tensorflow", reason="text runs there alone")


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("words", "onnx"),
        pytest.param("grams", "litert", marks=pytest.mark.long),
        *[
            pytest.param("words", name, marks=pytest.mark.long)
            for name in ("saved_model", "litert", "openvino", "keras")
        ],
        *[pytest.param("grams", name, marks=pytest.mark.long) for name in ("saved_model", "onnx", "openvino", "keras")],
    ],
)
def test_numbers_and_their_text_stage_compute_the_whole(
    run: str, name: str, write: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    pytest.importorskip(FORMATS[name].runtime, reason="the runtime is not installed")
    written = write(request.getfixturevalue(run), name, part="numbers")
    assert written.status == 0, written.error
    names = [port["name"] for port in written.facts["inputs"]["each"]]
    assert names == (["words"] if run == "words" else ["counts", "ids", "rows", "weights"])
    assert set(os.listdir(written.target)) > {"preprocess.json", "preprocess.py", "vocabulary.txt"}
    with np.load(written.exchange / "examples.npz") as examples:
        assert examples["text"].dtype.kind == "S"  # the proof begins with texts
    assert written.prove(name).largest_difference < 1e-6


@pytest.mark.long
def test_a_wrong_vocabulary_does_not_pass(words: Path, write: Callable[..., Any]) -> None:
    pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
    written = write(words, "litert", part="numbers")
    lines = (written.target / "vocabulary.txt").read_bytes().split(b"\n")
    (written.target / "vocabulary.txt").write_bytes(b"\n".join([*lines[:2], *lines[:1:-1]]))
    with pytest.raises(lk.ExportError, match="The artifact does not compute what the model does"):
        written.prove("litert", tolerance=1e-9)


def test_numbers_of_a_model_without_text_are_refused(moons: Path, write: Callable[..., Any]) -> None:
    written = write(moons, "weights", part="numbers")
    assert "takes no text. Give --part whole, which is the default." in written.error["message"]
    assert not written.target.exists()


@pytest.mark.long
@pytest.mark.parametrize("run", ["words", "grams"])
def test_torch_takes_any_number_of_texts(run: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    import torch

    from lightkeras.exports.preprocess_words import Preprocessor

    result = lk.export(request.getfixturevalue(run), "torch", tmp_path / "out", part="numbers")
    assert result.largest_difference < 1e-6
    preprocess, program = Preprocessor(result.path), torch.export.load(result.file).module()
    for texts in ([""], ["unknown"], ["a good film", ""], ["dull"] * 40):
        arrays = preprocess(texts)
        found = program(*(torch.from_numpy(arrays[name]) for name in result.inputs))
        assert len(next(iter(found.values()))) == len(texts)


@pytest.mark.long
@pytest.mark.parametrize("name", ["words", "grams"])
def test_the_metrics_of_numbers_are_those_of_the_run(
    name: str, text_tasks: dict[str, type[lk.Task]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("onnxruntime", reason="the runtime is not installed")
    run = request.getfixturevalue(name)
    result = lk.export(run, "onnx", tmp_path / "out", part="numbers")
    assert result.record["takes"]["each"][0]["dtype"] == "string"
    task = text_tasks[name]()
    tested = lk.Runner(run_dir=run, progress=False, pictures=False).evaluate(task, weights="best")
    found = evaluate_artifact(task, result.path)
    assert found.examples == tested.examples
    assert dict(found.metrics) == pytest.approx(dict(tested.metrics), abs=1e-6)


def test_nothing_in_the_folder_of_an_artifact_is_executed(tmp_path: Path) -> None:
    encoder = lk.TextVectorizer(8, 2)
    encoder.fit([np.array(["a good film"], dtype=object)])
    words = encoder.inputs()
    stage, _ = split_text(encoder.join(keras.Model(words, keras.layers.Embedding(8, 2)(words))))
    stage.write(tmp_path)
    assert (tmp_path / "preprocess.py").read_bytes() == READER.read_bytes()
    (tmp_path / "preprocess.py").write_text("raise SystemExit('executed')")
    run = with_preprocessing(lambda inputs: inputs, str(tmp_path))
    assert run({"text": np.array([b"film good"])})["words"].tolist() == [
        encoder.encode(np.array(["film good"]))[0].tolist()
    ]


@pytest.mark.real
@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("imdb_hub.py:ImdbHub", {"module": "glove-6b-50d"}),
        ("imdb_integers.py:ImdbIntegers", {}),
        ("text_guide.py:TextGuide", {"model": "ngrams", "ngrams": 2}),
    ],
)
def test_all_real_reviews_are_answered_as_by_predict(task: str, settings: dict[str, Any], tmp_path: Path) -> None:
    import tensorflow as tf

    pytest.importorskip("onnxruntime", reason="the runtime is not installed")
    kind = load_task(f"{EXPERIMENTS / task}")
    trained = kind(kind.HParams(**settings), Lookup("real"))
    lk.Runner(run_dir=tmp_path / "run", max_epochs=1, progress=False, pictures=False).fit(trained)
    exported = lk.export(tmp_path / "run", "onnx", part="numbers", trust_run=True)
    takes, outputs = (Ports.of_record(exported.record[side]) for side in ("takes", "outputs"))
    held_out = HeldOut(trained, takes, outputs)
    [found] = held_out.outputs_of(exported.path, exported.record).values()
    [texts] = held_out.arrays.values()
    assert len(texts) == 25_000
    model = keras.saving.load_model(tmp_path / "run" / "model.keras", safe_mode=False)
    wanted = model.predict(tf.constant(texts), batch_size=256, verbose=0)
    # The module adds the rows of a review one by one, in float32.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()))
