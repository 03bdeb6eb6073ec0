"""`lk.export`: writes a model in another format, and keeps it only if it computes the same.

find model.keras; check the destination and the installed packages    # before anything is written
a process with the backend of the format: load, check, write, compute the expected outputs
a process with the format's runtime alone: load, compute               # proof.py
compare; write export.json; move the folder to its place
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightkeras.exports.errors import ExportError
from lightkeras.exports.formats import FORMATS
from lightkeras.exports.formats.base import Format
from lightkeras.exports.proof import prove
from lightkeras.exports.record import RECORD, files_in, make_record
from lightkeras.exports.source import Source, source_of
from lightkeras.system import files
from lightkeras.system.messages import did_you_mean
from lightkeras.system.trust import UntrustedRunError

if TYPE_CHECKING:
    import keras

    from lightkeras.task import Task


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """An exported model.

    Args:
        path: Folder of the artifact and of `export.json`.
        file: The file, or the folder, that the runtime loads.
        format: Name of the format.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        checked: Whether it was loaded and compared.
        largest_difference: From Keras's outputs; `None` if it was not compared.
        record: Content of `export.json`.

    Example: `lk.export`.
    """

    path: Path
    file: Path
    format: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    checked: bool
    largest_difference: float | None
    record: Mapping[str, Any] = dataclasses.field(repr=False)


def export(
    run_or_model: str | os.PathLike[str] | keras.Model,
    format: str,
    out: str | os.PathLike[str] | None = None,
    *,
    part: Literal["whole", "numbers"] = "whole",
    quantize: str | None = None,
    outputs: Literal["model", "predict"] = "model",
    task: type[Task] | str | None = None,
    trust_run: bool = False,
    unchecked: bool = False,
) -> ExportResult:
    """Exports a model, loads it with the format's own runtime in a new process, and compares it with Keras.

    Args:
        run_or_model: A run directory, whose `model.keras` is exported; of a search its best trial's. Or a model.
        format: `"saved_model"`, `"onnx"`, `"litert"`, `"openvino"`, `"torch"`, `"keras"` or `"weights"`.
        out: Folder to create; `None` is `RUN/export/FORMAT`, and must be given for a model.
        part: `"numbers"` for the part of a text model after its vocabulary, with that and a reader of it.
        quantize: `"int8"` and others that Keras's `model.quantize` takes, or what the format has itself.
        outputs: `"predict"` for the outputs of the task's `predict_step`, by their names.
        task: The task's class, or `FILE.py:ClassName`, which is imported. Needed for models of classes of their own,
            for `outputs="predict"`, and to compare on the test split; `None` compares on drawn examples.
        trust_run: Runs code that only the run names, such as a TF Hub module.
        unchecked: Neither loads nor compares the artifact; `export.json` says so.

    Returns:
        The artifact.

    Raises:
        ExportError: The format cannot hold the model, its runtime is not installed, or the artifact does not compute
            the same; nothing remains of it.
        FileExistsError: The folder exists and holds something.
        FileNotFoundError: The run or its `model.keras` does not exist.
        UntrustedRunError: The model holds code that only the run names.
        OSError: It cannot be written; nothing remains of it.

    Examples:
        ```python
        import lightkeras as lk

        run_dir = lk.Runner(max_epochs=2).fit(lk.testing.TwoMoons()).run_dir
        result = lk.export(run_dir, "keras")  # "saved_model", "onnx", "litert", "openvino", "torch", "weights"
        print(result.file, result.largest_difference)
        ```
    """
    form = _format(format)
    if part not in ("whole", "numbers"):
        raise ExportError(f"part={part!r}: expected 'whole' or 'numbers'.")
    if outputs not in ("model", "predict"):
        raise ExportError(f"outputs={outputs!r}: expected 'model' or 'predict'.")
    form.check_installed(unchecked)
    with tempfile.TemporaryDirectory(prefix="lightkeras-export-") as folder:
        exchange = Path(folder)
        source = _source(run_or_model, exchange)
        target = _target(out, source, form)
        between = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        request = {
            "format": form.name,
            "model_file": str(source.model_file),
            "target": str(between),
            "run_dir": None if source.run_dir is None else str(source.run_dir),
            "task": _reference(task),
            "outputs": outputs,
            "part": part,
            "quantize": quantize,
            "trust_run": trust_run,
        }
        try:
            written = _written(request, exchange, form.backend or source.backend_that_runs())
            tolerance = form.tolerance(written["precision"])
            proof = None if unchecked else prove(form, between, exchange, tolerance, written["backend"])
            record = make_record(request, written, proof, tolerance, source, between)
            _keep(between, target, record)
        finally:
            shutil.rmtree(between, ignore_errors=True)
    names = {side: tuple(port["name"] for port in record[side]["each"]) for side in ("inputs", "outputs")}
    difference = None if proof is None else proof.largest_difference
    return ExportResult(
        target,
        target / form.file,
        form.name,
        **names,
        checked=not unchecked,
        largest_difference=difference,
        record=record,
    )


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise ExportError(f"format={name!r} is not known. {did_you_mean(name, FORMATS)}")
    return FORMATS[name]


def _source(given: Any, exchange: Path) -> Source:
    """The `.keras` file of a run, or of a model, which is written first."""
    if isinstance(given, (str, os.PathLike)):
        return source_of(Path(given))
    import keras

    if not isinstance(given, keras.Model):
        raise TypeError(f"export takes a run directory or a keras.Model, got {type(given).__name__}.")
    given.save(exchange / "model.keras")
    return Source(exchange / "model.keras", None, keras.backend.backend(), {})


def _target(out: str | os.PathLike[str] | None, source: Source, form: Format) -> Path:
    if out is None and source.run_dir is None:
        raise ExportError("export(model) needs `out`, the folder to create.")
    target = Path(out) if out is not None else Path(source.run_dir or "") / "export" / form.name
    for path in (target, *([] if out is not None else [target.parent])):  # RUN/export may come from somebody else
        files.check_no_link(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not empty. Give another --out, or remove it first.")
    return target


def _reference(task: type[Task] | str | None) -> str | None:
    """A task's class as `FILE.py:ClassName`, which another process imports."""
    if task is None or isinstance(task, str):
        return task
    try:
        file = inspect.getsourcefile(task)
    except TypeError:
        file = None
    if file is None or "." in task.__qualname__:
        raise ExportError(f"{task.__qualname__} is not at the top of a file, from which another process can import it.")
    return f"{file}:{task.__qualname__}"


def _written(request: Mapping[str, Any], exchange: Path, backend: str) -> dict[str, Any]:
    """Runs `writer.py` with a backend; raises its error."""
    files.write_json(exchange / "request.json", request)
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(paths),
        # The numbers are compared on the processor, and memory of a GPU is the user's.
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-m", "lightkeras.exports.writer", str(exchange)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if (exchange / "error.json").exists():
        error = files.read_json(exchange / "error.json")
        known = {kind.__name__: kind for kind in (UntrustedRunError, FileNotFoundError, OSError, ValueError)}
        raise known.get(error["kind"], ExportError)(error["message"])
    if done.returncode or not (exchange / "written.json").exists():
        last = done.stderr.strip().splitlines()[-3:]
        raise ExportError(f"The process that writes the artifact ended with {done.returncode}: {' '.join(last)[:800]}")
    written: dict[str, Any] = files.read_json(exchange / "written.json")
    return written


def _keep(folder: Path, target: Path, record: Mapping[str, Any]) -> None:
    with files.explained(target):
        files.write_json(folder / RECORD, record)
        for path in files_in(folder):
            files.sync(path)
        if target.exists():
            target.rmdir()  # empty, see `_target`
        files.move_synced(folder, target)
