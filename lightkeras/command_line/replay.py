"""The command `replay`: a broken step is run again, and what came of it is shown."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from lightkeras import hparams
from lightkeras.data.lookup import Lookup
from lightkeras.runs.checkpoint import STATE
from lightkeras.runs.directory import find_broken
from lightkeras.system import files
from lightkeras.task import Task
from lightkeras.training.divergence.broken_step import Replay, replay


def run(task_class: type[Task], folder: Path, data_dir: str | None = None, source: str | None = None) -> int:
    """Replays a broken step, and prints what was expected and what was found.

    Args:
        task_class: The class of the task that the run was of.
        folder: The bundle, or the run directory.
        data_dir: Folder that is looked into for modules; `None` for that of the run.
        source: As in `Lookup`; `None` for that of the run.

    Returns:
        0 if all is equal to the bit, 1 if not.

    Raises:
        FileNotFoundError: There is no bundle.
        CheckpointError: The bundle is damaged or does not fit the task.
        ValueError: It is of another task, or there is no step to repeat in it.
    """
    path = find_broken(folder)
    state = files.read_json(path / STATE)
    recorded = state.get("lookup", {})
    of_run = "sample" if state.get("source") == "sample" else recorded.get("source", "auto")
    lookup = Lookup(source or of_run, data_dir or recorded.get("data_dir"))
    task = task_class(hparams.from_dict(task_class.HParams, state.get("hparams", {})), lookup)
    found = replay(path, task)
    show(found)
    return 0 if found.equal else 1


def show(found: Replay) -> None:
    """Prints a replay."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    table = Table("", "expected", "found")
    for name in dict.fromkeys([*found.expected, *found.found]):
        table.add_row(name, *(repr(values[name]) if name in values else "" for values in (found.expected, found.found)))
    console.print(table)
    lines = [
        ("bundle", str(found.path)),
        ("in the run", found.what_happened),
        ("now", found.where),
        *(("changed", line) for line in found.changed),
        *(("differs", line) for line in found.differences),
        ("result", "bit for bit equal" if found.equal else "not equal: see what differs"),
    ]
    for name, text in lines:
        console.print(f"{name:>10}  {text}")
