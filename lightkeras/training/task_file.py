"""Imports the task that `FILE.py:ClassName` names."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightkeras.system.messages import did_you_mean

if TYPE_CHECKING:
    from lightkeras.task import Task


def load_task(named: str) -> type[Task]:
    """Returns the class that `FILE.py:ClassName` names. The block under `if __name__ == "__main__"` does not run.

    Raises a ValueError for another form or a file without such a class, and a FileNotFoundError without the file.
    """
    file, colon, name = named.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise ValueError(f"--task {named!r}: expected FILE.py:ClassName.")
    path = Path(file).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"--task {named!r}: {path} does not exist, or is not a file.")
    from lightkeras.task import Task  # first: it imports Keras without TensorFlow's start-up messages

    module_name = f"task_of_{path.stem}"  # a name that no other module has
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--task {named!r}: {path.name} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look up the types of their fields there
    sys.path.insert(0, str(path.parent))  # as Python does for a script
    spec.loader.exec_module(module)
    classes: dict[str, Any] = {
        key: value for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Task)
    }
    if name not in classes:
        raise ValueError(f"--task {named!r}: {path.name} has no task {name!r}. {did_you_mean(name, classes)}")
    task_class: type[Task] = classes[name]
    return task_class
