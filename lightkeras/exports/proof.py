"""The proof of an export: a new process, with the format's runtime alone, computes what Keras did."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lightkeras.exports.errors import ExportError
from lightkeras.exports.formats.base import Format

READER = Path(__file__).with_name("reader.py")
SIZES = ("1", "7", "all")


@dataclasses.dataclass(frozen=True)
class Proof:
    """What was found.

    Args:
        largest_difference: Of any output of any example, at any batch size.
        differences: The largest by output.
        seconds: Median seconds of a call with 1 and with 32 examples; `None` for weights.
    """

    largest_difference: float
    differences: dict[str, float]
    seconds: tuple[float, float] | None


def prove(form: Format, artifact: Path, exchange: Path, tolerance: float, backend: str) -> Proof:
    """Loads an artifact in a new process, and compares its outputs with those expected.

    Args:
        form: The format.
        artifact: The folder of the artifact.
        exchange: Folder with `examples.npz` and `expected.npz`.
        tolerance: Largest difference, relative to the largest output if that exceeds 1.
        backend: Backend of Keras, where that is the runtime.

    Raises:
        ExportError: It does not load, or its outputs differ.
    """
    run_reader(form, artifact, exchange / "examples.npz", exchange / "found.npz", backend)
    with np.load(exchange / "expected.npz") as file:
        expected = {name: file[name] for name in file.files}
    with np.load(exchange / "found.npz") as file:
        found = {name: file[name] for name in file.files}
    seconds = found.pop("seconds", None)
    differences: dict[str, float] = {}
    for name, wanted in expected.items():
        for label in SIZES if form.computes else ("",):
            key = f"{label}/{name}" if label else name
            if key not in found:
                raise ExportError(f"The artifact has no {name!r}: it has {', '.join(sorted(found))}.")
            difference = _difference(wanted, found[key])
            differences[name] = max(differences.get(name, 0.0), difference)
    _check(form, expected, differences, tolerance)
    taken = None if seconds is None else (float(seconds[0]), float(seconds[1]))
    return Proof(max(differences.values(), default=0.0), differences, taken)


def run_reader(
    form: Format, artifact: Path, examples: Path, outputs: Path, backend: str, size: int | None = None
) -> None:
    """Runs `reader.py` on examples, whose folder has `written.json`; an ExportError if the runtime fails.

    With a batch size it computes the outputs alone.
    """
    command = [sys.executable, "-P", str(READER), form.name, str(artifact / form.file), str(examples), str(outputs)]
    command += [str(examples.with_name("written.json")), *([] if size is None else [str(size)])]
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": backend}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        last = [line for line in done.stderr.strip().splitlines() if line.strip()][-3:]
        raise ExportError(f"The artifact was written, and {form.runtime} cannot run it: {' '.join(last)[:600]}")


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.shape != found.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    one, other = (array.astype(np.float64) for array in (expected, found))
    return float(np.max(np.abs(one - other))) if np.isfinite(other).all() else float("inf")


def _check(
    form: Format, expected: Mapping[str, np.ndarray], differences: Mapping[str, float], tolerance: float
) -> None:
    wrong = [
        f"{name!r} by up to {difference:.3g}"
        for name, difference in differences.items()
        if not difference <= (tolerance * max(1.0, float(np.abs(expected[name].astype(np.float64)).max(initial=0))))
    ]
    if wrong:
        raise ExportError(
            f"The artifact does not compute what the model does: {form.runtime} differs from Keras in the output "
            f"{', '.join(wrong)}, expected at most {tolerance:.3g} (relative to the largest output if that exceeds 1). "
            "Nothing was kept."
        )
