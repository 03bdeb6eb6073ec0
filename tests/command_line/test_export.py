"""Tests of the command `lightkeras export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightkeras.command_line import entry_point, export
from lightkeras.exports.errors import ExportError
from lightkeras.exports.export import ExportResult

PORTS = {"kind": "one", "each": [{"name": "text", "dtype": "string", "shape": [None]}]}
OUT = {"kind": "one", "each": [{"name": "logit", "dtype": "float32", "shape": [None, 1]}]}
LATENCY = {"artifact_s": {"batch_1": 0.001, "batch_32": 0.002}, "predict_s": {"batch_1": 0.05, "batch_32": 0.06}}
RECORD = {
    "takes": PORTS,
    "inputs": PORTS,
    "outputs": OUT,
    "largest_difference": 2e-7,
    "tolerance": 1e-5,
    "examples": "test split",
    "sizes": {},
    "metrics": {},
    "quantize": None,
    "latency": LATENCY,
}


def exported(taken: dict[str, Any], **changes: Any) -> Any:
    def fake(run: str, format: str, out: str | None, **settings: Any) -> ExportResult:
        taken.update(run=run, format=format, out=out, **settings)
        record = {**RECORD, **changes}
        checked = record["largest_difference"] is not None
        return ExportResult(
            *(Path("out"), Path("out/model.onnx"), format, ("text",), ("logit",), checked),
            record["largest_difference"],
            record,
        )

    return fake


def test_it_prints_what_was_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    taken: dict[str, Any] = {}
    monkeypatch.setattr(export, "export", exported(taken))
    assert entry_point.main(["export", "runs/a", "--format", "onnx", "--task", "a.py:A", "--trust_run"]) == 0
    assert taken == {
        "run": "runs/a",
        "format": "onnx",
        "out": None,
        "part": "whole",
        "quantize": None,
        "outputs": "model",
        "task": "a.py:A",
        "trust_run": True,
        "unchecked": False,
    }
    lines = capsys.readouterr().out
    assert "inputs  text string [*]\n" in lines
    assert "outputs  logit float32 [*, 1]\n" in lines
    assert "differs by at most 2e-07 on 32 examples (test split, tolerance 1e-05)" in lines
    assert "batch of 1  1 ms, Keras predict 50 ms (50.0x)" in lines


def test_a_quantization_is_shown_with_what_was_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {"before": {"accuracy": 0.9}, "after": {"accuracy": 0.875}}
    found = exported({}, sizes={"before": 4000, "after": 1000}, metrics=metrics, quantize="int8")
    monkeypatch.setattr(export, "export", found)
    assert entry_point.main(["export", "runs/a", "--format", "onnx", "--quantize", "int8"]) == 0
    lines = capsys.readouterr().out
    assert "size  1,000 bytes, 25% of 4,000\n" in lines
    assert "accuracy  0.8750, 0.9000 before (int8)\n" in lines


def test_an_export_that_was_not_checked_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "export", exported({}, largest_difference=None, latency={}))
    assert entry_point.main(["export", "runs/a", "--format", "onnx", "--unchecked"]) == 0
    assert "checked  no: it was neither loaded nor compared (--unchecked)" in capsys.readouterr().out


def test_an_error_is_a_line_and_the_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry_point.main(["export", str(tmp_path), "--format", "weights"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds no run")
    assert issubclass(ExportError, ValueError)
