"""Tests of what the formats have in common."""

from __future__ import annotations

from typing import ClassVar

import pytest

from lightkeras.exports.errors import ExportError
from lightkeras.exports.formats import FORMATS
from lightkeras.exports.formats.onnx_file import Onnx


def test_every_format_says_what_writes_and_what_reads_it() -> None:
    assert list(FORMATS) == ["saved_model", "onnx", "litert", "openvino", "torch", "keras", "weights"]
    assert {name: form.backend for name, form in FORMATS.items()} == {
        **dict.fromkeys(("saved_model", "onnx", "litert", "openvino"), "tensorflow"),
        "torch": "torch",
        **dict.fromkeys(("keras", "weights")),
    }
    assert [name for name, form in FORMATS.items() if form.takes_text] == ["saved_model", "keras", "weights"]


class _Absent(Onnx):  # type: ignore[misc]
    runtime: ClassVar[str] = "a_runtime_that_is_absent"
    tools: ClassVar[tuple[str, ...]] = ()


class _NoTools(Onnx):  # type: ignore[misc]
    tools: ClassVar[tuple[str, ...]] = ("a_tool.that_is_absent",)


def test_a_runtime_that_is_not_installed_is_refused_with_the_command_that_installs_it() -> None:
    with pytest.raises(ExportError, match=r"needs a_runtime_that_is_absent.*pip install 'lightkeras\[export-onnx\]'.*"):
        _Absent().check_installed(unchecked=False)
    _Absent().check_installed(unchecked=True)


def test_what_writes_a_format_is_needed_unchecked_too() -> None:
    with pytest.raises(ExportError, match=r"needs a_tool.that_is_absent") as raised:
        _NoTools().check_installed(unchecked=True)
    assert "--unchecked" not in str(raised.value)


def test_a_lower_precision_has_a_wider_tolerance() -> None:
    found = [FORMATS["onnx"].tolerance(name) for name in ("float32", "float16", "bfloat16", "int8")]
    assert found == sorted(found)
    assert found[0] == 1e-5
