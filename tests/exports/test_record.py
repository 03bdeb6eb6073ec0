"""Tests of `export.json`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lightkeras.exports.proof import Proof
from lightkeras.exports.record import RECORD, files_in, make_record, read_record
from lightkeras.exports.source import Source
from lightkeras.system import files

PORTS = {"kind": "one", "each": [{"name": "x", "dtype": "float32", "shape": [None, 2]}]}
REQUEST = {"format": "onnx", "part": "whole", "outputs": "model", "quantize": None}
WRITTEN = {
    "takes": PORTS,
    "inputs": PORTS,
    "outputs": PORTS,
    "precision": "float32",
    "examples": "drawn",
    "backend": "tensorflow",
    "versions": {"keras": "3.10.0"},
    "predict_seconds": [0.5, 1.0],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "artifact" / "sub").mkdir(parents=True)
    (tmp_path / "artifact" / "sub" / "model.bin").write_bytes(b"abc")
    (tmp_path / "model.keras").write_bytes(b"model")
    return tmp_path / "artifact"


def made(folder: Path, proof: Proof | None) -> dict[str, object]:
    source = Source(folder.parent / "model.keras", None, "jax", {})
    return make_record(REQUEST, WRITTEN, proof, 1e-5, source, folder)


def test_it_has_sizes_hashes_differences_and_latencies_and_is_read_again(folder: Path) -> None:
    record = made(folder, Proof(0.1, {"x": 0.1}, (0.25, 0.5)))
    digest = hashlib.blake2b(b"abc", digest_size=16).hexdigest()
    assert record["files"] == {"sub/model.bin": {"bytes": 3, "blake2b": digest}}
    assert record["latency"] == {
        "artifact_s": {"batch_1": 0.25, "batch_32": 0.5},
        "predict_s": {"batch_1": 0.5, "batch_32": 1.0},
    }
    assert record["backends"] == {"run": "jax", "written": "tensorflow"}
    assert (record["checked"], record["largest_difference"], record["differences"]) == (True, 0.1, {"x": 0.1})
    files.write_json(folder / RECORD, record)
    assert read_record(folder) == record


def test_without_a_proof_it_says_that_nothing_was_checked(folder: Path) -> None:
    record = made(folder, None)
    assert (record["checked"], record["largest_difference"], record["latency"]) == (False, None, {})


def test_a_folder_without_one_is_an_error(folder: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"holds no export.json: give the folder that `lightkeras export` wrote"
    ):
        read_record(folder)


def test_another_version_is_refused(folder: Path) -> None:
    files.write_json(folder / RECORD, {**made(folder, None), "version": 2})
    with pytest.raises(files.DamagedFileError, match="version"):
        read_record(folder)


def test_the_files_are_those_below_the_folder(folder: Path) -> None:
    assert list(files_in(folder)) == [folder / "sub" / "model.bin"]
