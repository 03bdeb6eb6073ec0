"""The process that writes an artifact: it has the backend that the format needs, which the user's process need not.

    KERAS_BACKEND=tensorflow python -m lightkeras.exports.writer FOLDER

It reads `FOLDER/request.json`, loads the model, refuses what the format cannot hold before anything is written, writes
the artifact, and leaves `examples.npz`, `expected.npz` and `written.json`, or `error.json`, in FOLDER.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lightkeras.encoders.base import JoinError, model_ends
from lightkeras.encoders.hub.layer import runs_modules
from lightkeras.exports import examples
from lightkeras.exports.errors import ExportError
from lightkeras.exports.evaluation import HeldOut
from lightkeras.exports.formats import FORMATS
from lightkeras.exports.formats.base import Format, Program
from lightkeras.exports.formats.weights import weights_of
from lightkeras.exports.loading import load_model, make_task
from lightkeras.exports.parts import Part, part_of
from lightkeras.exports.ports import Port, Ports, ports_of
from lightkeras.exports.quantization import Before, precision_of, quantized
from lightkeras.exports.tensors import tensor_of, tensors
from lightkeras.exports.text_stage import TextStage
from lightkeras.runs.directory import RunDirectory
from lightkeras.runs.untrusted import untrusted_in
from lightkeras.system import environment, files, trust
from lightkeras.task import Task
from lightkeras.training.task_file import load_task

TIMED = 15
"""Calls of `predict` that the median latency is of."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be written; see `export.export`.

    Args:
        format: Name of the format.
        model_file: The `.keras` file.
        target: Folder to write to, which is created.
        run_dir: The run; `None` for a model in memory.
        task: `FILE.py:ClassName`; `None` for none.
        outputs: `"model"` or `"predict"`.
        part: `"whole"` or `"numbers"`.
        quantize: What to quantize to; `None` for nothing.
        trust_run: Whether code that only the run names may run.
    """

    format: str
    model_file: str
    target: str
    run_dir: str | None = None
    task: str | None = None
    outputs: str = "model"
    part: str = "whole"
    quantize: str | None = None
    trust_run: bool = False


def write(request: Request, exchange: Path) -> dict[str, Any]:
    """Writes an artifact, its examples and the outputs that are expected for them; returns the facts about it."""
    form = FORMATS[request.format]
    task_class = None if request.task is None else load_task(request.task)
    with _trusting(request, task_class):
        whole = load_model(Path(request.model_file), task_class, request.trust_run)
        task = None
        if task_class is not None and request.run_dir is not None:
            task = make_task(task_class, Path(request.run_dir))
        taken = inputs_of_model(whole)
        part = part_of(whole, taken, request.part, form, exchange / "text_stage")
        given, origin = _examples(whole, task, taken)
        program = _program(part, task, given, request.outputs)
        # The text stage is compared too, where Keras has string operations.
        runs_whole = part.stage is None or runs_modules()
        expected = _expected(
            _call_of(whole, task, taken, request.outputs) if runs_whole else None, program, part, given
        )
        before = None
        if request.quantize is not None:
            before = Before(form, program, _held_out(request, task, taken, program.outputs), part.arrays)
        precision = precision_of(whole) if request.quantize is None else quantized(part.model, request.quantize, form)
        own = request.quantize if request.quantize in form.quantizes else None
        target = Path(request.target)
        _write(form, dataclasses.replace(program, quantize=own), part.stage, target)
        examples.save_arrays(exchange / "examples.npz", given)
        examples.save_arrays(exchange / "expected.npz", expected if form.computes else weights_of(part.model))
        return {
            "takes": taken.record(),
            "inputs": program.inputs.record(),
            "outputs": program.outputs.record(),
            "classes": _files_of_classes(part.model, request.task),
            "trust_run": request.trust_run,
            "examples": origin,
            "precision": precision,
            "predict_seconds": _latencies(whole, taken, given) if form.computes and runs_whole else None,
            "backend": keras.backend.backend(),
            "versions": environment.versions(),
            **({} if before is None else before.compared(target)),
        }


def _program(part: Part, task: Task | None, given: Mapping[str, np.ndarray], which: str) -> Program:
    """What is written, with the outputs that it has for some examples."""
    inputs = inputs_of_model(part.model)
    call = _call_of(part.model, task, inputs, which)
    first = part.arrays({name: array[:2] for name, array in given.items()})
    outputs = _outputs_of(part.model, call(tensors(first)), which)
    return Program(part.model, lambda batch: outputs.unpack(call(batch)), inputs, outputs)


def _expected(whole: Any, program: Program, part: Part, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs for the examples by name: of the call of the whole model, or of its part if that is `None`."""
    if whole is None:
        found = program.call(tensors(part.arrays(given)))
    else:
        found = program.outputs.unpack(whole(tensors(given)))
    expected = {name: np.asarray(keras.ops.convert_to_numpy(value)) for name, value in found.items()}
    _check_finite(expected)
    return expected


def _write(form: Format, program: Program, stage: TextStage | None, target: Path) -> None:
    with files.explained(target):
        target.mkdir(parents=True)
        form.write(program, target)
        if stage is not None:
            stage.write(target)


