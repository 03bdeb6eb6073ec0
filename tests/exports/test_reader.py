"""Tests of the program that runs an artifact without lightkeras and Keras."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np

from lightkeras.exports import reader
from lightkeras.exports.formats import FORMATS


def test_it_knows_every_format() -> None:
    assert reader.FORMATS.keys() == FORMATS.keys()


def test_it_imports_nothing_but_the_runtimes_and_numpy() -> None:
    tree = ast.parse(Path(reader.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    runtimes = {form.runtime for form in FORMATS.values()}
    assert foreign == {"numpy", *runtimes}


def test_batches_have_all_examples_in_their_order() -> None:
    sizes: list[int] = []

    def doubled(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(inputs["x"]))
        return {"y": 2 * inputs["x"]}

    found = reader.batched(doubled, {"x": np.arange(32)}, 7)
    assert sizes == [7, 7, 7, 7, 4]
    np.testing.assert_array_equal(found["y"], 2 * np.arange(32))


def test_an_import_of_keras_fails_in_it(tmp_path: Path) -> None:
    path = tmp_path / "tries.py"
    path.write_text(Path(reader.__file__).read_text().replace("from safetensors.numpy import", "import keras  #"))
    np.savez(tmp_path / "examples.npz", x=np.zeros(1))
    command = [sys.executable, str(path), "weights", "none", str(tmp_path / "examples.npz"), "none"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "import of keras halted" in done.stderr
