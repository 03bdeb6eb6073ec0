"""Metrics of an artifact on a split of its task: its own runtime computes the outputs, the task the metrics of them."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lightkeras.data.bags import Bags
from lightkeras.data.feed import Feed
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
    model, feed = _model_of(task, record), _feed_of(task, split)
    inputs, outputs = (Ports.of_record(record[side]) for side in ("inputs", "outputs"))
    wholes = list(batches_of(feed))
    given = [by_name(inputs, inputs_of(whole)) for whole in wholes]
    found = _computed(task, artifact, record, {name: _joined([one[name] for one in given]) for name in inputs.names})
    task.reset_metrics()
    sums, done = dict[str, float](), 0
    for part in _parts(wholes):
        count = len(flatten(part)[0][1])
        answers = {name: keras.ops.convert_to_tensor(array[done : done + count]) for name, array in found.items()}
        with _answering(model, outputs.pack(answers)):
            logs = task.run_evaluate_step(_tensors(_encoded(task, part)))
        for name, value in logs.items():
            sums[name] = sums.get(name, 0.0) + count * float(keras.ops.convert_to_numpy(value))
        done += count
    metrics = {name: total / done for name, total in sums.items()} | dict(values_of(task))
    return EvalResult(split, metrics, done, time.perf_counter() - began)


def _model_of(task: Task, record: Mapping[str, Any]) -> keras.Model:
    if record["part"] != "whole" or record["outputs_of"] != "model" or not FORMATS[record["format"]].computes:
        raise ExportError(
            f"This artifact ({record['format']}, part {record['part']}, outputs of {record['outputs_of']}) does not "
            "give the outputs of the whole model, which the task's metrics are computed from."
        )
    model = vars(task).get("model")
    if not isinstance(model, keras.Model):
        raise ExportError(f"{type(task).__name__} has no `self.model` whose outputs an artifact could give.")
    return model


def _feed_of(task: Task, split: str) -> Feed:
    feeds = {} if task.data is None else held_out_of(task.data, split)
    if not feeds:
        raise ExportError(f"{type(task).__name__} has no {split} split.")
    return next(iter(feeds.values()))


def _joined(arrays: list[Any]) -> np.ndarray:
    return plain(np.concatenate([np.asarray(array) for array in arrays]))


def _computed(
    task: Task, artifact: Path, record: Mapping[str, Any], given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The outputs of the artifact."""
    form = FORMATS[record["format"]]
    own = inspect.getsourcefile(type(task))
    with tempfile.TemporaryDirectory(prefix="lightkeras-artifact-") as folder:
        exchange = Path(folder)
        save_arrays(exchange / "examples.npz", given)
        # Not the classes that the file names: it may come from somebody else.
        facts = {"classes": ["lightkeras", *([own] if own else [])], "trust_run": False}
        files.write_json(exchange / "written.json", {"inputs": record["inputs"], "outputs": record["outputs"], **facts})
        paths = (exchange / "examples.npz", exchange / "found.npz")
        run_reader(form, artifact, *paths, record["backends"]["written"], BATCH)
        with np.load(exchange / "found.npz") as file:
            return {name: file[name] for name in file.files}


def _parts(wholes: list[Structure]) -> Iterator[Structure]:
    """Batches of at most `BATCH` examples."""
    for whole in wholes:
        for first in range(0, len(flatten(whole)[0][1]), BATCH):
            yield map_structure(lambda leaf, chosen=slice(first, first + BATCH): leaf[chosen], whole)  # type: ignore[misc]


def _encoded(task: Task, batch: Structure) -> Structure:
    encoder = task.frozen()
    return batch if encoder is None else with_inputs(batch, encoder.encode(inputs_of(batch)))


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
