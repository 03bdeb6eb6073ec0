"""Going on with a run: which checkpoint, and what has changed since it was started."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightkeras.runs import checkpoint
from lightkeras.runs.checkpoint import Checkpoint
from lightkeras.runs.directory import RunDirectory
from lightkeras.system.digest import Digest
from lightkeras.system.variables import CheckpointError


class ChangedRunError(ValueError):
    """A run that would go on with other data or hyperparameters than it was started with."""


@dataclasses.dataclass(frozen=True)
class Changes:
    """What differs between two configurations of a run, each in words.

    Args:
        refused: What a run must not go on with, unless told to: it would be another experiment.
        warned: What may change the numbers.
    """

    refused: tuple[str, ...]
    warned: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """All of them."""
        return [*self.refused, *self.warned]


_REFUSED = ("task", "hparams", "data", "encoder", "seed", "monitor")
_WARNED = ("backend", "code", "modules", "preflight", "validate_every", "callbacks", "versions")


def run_and_checkpoint(path: Path) -> tuple[RunDirectory, Path | None]:
    """What a path to go on from means: a run directory, and the checkpoint if it is the folder of one."""
    is_checkpoint = (path / checkpoint.MANIFEST).is_file()
    return RunDirectory(path.parent.parent if is_checkpoint else path), path if is_checkpoint else None


def read_run(directory: RunDirectory) -> dict[str, Any]:
    """The configuration of a run that is to be gone on with.

    Raises:
        FileNotFoundError: There is no run in the directory.
        ValueError: It holds a search, or its configuration is damaged.
    """
    config = directory.read_config()
    if "search" in config:
        raise ValueError(
            f"{directory.path} holds a search, not a run: give one of its runs, such as {directory.path}/trials/0000."
        )
    if "experiment" in config:
        raise ValueError(
            f"{directory.path} holds the runs of an experiment, each in a directory of its own: give one of those."
        )
    missing = [name for name in ("task", "hparams", "runner", "data", "seed") if name not in config]
    if missing:
        raise ValueError(
            f"{directory.config_file} is damaged: {', '.join(missing)} cannot be found in it. "
            "Put back what it was, or start the run in another directory."
        )
    return config


def compare_configs(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Compares the configuration that a run was started with and that it would go on with.

    Args:
        before: What `config.json` holds.
        now: The same for the run that would go on.
    """

    def all_of(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(line for name in names for line in config_differences(name, _part(before, name), _part(now, name)))

    return Changes(all_of(_REFUSED), all_of(_WARNED))


def check_changes(changes: Changes, accepted: bool) -> None:
    """Warns of what changed, or refuses it.

    Raises:
        ChangedRunError: Data or hyperparameters changed, and that was not accepted.
    """
    if changes.refused and not accepted:
        raise ChangedRunError(
            f"This is not the run that was started in this directory: {'; '.join(changes.refused)}. "
            "Use what it was started with, start a run in another directory, or go on all the same with "
            "accept_changes=True (--accept_changes)."
        )
    for line in changes.lines:
        warnings.warn(
            f"The run goes on with a change, and may differ from one that never stopped: {line}.", stacklevel=2
        )


def choose_checkpoint(directory: RunDirectory, wanted: Path | None = None) -> Checkpoint | None:
    """The newest checkpoint that is whole. Each that is not is named in a warning.

    Args:
        directory: The run directory.
        wanted: The folder of one checkpoint; `None` for the newest.

    Returns:
        The checkpoint, or `None` if none was ever written.

    Raises:
        CheckpointError: There are checkpoints, and all are damaged; or the one wanted is.
        FileNotFoundError: The one wanted is not there.
    """
    folder = directory.checkpoints
    named = checkpoint.named(folder, "last")
    problems: list[str] = []
    whole: list[tuple[bool, bool, Checkpoint]] = []
    for path in checkpoint.newest_first(folder) if wanted is None else [wanted]:
        try:
            found = checkpoint.load(path)
        except CheckpointError as error:
            if wanted is not None:
                raise
            problems.append(str(error))
            continue
        beside, lost = found.state.get("beside", False) and path.name != named, _lost(directory, found)
        problems.extend(lost.values())
        best_lost = found.state["kept"]["best"] in lost
        whole.append((beside, best_lost, _without(found, lost)))
        if not beside and not best_lost:
            break
    if not whole and problems:
        raise CheckpointError(
            f"No checkpoint in {folder} is whole: {' '.join(problems)} Start the run in another directory."
        )
    if not whole:
        return None
    beside, best_lost, found = min(whole, key=lambda item: item[:2])  # of equal ones the first, which is the newest
    problems = [*_damaged_names(folder, found), *problems]
    if beside:
        problems.append("What is left holds a validation that a run which never stopped does not make.")
    if best_lost:
        problems.append("The best weights are lost.")
    _say_skipped(problems, found)
    return found


def code_of(task_class: type) -> dict[str, str]:
    """Digests of the files that define a task's class and its bases, by class name; not of those of lightkeras."""
    found = {}
    for cls in task_class.__mro__:
        if cls is object or cls.__module__.startswith("lightkeras."):
            continue
        try:
            source = inspect.getsource(inspect.getmodule(cls) or cls)
        except (OSError, TypeError):  # typed into an interpreter
            continue
        found[cls.__name__] = Digest(source).hex()
    return found


def _lost(directory: RunDirectory, found: Checkpoint) -> dict[str, str]:
    """What is wrong with the checkpoints that one refers to, by their names."""
    kept = found.state["kept"]
    problems = {}
    for name in sorted(({kept["best"]} | {name for _, name in kept["top"]}) - {None, found.path.name}):
        try:
            checkpoint.verify(directory.checkpoints / Path(name).name)
        except (CheckpointError, FileNotFoundError) as error:
            problems[name] = str(error)
    return problems


def _without(found: Checkpoint, lost: Mapping[str, str]) -> Checkpoint:
    """A checkpoint that refers to none of the lost ones. Without the best, which is best is found out anew."""
    kept = found.state["kept"]
    top = [item for item in kept["top"] if item[1] not in lost]
    state = {**found.state, "kept": {**kept, "top": top}}
    if kept["best"] in lost:
        state |= {
            "best": None,
            "progress": {"mode": found.state["progress"]["mode"]},
            "kept": {"best": None, "top": []},
        }
    return dataclasses.replace(found, state=state)


def _damaged_names(folder: Path, found: Checkpoint) -> list[str]:
    """What is wrong with the files `last` and `best`, which a resume puts back."""
    there = {path.name for path in checkpoint.newest_first(folder)}
    problems = []
    for name in ["last"] if found.state["kept"]["best"] is None else ["last", "best"]:
        named = checkpoint.named(folder, name)
        if named is None:
            if len(there) > 1:  # else the run ended while its first checkpoint was saved
                problems.append(f"{folder / name} is missing.")
        elif named not in there:
            problems.append(f"{folder / name} is damaged: it names {named!r}, which is not there.")
    return problems


def _say_skipped(problems: list[str], found: Checkpoint) -> None:
    if problems:
        unique = dict.fromkeys(problems)  # several checkpoints may refer to the same
        warnings.warn(f"{' '.join(unique)} The run goes on from {found.path}.", stacklevel=3)


def _part(config: Mapping[str, Any], name: str) -> Any:
    if name in ("preflight", "validate_every", "callbacks"):
        return config.get("runner", {}).get(name)
    if name == "encoder":  # where it lies does not matter
        return config.get(name, {}).get("fingerprint")
    return config.get(name)


def config_differences(name: str, before: Any, now: Any) -> list[str]:
    """How plain data differs, each difference in words.

    Args:
        name: What it is called.
        before: What it was.
        now: What it is.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*before, *now])
        return [line for key in keys for line in config_differences(f"{name}.{key}", before.get(key), now.get(key))]
    return [] if _plain(before) == _plain(now) else [f"{name} was {before!r} and is {now!r}"]


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists there."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