def inputs_of_model(model: keras.Model) -> Ports:
    """The inputs of a model; those of a subclass from the shapes that it was built with."""
    try:
        structure, _ = model_ends(model)
        names = [tensor.name for tensor in keras.tree.flatten(structure)]
        return ports_of(structure, names, "inputs")
    except JoinError:
        shapes = model.get_build_config() or {}
    built = shapes.get("input_shape") or (shapes.get("shapes_dict") or {}).get("inputs_shape")
    if built is None:
        raise ExportError(f"{type(model).__name__} {model.name!r} does not record the shape of its inputs.")

    def spec(shape: Any) -> Port:
        return Port("inputs", model.input_dtype, tuple(shape))

    if isinstance(built, Mapping):
        return ports_of({name: spec(shape) for name, shape in built.items()}, (), "inputs")
    if isinstance(built[0], (list, tuple)):
        return ports_of([spec(shape) for shape in built], (), "inputs")
    return ports_of(spec(built), (), "inputs")


def _examples(model: keras.Model, task: Task | None, inputs: Ports) -> tuple[dict[str, np.ndarray], str]:
    """The examples and their origin: random if there is no task or its data does not fit the model."""
    if task is None:
        return examples.drawn_examples(model, inputs), "drawn"
    try:
        found, split = examples.examples_of(task, inputs)
    except ExportError as error:  # as of a GAN, whose generator takes noise and whose data are images
        return examples.drawn_examples(model, inputs), f"drawn: {error}"
    return found, f"{split} split"


def _call_of(model: keras.Model, task: Task | None, inputs: Ports, outputs: str) -> Any:
    """What computes the outputs, in their structure, from inputs by name."""
    if outputs == "model":
        return lambda batch: model(inputs.pack(batch), training=False)
    if task is None:
        raise ExportError("--outputs predict needs the class that defines predict_step: give --task FILE.py:ClassName.")
    if not isinstance(vars(task).get("model"), keras.Model):
        raise ExportError(f"--outputs predict needs a `self.model`, which {type(task).__name__} does not have.")

    def predict(batch: Mapping[str, Any]) -> Any:
        task.model = model
        return task.run_predict_step((inputs.pack(batch),))

    return predict


def _outputs_of(model: keras.Model, found: Any, outputs: str) -> Ports:
    names: list[str] = []
    if outputs == "model" and not isinstance(found, Mapping):
        try:
            names = list(keras.Model(*model_ends(model)).output_names)
        except JoinError:  # a subclass
            names = []
    found = keras.tree.map_structure(_spec_of, found)
    return ports_of(found, names, "outputs" if outputs == "model" else "prediction")


def _held_out(request: Request, task: Task | None, inputs: Ports, outputs: Ports) -> HeldOut | None:
    """The test split that a quantized model is measured on; `None` if there is none, or no outputs of the model."""
    computes = request.outputs == "model" and FORMATS[request.format].computes
    if task is None or not computes or not isinstance(vars(task).get("model"), keras.Model):
        return None
    has_test = task.data is not None and task.data.test() is not None
    return HeldOut(task, inputs, outputs) if has_test else None


def _spec_of(tensor: Any) -> keras.KerasTensor:
    return keras.KerasTensor(tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))


def _check_finite(expected: Mapping[str, np.ndarray]) -> None:
    for name, array in expected.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ExportError(
                f"The model's output {name!r} is not finite for its examples: its weights are not worth exporting. "
                "Give a run that did not diverge."
            )


def _files_of_classes(model: keras.Model, task: str | None) -> list[str]:
    """What must be imported before plain Keras loads the model: modules, and the file of the task."""
    owners = {type(layer).__module__.partition(".")[0] for layer in [model, *examples.layers_of(model)]} - {"keras"}
    ours = ["lightkeras"] if "lightkeras" in owners else []
    return [*ours, *([] if task is None or not owners - {"lightkeras"} else [task.rpartition(":")[0]])]


def _latencies(model: keras.Model, inputs: Ports, given: Mapping[str, np.ndarray]) -> list[float]:
    """Median seconds of Keras's `predict` with 1 and with 32 examples."""
    found = []
    for size in (1, examples.COUNT):
        batch = inputs.pack({name: tensor_of(array[:size]) for name, array in given.items()})
        model.predict(batch, verbose=0)
        taken = []
        for _ in range(TIMED):
            began = time.perf_counter()
            model.predict(batch, verbose=0)
            taken.append(time.perf_counter() - began)
        found.append(float(np.median(taken)))
    return found


@contextlib.contextmanager
def _trusting(request: Request, task_class: type[Task] | None) -> Iterator[None]:
    found = None
    if not request.trust_run and request.run_dir is not None and task_class is not None:
        run_dir = Path(request.run_dir)
        config = RunDirectory(run_dir).read_config()
        recorded = config.get("lookup", {}).get("data_dir")
        found = untrusted_in(run_dir, task_class.HParams, config.get("hparams", {}), recorded)
    with trust.trusting(found):
        yield


def main(folder: Path) -> int:
    """Runs the request in a folder; returns the exit status."""
    request = Request(**files.read_json(folder / "request.json"))
    try:
        files.write_json(folder / "written.json", write(request, folder))
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        files.write_json(folder / "error.json", {"kind": type(error).__name__, "message": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
