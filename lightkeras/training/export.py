"""Export of the best model to `model.keras`."""

from __future__ import annotations

import contextlib
import secrets
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from lightkeras.encoders.base import JoinError
from lightkeras.runs import checkpoint, formats
from lightkeras.runs.directory import RunDirectory
from lightkeras.system import files
from lightkeras.system.tensorflow import tensorflow_left_out
from lightkeras.system.variables import CheckpointError, read_variables, write_variables
from lightkeras.task import Task
from lightkeras.training import freezing

_FIRST_YEAR = 1980


def export_best_model(task: Task, directory: RunDirectory, report: Callable[[str], None]) -> None:
    """Writes `model.keras` with the weights of the checkpoint `best`, if there is one; the task keeps its own.

    A model that cannot be written is a warning; one that cannot take raw inputs is reported to the user.

    Raises:
        OSError: The file cannot be written.
    """
    folder = directory.checkpoints
    if not (folder / "best").exists():
        return
    before, frozen = read_variables(task.variables()), freezing.record(task, freezing.flags_of(task))
    try:
        best = checkpoint.load(checkpoint.find(folder, "best"), formats.RunState)
        freezing.restore(task, best.state.get("frozen"))
        write_variables(task.variables(), best.arrays)
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
        write_variables(task.variables(), before)


def write_model(model: keras.Model, path: Path) -> None:
    """Saves a model atomically, without the optimizer that was set on it for callbacks."""
    beside = path.with_name(f".{secrets.token_hex(4)}.part.keras")
    lent = None if model.compiled else vars(model).get("optimizer")
    try:
        if not model.compiled:
            model.optimizer = None
        with files.explained(path), tensorflow_left_out(), _times_of_zip():
            model.save(beside)
            files.sync(beside)
            files.move_synced(beside, path)
    finally:
        if not model.compiled:
            model.optimizer = lent
        beside.unlink(missing_ok=True)


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
