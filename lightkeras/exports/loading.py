"""Loads the model of a run in the process that exports it.

No code that only the run names is executed, unless the run is trusted.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import keras

from lightkeras import hparams
from lightkeras.data.lookup import Lookup
from lightkeras.exports.errors import ExportError
from lightkeras.runs.directory import RunDirectory
from lightkeras.system.trust import UntrustedRunError
from lightkeras.task import Task
from lightkeras.training.setup import learn_from


def load_model(path: Path, task_class: type[Task] | None, trust_run: bool) -> keras.Model:
    """Loads a `.keras` file, with the classes of the file that defines a task.

    Raises:
        UntrustedRunError: It holds a TF Hub module or other code, and the run is not trusted.
        ExportError: It cannot be loaded.
    """
    classes = {} if task_class is None else keras_classes(sys.modules[task_class.__module__])
    try:
        return keras.saving.load_model(path, custom_objects=classes, compile=False, safe_mode=not trust_run)
    except (ValueError, TypeError, OSError, ImportError) as error:
        reason = " ".join(str(error).split())
        if "safe_mode" in reason or "safe mode" in reason:
            raise UntrustedRunError(
                f"{path} holds code: a TF Hub module or a Lambda layer. A run directory may come from somebody else, "
                f"and this code could do anything with your rights. If you trust it, add --trust_run. ({reason[:300]})"
            ) from error
        if "Could not locate" in reason:
            raise ExportError(
                f"{path} has classes of its own: give the file of the task, which defines them, as --task "
                f"FILE.py:ClassName. ({reason[:200]})"
            ) from error
        raise ExportError(f"{path} cannot be loaded: {reason[:600]}") from error


def keras_classes(module: Any) -> dict[str, type]:
    """The layers and models that a module defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, keras.Layer) and value.__module__ == module.__name__
    }


def make_task(task_class: type[Task], run_dir: Path, data_dir: str | None = None) -> Task:
    """Returns the task of a run, with the run's hyperparameters, encoder and places of data; its models are built.

    Raises:
        ExportError: The run is another task's.
    """
    directory = RunDirectory(run_dir)
    config = directory.read_config()
    if config.get("task") != task_class.__name__:
        raise ExportError(f"{run_dir} holds a run of {config.get('task')}, not of {task_class.__name__}.")
    recorded = config.get("lookup", {})
    source = "sample" if config.get("source") == "sample" else recorded.get("source", "auto")
    lookup = Lookup(source, data_dir or recorded.get("data_dir"))
    task = task_class(hparams.from_dict(task_class.HParams, config.get("hparams", {})), lookup)
    task.set_up(config.get("seed", 0), learn_from(None, 1, directory))
    return task
