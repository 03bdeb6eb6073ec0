"""Tests of the comparison of an artifact with Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lightkeras.exports.errors import ExportError
from lightkeras.exports.formats import FORMATS
from lightkeras.exports.proof import prove
from lightkeras.system import files

VALUES = np.array([1.0, 2.0], "float32")


@pytest.fixture
def exchange(tmp_path: Path) -> Path:
    np.savez(tmp_path / "examples.npz", x=VALUES)
    np.savez(tmp_path / "expected.npz", kernel=VALUES, bias=VALUES)
    files.write_json(tmp_path / "written.json", {})
    return tmp_path


def proved(exchange: Path, tolerance: float = 1e-5, **arrays: Any) -> Any:
    save_file(arrays, exchange / "model.safetensors")
    return prove(FORMATS["weights"], exchange, exchange, tolerance, "tensorflow")


def test_equal_arrays_differ_by_nothing(exchange: Path) -> None:
    found = proved(exchange, kernel=VALUES, bias=VALUES)
    assert (found.largest_difference, found.differences, found.seconds) == (0, {"kernel": 0, "bias": 0}, None)


def test_the_difference_is_relative_to_the_largest_value(exchange: Path) -> None:
    assert proved(exchange, 0.25, kernel=VALUES + np.float32(0.5), bias=VALUES).largest_difference == 0.5
    with pytest.raises(ExportError, match=r"in the output 'kernel' by up to 0.5, expected at most 0.2 .*Nothing was"):
        proved(exchange, 0.2, kernel=VALUES + np.float32(0.5), bias=VALUES)


@pytest.mark.parametrize("wrong", [VALUES[:1], VALUES * np.float32("nan")], ids=["shape", "nan"])
def test_another_shape_or_a_value_that_is_not_finite_is_a_difference(exchange: Path, wrong: np.ndarray) -> None:
    with pytest.raises(ExportError, match="'bias' by up to inf"):
        proved(exchange, 100, kernel=VALUES, bias=wrong)


def test_an_output_that_is_missing_is_named(exchange: Path) -> None:
    with pytest.raises(ExportError, match="The artifact has no 'bias': it has kernel"):
        proved(exchange, kernel=VALUES)


def test_a_file_that_the_runtime_refuses_is_an_error_with_its_reason(exchange: Path) -> None:
    (exchange / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"was written, and safetensors cannot run it: .*header"):
        prove(FORMATS["weights"], exchange, exchange, 0, "tensorflow")
