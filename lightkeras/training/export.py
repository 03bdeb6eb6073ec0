"""Export of the best model to `model.keras`."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable
from pathlib import Path

import keras

from lightkeras.encoders.base import JoinError
from lightkeras.runs import checkpoint
from lightkeras.runs.directory import RunDirectory
from lightkeras.system import files
from lightkeras.system.tensorflow import tensorflow_left_out
from lightkeras.system.variables import CheckpointError, read_variables, write_variables
from lightkeras.task import Task
from lightkeras.training import freezing


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
        best = checkpoint.load(checkpoint.find(folder, "best"))
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
        with files.explained(path), tensorflow_left_out():
            model.save(beside)
            files.sync(beside)
            files.move_synced(beside, path)
    finally:
        if not model.compiled:
            model.optimizer = lent
        beside.unlink(missing_ok=True)


def _model_of(task: Task, directory: RunDirectory, report: Callable[[str], None]) -> keras.Model | None:
    try:
        return task.model_to_export()
    except JoinError as error:
        report(f"{directory.model_file} takes features and not the encoder's inputs: {error}")
        return vars(task).get("model")
