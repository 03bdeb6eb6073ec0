"""The command `replay`: reruns a broken step and prints the comparison."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from lightkeras import hparams
from lightkeras.data.lookup import Lookup
from lightkeras.runs import formats
from lightkeras.runs.checkpoint import STATE
from lightkeras.runs.directory import find_broken
from lightkeras.runs.untrusted import untrusted_in
from lightkeras.system import files, postponed_keras, trust
from lightkeras.system.console import Console
from lightkeras.task import Task
from lightkeras.training.divergence.broken_step import Replay, replay


def run(
    task_class: type[Task],
    folder: Path,
    data_dir: str | None = None,
    source: str | None = None,
    *,
    trust_run: bool = False,
) -> int:
    """Reruns a broken step and prints both values; returns 0 if all is equal to the bit, 1 if not.

    `folder` is that of the step, or the run directory; `data_dir` and `source` are those of the run if `None`;
    `trust_run` allows modules that only the folder names. Raises a FileNotFoundError without a broken step, a
    CheckpointError if the files are damaged or do not fit the task, and a ValueError if the step belongs to another
    task or cannot be repeated.
    """
    path = find_broken(folder)
    state = files.read_json(path / STATE, formats.BrokenState, files.decode_float)
    recorded = state.get("lookup", {})
    run_source = "sample" if state.get("source") == "sample" else recorded.get("source", "auto")
    lookup = Lookup(source or run_source, data_dir or recorded.get("data_dir"))
    postponed_keras.import_now()
    task = task_class(hparams.from_dict(task_class.HParams, state["hparams"]), lookup)
    found_in = untrusted_in(path, task_class.HParams, state["hparams"], recorded.get("data_dir"), (), data_dir)
    with trust.trusting(None if trust_run else found_in):
        found = replay(path, task)
    show(found)
    return 0 if found.equal else 1


def show(found: Replay) -> None:
    """Prints the result of a replay."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    table = Table("", "expected", "found")
    for name in dict.fromkeys([*found.expected, *found.found]):
        table.add_row(name, *(repr(values[name]) if name in values else "" for values in (found.expected, found.found)))
    console.print(table)
    lines = [
        ("folder", str(found.path)),
        ("in the run", found.what_happened),
        ("now", found.where),
        *(("changed", line) for line in found.changed),
        *(("differs", line) for line in found.differences),
        ("result", "equal, bit for bit" if found.equal else "not equal, see the differences above"),
    ]
    for name, text in lines:
        console.print(f"{name:>10}  {text}")
