"""`export.json`: what is known of an artifact."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightkeras.exports.formats import FORMATS
from lightkeras.exports.formats.base import Format
from lightkeras.exports.proof import Proof
from lightkeras.exports.source import Source
from lightkeras.runs import formats
from lightkeras.system import environment, files

RECORD = "export.json"
VERSION = 1
"""Version of `export.json`."""


def read_record(artifact: Path) -> dict[str, Any]:
    """Reads the `export.json` of an artifact.

    Raises:
        FileNotFoundError: The folder holds none.
        DamagedFileError: The file is damaged, or names a file outside the folder.
    """
    if not files.is_file(artifact / RECORD):
        raise FileNotFoundError(f"{artifact} holds no {RECORD}: give the folder that `lightkeras export` wrote.")
    record: dict[str, Any] = files.read_json(artifact / RECORD, formats.Export)
    return record


def make_record(
    request: Mapping[str, Any],
    written: Mapping[str, Any],
    proof: Proof | None,
    tolerance: float,
    source: Source,
    folder: Path,
) -> dict[str, Any]:
    """Returns the content of `export.json`.

    Args:
        request: What was asked for; the fields of `writer.Request`.
        written: What the process that wrote it found.
        proof: The comparison; `None` if there was none.
        tolerance: Largest difference that was allowed.
        source: The model.
        folder: Folder of the artifact.
    """
    latency = {}
    if proof is not None and proof.seconds is not None and written["predict_seconds"] is not None:
        latency = {
            name: {"batch_1": seconds[0], "batch_32": seconds[1]}
            for name, seconds in (("artifact_s", proof.seconds), ("predict_s", written["predict_seconds"]))
        }
    return {
        "version": VERSION,
        "format": request["format"],
        "file": FORMATS[request["format"]].file,
        "part": request["part"],
        "outputs_of": request["outputs"],
        "quantize": request["quantize"],
        "made": environment.now(),
        "run": None if source.run_dir is None else str(source.run_dir),
        "backends": {"run": source.backend, "written": written["backend"]},
        "model": {"blake2b": _hash(source.model_file), "bytes": source.model_file.stat().st_size},
        "takes": written["takes"],
        "inputs": written["inputs"],
        "outputs": written["outputs"],
        "precision": written["precision"],
        "checked": proof is not None,
        "examples": written["examples"],
        "tolerance": tolerance,
        "largest_difference": None if proof is None else proof.largest_difference,
        "differences": None if proof is None else proof.differences,
        "latency": latency,
        "sizes": written.get("sizes", {}),
        "metrics": written.get("metrics", {}),
        "versions": {**written["versions"], **_versions(FORMATS[request["format"]])},
        "files": {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "blake2b": _hash(path)}
            for path in files_in(folder)
        },
    }


def _versions(form: Format) -> dict[str, str]:
    found = {}
    for module in (form.runtime, *form.tools):
        try:
            found[module] = importlib.metadata.version(module.replace("_", "-"))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def files_in(folder: Path) -> Iterator[Path]:
    """The files in a folder and below it, in order."""
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
