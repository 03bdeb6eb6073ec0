"""Space that a run needs: its state, its files on the disk, and copies of the state in memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping

import keras

from lightkeras.runs.directory import RunDirectory, megabytes
from lightkeras.system import files, memory
from lightkeras.task import Task


def state_bytes(variables: Mapping[str, keras.Variable]) -> int:
    """Estimated size of variables in bytes, at 4 per value."""
    return sum(math.prod(variable.shape) * 4 for variable in variables.values())


def disk_needed(task: Task, directory: RunDirectory, keep: int) -> tuple[int, str]:
    """Estimates what a run writes.

    Args:
        task: The task, built, with its optimizers.
        directory: The run directory, which need not exist.
        keep: Number of best checkpoints that are kept.

    Returns:
        Bytes of its checkpoints and of `model.keras`, beyond those of the checkpoints that it has; what they are for.
    """
    count, state, model = keep + 3, state_bytes(task.variables()), state_bytes(task.model_variables())
    written = sum(path.stat().st_size for path in directory.checkpoints.glob("step-*/*") if files.is_file(path))
    best = "the best" if keep == 1 else f"the {keep} best"
    purpose = (
        f"{count} checkpoints of {megabytes(state)} ({best}, the last, the one before it, and one that is being "
        f"written) and a model of {megabytes(model)}"
    )
    return max(0, count * state + model - written), purpose


def memory_warning(task: Task) -> str | None:
    """A warning that the state of a task needs more than half of the memory that is free; `None` if it does not."""
    with contextlib.suppress(OSError):  # not known on systems other than Linux
        size, free = state_bytes(task.variables()), memory.available_bytes()
        if size > free / 2:
            return (
                f"The variables of {type(task).__name__} and its optimizer have {megabytes(size)}, more than half of "
                f"the {megabytes(free)} of memory that are free. Training holds a second copy of them, for checkpoints "
                "and to find the step that broke a run: the process may run out of memory."
            )
    return None
