"""The programs of the page on serving, run as a reader runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from documents import Document

import lightkeras as lk

pytestmark = [pytest.mark.backends("tensorflow", reason="text runs there alone"), pytest.mark.long]
PAGE = Document("docs/how_to/serve.md")
ASKED = ["a good film", "", "dull and long", "unknown!"]


def program(name: str) -> str:
    """The block of a program of the page, by the name that the page gives to it."""
    text = PAGE.text.split(f"`{name}`", 1)[1]
    found = re.search(r"^```py\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def lines_of(name: str) -> int:
    return sum(bool(line.strip()) for line in program(name).splitlines())


def logits_of(run: Path) -> Any:
    import tensorflow as tf

    return keras.saving.load_model(run / "model.keras")(tf.constant(ASKED)).numpy()


class Words(lk.Task):
    """A logit of a text."""

    def build_data(self) -> lk.DataModule:
        texts = np.array(["a good film", "a dull film!", "good, really good", "dull and long"] * 8, dtype=object)
        split = (texts, np.tile(np.array([1, 0], "int32"), 16))
        return lk.testing.ArrayData(split, split, split, batch_size=16)

    def build_encoder(self) -> lk.Encoder:
        return lk.TextVectorizer(max_tokens=8, length=4)

    def build_model(self) -> keras.Model:
        words = self.encoder.inputs()
        x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(self.encoder.vocabulary_size, 4)(words))
        return keras.Model(words, keras.layers.Dense(1)(x))

    def loss(self, batch: Any, training: bool) -> Any:
        logit = keras.ops.squeeze(self.model(batch[0], training=training), -1)
        return keras.ops.mean(keras.ops.softplus(logit) - keras.ops.cast(batch[1], "float32") * logit)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "words"
    lk.Runner(run_dir=folder, max_epochs=1, progress=False, pictures=False, preflight=False).fit(Words())
    return folder


@pytest.fixture(scope="module")
def words_onnx(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tf2onnx", reason="the extra export-onnx is not installed")
    return lk.export(words, "onnx", tmp_path_factory.mktemp("served") / "words", part="numbers").path


def test_a_new_environment_with_onnxruntime_alone_runs_the_artifacts(
    words: Path, words_onnx: Path, tmp_path: Path
) -> None:
    images = keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(), keras.layers.Dense(10, name="logits")])
    digits = lk.export(images, "onnx", tmp_path / "digits").path
    pixels = np.random.default_rng(0).random((3, 28, 28)).astype("float32")
    np.save(tmp_path / "images.npy", pixels)
    assert lines_of("ask.py") <= 15
    (tmp_path / "ask.py").write_text(program("ask.py"))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    installed = subprocess.run([python, "-m", "pip", "install", "-q", "onnxruntime"], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"no package index can be reached: {installed.stderr.splitlines()[-1]}")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    listed = subprocess.run([python, "-m", "pip", "list"], env=clean, capture_output=True, text=True, check=True).stdout
    assert not {"keras", "tensorflow", "lightkeras", "torch", "jax"} & set(listed.lower().split())

    def ask(*given: Any) -> Any:
        done = subprocess.run([python, "ask.py", *given], cwd=tmp_path, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        name, _, values = done.stdout.partition(" ")
        return name, json.loads(values)

    name, found = ask(words_onnx, *ASKED)
    assert name == "outputs"
    np.testing.assert_allclose(found, logits_of(words), atol=1e-6)
    name, found = ask(digits, "images.npy")
    assert name == "logits"
    np.testing.assert_allclose(found, images(pixels), atol=1e-5)


@pytest.fixture
def served(words_onnx: Path, tmp_path: Path) -> Iterator[str]:
    """The address of `serve.py`, which is stopped afterwards."""
    for name in ("fastapi", "uvicorn", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    (tmp_path / "serve.py").write_text(program("serve.py"))
    command = [sys.executable, "-m", "uvicorn", "serve:app", "--host", "127.0.0.1", "--port", "0"]
    environment = {**os.environ, "ARTIFACT": str(words_onnx), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            lines = []
            for line in server.stderr or ():
                lines.append(line)
                if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                    yield found[1]
                    break
            else:
                raise AssertionError("".join(lines))
        finally:
            server.terminate()


def test_fastapi_answers_texts(served: str, words: Path) -> None:
    assert lines_of("serve.py") <= 20
    request = urllib.request.Request(f"{served}/predict", json.dumps({"texts": ASKED}).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.load(answer)
    np.testing.assert_allclose(found["outputs"], logits_of(words), atol=1e-6)


def test_the_signature_of_a_saved_model_is_that_of_the_page(words: Path, tmp_path: Path) -> None:
    from tensorflow.python.tools import saved_model_utils

    result = lk.export(words, "saved_model", tmp_path / "out")
    graph = saved_model_utils.get_meta_graph_def(str(result.file), "serve")  # as `saved_model_cli show` reads it
    signature = graph.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert {
        name: (info.dtype, [dim.size for dim in info.tensor_shape.dim]) for name, info in signature.inputs.items()
    } == {
        "text": (7, [-1])  # DT_STRING
    }
    assert list(signature.outputs) == ["outputs"]
    assert "--signature_def serving_default" in PAGE.text
