"""Export of the best model to `model.keras`."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lightkeras.encoders.base import JoinError
from lightkeras.runs import checkpoint, formats
from lightkeras.runs.directory import RunDirectory
from lightkeras.system import files
from lightkeras.system.held_values import same_bits
from lightkeras.system.tensorflow import tensorflow_left_out
from lightkeras.system.variables import CheckpointError, check_values
from lightkeras.task import Task
from lightkeras.training import freezing
from lightkeras.training.saver import Job
from lightkeras.training.stepper import bound_engine

_FIRST_YEAR = 1980


def export_best_model(
    task: Task, directory: RunDirectory, report: Callable[[str], None], captured: Job | None = None
) -> None:
    """Writes `model.keras` with the weights of the checkpoint `best`, if there is one; the task keeps its own.

    A model that cannot be written is a warning; one that cannot take raw inputs is reported to the user.

    Args:
        task: The task.
        directory: The run directory.
        report: Called with a line for the user.
        captured: The checkpoint `best` if it is still in memory; `None` reads it.

    Raises:
        OSError: The file cannot be written.
    """
    folder = directory.checkpoints
    if captured is None and not (folder / "best").exists():
        return
    before, frozen = bound_engine(task).hold(task.variables()), freezing.record(task, freezing.flags_of(task))
    try:
        if captured is None:
            best = checkpoint.load(checkpoint.find(folder, "best"), formats.RunState, _wanted(task))
            state, arrays = best.state, best.arrays
        else:
            state, arrays = captured.state, captured.captured.arrays
        freezing.restore(task, state.get("frozen"))
        _assign_changed(task, task.variables() if _wanted(task) is None else task.model_variables(), arrays)
        model = _model_of(task, directory, report)
        if model is not None:
            write_model(model, directory.model_file)
    except (CheckpointError, FileNotFoundError) as error:
        warnings.warn(f"{directory.model_file} was not written: {error}", stacklevel=2)
    except NotImplementedError as error:  # a class without `get_config`: its weights are still in the checkpoints
        reason = " ".join(str(error).split())
        warnings.warn(f"{directory.model_file} was not written: {reason[:200]}", stacklevel=2)
    finally:
        freezing.restore(task, frozen)  # before the values: it may recreate the slots of an optimizer
        _assign_changed(task, task.variables(), before.arrays)


def _wanted(task: Task) -> Mapping[str, keras.Variable] | None:
    """The variables that `model.keras` holds, by key; `None` for all, because a compiled model has its optimizer's."""
    model = vars(task).get("model")
    return None if isinstance(model, keras.Model) and model.compiled else task.model_variables()


def _assign_changed(task: Task, variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray]) -> None:
    """Assigns the values that differ from those of the variables."""
    arrays = {key: array for key, array in arrays.items() if key in variables}
    check_values(variables, arrays)
    now = bound_engine(task).hold(variables).arrays
    for key, variable in variables.items():
        if not same_bits(now[key], arrays[key]):
            variable.assign(arrays[key])


def write_model(model: keras.Model, path: Path) -> None:
    """Saves a model atomically, without the optimizer that was set on it for callbacks."""
    from lightkeras.training.model_archive import weights_written_in_place  # extends a class of Keras

    folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    lent = None if model.compiled else vars(model).get("optimizer")
    try:
        if not model.compiled:
            model.optimizer = None
        with (
            files.explained(path),
            tensorflow_left_out(),
            _times_of_zip(),
            weights_written_in_place(),
            _loadable(model),
        ):
            folder.mkdir()
            model.save(folder / path.name)
            files.sync(folder / path.name)
            files.move_synced(folder / path.name, path)
    finally:
        if not model.compiled:
            model.optimizer = lent
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _loadable(model: keras.Model) -> Iterator[None]:
    """Context in which batch normalizations are not `synchronized` where Keras would refuse to load them."""
    normalizations = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    refused = [layer for layer in normalizations if layer.synchronized and not _is_constructed(layer)]
    for layer in refused:
        layer.synchronized = False
    try:
        yield
    finally:
        for layer in refused:
            layer.synchronized = True


def _is_constructed(layer: keras.Layer) -> bool:
    try:
        type(layer).from_config(layer.get_config())
    except (ValueError, TypeError):
        return False
    return True


@contextlib.contextmanager
def _times_of_zip() -> Iterator[None]:
    """Lets Keras write a zip file where the clock stands before 1980, which is the first year of that format."""
    if time.localtime().tm_year >= _FIRST_YEAR:
        yield
        return

    class ZipInfo(zipfile.ZipInfo):
        def __init__(self, filename: str = "NoName", date_time: Any = None) -> None:
            super().__init__(filename, (_FIRST_YEAR, 1, 1, 0, 0, 0))

    original = zipfile.ZipInfo
    zipfile.ZipInfo = ZipInfo  # type: ignore[misc]
    try:
        yield
    finally:
        zipfile.ZipInfo = original  # type: ignore[misc]


def _model_of(task: Task, directory: RunDirectory, report: Callable[[str], None]) -> keras.Model | None:
    try:
        return task.model_to_export()
    except JoinError as error:
        report(f"{directory.model_file} takes features and not the encoder's inputs: {error}")
        return vars(task).get("model")
