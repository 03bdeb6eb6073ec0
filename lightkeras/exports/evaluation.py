"""Metrics of an artifact on a split of its task: its own runtime computes the outputs, the task the metrics of them."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import keras
import numpy as np

from lightkeras.data.bags import Bags
from lightkeras.data.held_out import held_out_of
from lightkeras.data.structure import Structure, flatten, map_structure
from lightkeras.encoders.base import batches_of, inputs_of, with_inputs
from lightkeras.exports.errors import ExportError
from lightkeras.exports.examples import by_name, plain, save_arrays
from lightkeras.exports.formats import FORMATS
from lightkeras.exports.ports import Ports
from lightkeras.exports.proof import run_reader
from lightkeras.exports.record import read_record
from lightkeras.runs.results import EvalResult
from lightkeras.system import files
from lightkeras.task import Task
from lightkeras.training.metric_values import values_of

BATCH = 256
"""Examples in a call of the runtime, and in a step."""


@final
class HeldOut:
    """A split of a task, whose metrics are computed from outputs that are known.

    Args:
        task: The task, set up with the encoder of the run, and its data prepared.
        inputs: The inputs of the whole model.
        outputs: Its outputs.
        split: `"validation"` or `"test"`; of several sets the first is taken.

    Attributes:
        arrays: The inputs of all examples by name.

    Raises:
        ExportError: The task has no `self.model` or no such split, or the split has other inputs.
    """

    def __init__(self, task: Task, inputs: Ports, outputs: Ports, split: str = "test") -> None:
        model = vars(task).get("model")
        if not isinstance(model, keras.Model):
            raise ExportError(f"{type(task).__name__} has no `self.model` whose outputs an artifact could give.")
        feeds = {} if task.data is None else held_out_of(task.data, split)
        if not feeds:
            raise ExportError(f"{type(task).__name__} has no {split} split.")
        self._task, self._model, self._outputs = task, model, outputs
        self._wholes = list(batches_of(next(iter(feeds.values()))))
        given = [by_name(inputs, inputs_of(whole)) for whole in self._wholes]
        self.arrays = {name: _joined([one[name] for one in given]) for name in inputs.names}

    def metrics(self, found: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Means of the values that `evaluate_step` logs, if `self.model` returns the outputs `found`."""
        self._task.reset_metrics()
        sums, done = dict[str, float](), 0
        for part in self._parts():
            count = len(flatten(part)[0][1])
            answers = {name: keras.ops.convert_to_tensor(array[done : done + count]) for name, array in found.items()}
            with _answering(self._model, self._outputs.pack(answers)):
                logs = self._task.run_evaluate_step(_tensors(self._encoded(part)))
            for name, value in logs.items():
                sums[name] = sums.get(name, 0.0) + count * float(keras.ops.convert_to_numpy(value))
            done += count
        return {name: total / done for name, total in sums.items()} | dict(values_of(self._task))

    def outputs_of(self, artifact: Path, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The outputs of an artifact for all examples, by its own runtime; `record` is as in `export.json`."""
        own = inspect.getsourcefile(type(self._task))
        with tempfile.TemporaryDirectory(prefix="lightkeras-artifact-") as folder:
            exchange = Path(folder)
            save_arrays(exchange / "examples.npz", self.arrays)
            # Not the classes that `export.json` names: it may come from somebody else.
            facts = {"classes": ["lightkeras", *([own] if own else [])], "trust_run": False}
            ports = {side: record[side] for side in ("inputs", "outputs")}
            files.write_json(exchange / "written.json", {**ports, **facts})
            paths = (exchange / "examples.npz", exchange / "found.npz")
            run_reader(FORMATS[record["format"]], artifact, *paths, record["backends"]["written"], BATCH)
            with np.load(exchange / "found.npz") as file:
                return {name: file[name] for name in file.files}

    def _parts(self) -> Iterator[Structure]:
        """Batches of at most `BATCH` examples."""
        for whole in self._wholes:
            for first in range(0, len(flatten(whole)[0][1]), BATCH):
                yield map_structure(lambda leaf, chosen=slice(first, first + BATCH): leaf[chosen], whole)  # type: ignore[misc]

    def _encoded(self, batch: Structure) -> Structure:
        encoder = self._task.frozen()
        return batch if encoder is None else with_inputs(batch, encoder.encode(inputs_of(batch)))


def evaluate_artifact(task: Task, artifact: Path, split: str = "test") -> EvalResult:
    """Evaluates an artifact on a split: in `evaluate_step`, `self.model` returns the outputs of the artifact.

    Args:
        task: The task, set up with the encoder of the run, and its data prepared.
        artifact: Folder of the artifact, with `export.json`.
        split: `"validation"` or `"test"`; of several sets the first is taken.

    Returns:
        Means of the logged values, as `Runner.evaluate` computes them.

    Raises:
        FileNotFoundError: The folder holds no artifact.
        ExportError: The artifact has no outputs of the whole model, or the task no such model or split.
    """
    began, record = time.perf_counter(), read_record(artifact)
    if record["outputs_of"] != "model" or not FORMATS[record["format"]].computes:
        raise ExportError(
            f"This artifact ({record['format']}, outputs of {record['outputs_of']}) does not give the outputs of "
            "the model, which the task's metrics are computed from."
        )
    inputs, outputs = (Ports.of_record(record[side]) for side in ("takes", "outputs"))
    held_out = HeldOut(task, inputs, outputs, split)
    metrics = held_out.metrics(held_out.outputs_of(artifact, record))
    examples = len(held_out.arrays[inputs.names[0]])
    return EvalResult(split, metrics, examples, time.perf_counter() - began)


def _joined(arrays: list[Any]) -> np.ndarray:
    return plain(np.concatenate([np.asarray(array) for array in arrays]))


def _tensors(batch: Structure) -> Structure:
    """The arrays of a batch as tensors; texts stay as they are, for a model that is not run."""

    def tensor(leaf: Any) -> Any:
        if isinstance(leaf, Bags):
            return {name: keras.ops.convert_to_tensor(array) for name, array in leaf.batch().items()}
        return leaf if leaf.dtype.kind in "OSU" else keras.ops.convert_to_tensor(leaf)

    return map_structure(tensor, batch)


@contextlib.contextmanager
def _answering(model: keras.Model, outputs: Structure) -> Iterator[None]:
    """Lets a model return known outputs, whatever it is called with."""

    def call(*args: Any, **kwargs: Any) -> Structure:
        return outputs

    model.call = call
    try:
        yield
    finally:
        del model.call
