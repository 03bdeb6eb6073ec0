"""Exports of the numeric part of models that take text, with the text stage beside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lightkeras as lk
from lightkeras.exports.formats import FORMATS

pytestmark = pytest.mark.backends("tensorflow", reason="text runs there alone")


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("words", "onnx"),
        ("grams", "litert"),
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
