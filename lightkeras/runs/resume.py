"""Resuming a run: chooses the checkpoint, and compares the configuration with that of the start."""

from __future__ import annotations

import dataclasses
import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightkeras.runs import checkpoint, formats
from lightkeras.runs.checkpoint import Checkpoint
from lightkeras.runs.directory import RunDirectory
from lightkeras.system.digest import Digest
from lightkeras.system.messages import printable
from lightkeras.system.value_names import within
from lightkeras.system.variables import CheckpointError


class ChangedRunError(ValueError):
    """The data, hyperparameters or seed differ from those that the run was started with.

    Examples:
        ```python
        import lightkeras as lk

        runner, (x, y) = lk.Runner(max_epochs=1, run_dir="runs/moons"), lk.testing.two_moons(300)
        runner.fit(lk.testing.TwoMoons(), (x, y))
        try:
            runner.fit(lk.testing.TwoMoons(), (x + 1, y), resume=True)
        except lk.ChangedRunError as error:
            print(error)  # `accept_changes=True` resumes all the same
        ```
    """


@dataclasses.dataclass(frozen=True)
class Changes:
    """Differences between two configurations of a run, one sentence each.

    The refused ones make it another experiment, which needs `accept_changes`; the warned ones may change the numbers.
    """

    refused: tuple[str, ...]
    warned: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """All differences."""
        return [*self.refused, *self.warned]


_REFUSED = ("task", "hparams", "encoder", "seed", "monitor", "class_weight")  # and the data
_WARNED = (
    *("backend", "code", "modules", "preflight", "validate_every"),
    *("devices", "processes", "eager", "compile", "callbacks", "versions"),
)

_LATER = {"devices": None, "eager": False, "compile": "auto"}
"""What settings were before there were such settings."""


def run_and_checkpoint(path: Path) -> tuple[RunDirectory, Path | None]:
    """Splits a path to resume from into the run directory and the checkpoint; `None` if the path is the directory."""
    is_checkpoint = os.path.lexists(path / checkpoint.MANIFEST)
    return RunDirectory(path.parent.parent if is_checkpoint else path), path if is_checkpoint else None


def read_run(directory: RunDirectory) -> dict[str, Any]:
    """Reads the configuration of a run that is to be resumed.

    Raises:
        FileNotFoundError: The directory holds no run.
        ValueError: It holds a search or an experiment, or its configuration is damaged.
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
            f"{directory.config_file} is damaged: {', '.join(missing)} are missing. "
            "Restore the file, or start the run in another directory."
        )
    return config


def compare_configs(before: Mapping[str, Any], now: Mapping[str, Any], reordered: Sequence[str] = ()) -> Changes:
    """Compares the configurations of a run at its start and now.

    Args:
        before: Content of `config.json`.
        now: The configuration now.
        reordered: Splits whose source orders each epoch anew: another first batch of theirs is only warned of.
    """

    def all_of(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(line for name in names for line in config_differences(name, _part(before, name), _part(now, name)))

    refused = [
        line
        for part in ("source", *splits_of(before.get("data"), now.get("data")))
        for line in data_differences(before.get("data"), now.get("data"), part, whole=part not in reordered)
    ]
    warned = [
        f"data.{part} begins with another batch: its source orders each epoch anew, so whether it changed is not known"
        for part in reordered
    ]
    return Changes((*all_of(_REFUSED), *refused), (*all_of(_WARNED), *warned))


def data_differences(before: Any, now: Any, part: str, whole: bool = True) -> list[str]:
    """Returns the differences of recorded data, one sentence each. What was not recorded is not compared.

    Args:
        before: The entry `data` of `config.json`.
        now: The same, now.
        part: `"source"`, or one of `splits_of`.
        whole: Whether to compare fingerprints too.
    """
    one, other = _split(before, part), _split(now, part)
    if one is _NOT_RECORDED or other is _NOT_RECORDED:
        return []
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        whole = whole and None not in (one.get("fingerprint"), other.get("fingerprint"))
        one, other = ({**found, **({} if whole else {"fingerprint": None})} for found in (one, other))
    return config_differences(f"data.{part}", one, other)


def changed_fingerprints(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the splits whose fingerprints differ between two configurations."""

    def line_count(part: str, whole: bool) -> int:
        return len(data_differences(before.get("data"), now.get("data"), part, whole))

    splits = splits_of(before.get("data"), now.get("data"))
    return [part for part in splits if line_count(part, True) > line_count(part, False)]


def with_fingerprints(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Returns recorded data with the fingerprints of an earlier record where it has none."""
    found = {**now, "fingerprint": now.get("fingerprint") or before.get("fingerprint")}
    earlier = _held_out(before)
    sets = {
        name: {**one, "fingerprint": one["fingerprint"] or earlier.get(name, {}).get("fingerprint")}
        for name, one in _held_out(now).items()
    }
    return {**found, "validation": held_out_record(sets)} if sets else found


def held_out_record(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns the record of the validation split: that of its only set, without a name, or those of all by name."""
    if not sets:
        return None
    return dict(sets[""]) if "" in sets else {"fingerprint": None, "sets": dict(sets)}


def splits_of(before: Any, now: Any) -> list[str]:
    """Returns the parts of recorded data that are compared: `"train"`, and `"validation"` or `"validation/<name>"`."""
    names = dict.fromkeys([*_held_out(before), *_held_out(now)])
    return ["train", *(within("validation", name) for name in names or [""])]


def _held_out(data: Any) -> Mapping[str, Mapping[str, Any]]:
    """The records of the validation sets by name."""
    validation = data.get("validation") if isinstance(data, Mapping) else None
    if validation is None:
        return {}
    return validation.get("sets") or {"": validation}


_NOT_RECORDED = object()
_OF_TRAIN = ("fingerprint", "batch_size", "batches")


def _split(data: Any, part: str) -> Any:
    """The record of one split: `train` has no key of its own, and earlier versions did not record `validation`."""
    if not isinstance(data, Mapping):
        return data
    if part == "train":
        return {name: data.get(name) for name in _OF_TRAIN}
    split, _, name = part.partition("/")
    if split not in data:
        return _NOT_RECORDED
    return _held_out(data).get(name) if split == "validation" else data[split]


def check_changes(changes: Changes, accepted: bool) -> None:
    """Warns of changes; a ChangedRunError for those that make it another experiment, unless accepted."""
    if changes.refused and not accepted:
        raise ChangedRunError(
            f"This is not the run that was started in this directory: {'; '.join(changes.refused)}. "
            "Use the settings it was started with, start a run in another directory, or resume it all the same with "
            "accept_changes=True (--accept_changes)."
        )
    for line in changes.lines:
        warnings.warn(
            f"Resuming with a change; the numbers may differ from an uninterrupted run: {line}.", stacklevel=2
        )


def choose_checkpoint(directory: RunDirectory, wanted: Path | None = None) -> Checkpoint | None:
    """Returns the newest undamaged checkpoint, or the wanted one; `None` if none was written.

    Warns of each damaged one. Raises a CheckpointError if all are damaged, or the wanted one is, and a
    FileNotFoundError if that does not exist.
    """
    folder = directory.checkpoints
    named = checkpoint.named(folder, "last")
    problems: list[str] = []
    whole: list[tuple[bool, bool, Checkpoint]] = []
    for path in checkpoint.newest_first(folder) if wanted is None else [wanted]:
        try:
            found = checkpoint.load(path, formats.RunState)
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
            f"All checkpoints in {folder} are damaged: {' '.join(problems)} Start the run in another directory."
        )
    if not whole:
        return None
    beside, best_lost, found = min(whole, key=lambda item: item[:2])  # the first of equals is the newest
    problems = [*_damaged_names(folder, found), *problems]
    if beside:
        problems.append("The remaining checkpoint has a validation that an uninterrupted run does not make.")
    if best_lost:
        problems.append("The best weights are lost.")
    _warn_of_problems(problems, found)
    return found


def code_of(task_class: type) -> dict[str, str]:
    """Returns digests of the source files of a task's class and its bases, by class name, without lightkeras's own."""
    found = {}
    for cls in task_class.__mro__:
        if cls is object or cls.__module__.startswith("lightkeras."):
            continue
        try:
            source = inspect.getsource(inspect.getmodule(cls) or cls)
        except (OSError, TypeError):  # defined in an interpreter
            continue
        found[cls.__name__] = Digest(source).hex()
    return found


def _lost(directory: RunDirectory, found: Checkpoint) -> dict[str, str]:
    """Returns the errors of the checkpoints that this one refers to, by their names."""
    kept = found.state["kept"]
    problems = {}
    for name in sorted(({kept["best"]} | {name for _, name in kept["top"]}) - {None, found.path.name}):
        try:
            checkpoint.verify(directory.checkpoints / Path(name).name)
        except (CheckpointError, FileNotFoundError) as error:
            problems[name] = str(error)
    return problems


def _without(found: Checkpoint, lost: Mapping[str, str]) -> Checkpoint:
    """Removes references to lost checkpoints. If the best is lost, the search for the best epoch starts anew."""
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
    """Returns the errors of the files `last` and `best`, which resuming rewrites."""
    there = {path.name for path in checkpoint.newest_first(folder)}
    problems = []
    for name in ["last"] if found.state["kept"]["best"] is None else ["last", "best"]:
        named = checkpoint.named(folder, name)
        if named is None:
            if len(there) > 1:  # with one, the run was killed while it was written
                problems.append(f"{folder / name} is missing.")
        elif named not in there:
            problems.append(f"{folder / name} is damaged: it names {named!r}, which does not exist.")
    return problems


def _warn_of_problems(problems: list[str], found: Checkpoint) -> None:
    if problems:
        unique = dict.fromkeys(problems)  # several checkpoints may refer to the same one
        warnings.warn(f"{' '.join(unique)} Resuming from {found.path}.", stacklevel=3)


def _part(config: Mapping[str, Any], name: str) -> Any:
    if name in ("preflight", "validate_every", "callbacks"):
        return config.get("runner", {}).get(name)
    if name == "processes":
        return config.get(name, 1)
    if name in _LATER:
        return config.get("runner", {}).get(name, _LATER[name])
    if name == "encoder":  # its path does not matter
        return config.get(name, {}).get("fingerprint")
    return config.get(name)


def config_differences(name: str, before: Any, now: Any) -> list[str]:
    """Returns the differences of plain data, one sentence each; `name` is that of the data."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*before, *now])
        return [line for key in keys for line in config_differences(f"{name}.{key}", before.get(key), now.get(key))]
    if _plain(before) == _plain(now):
        return []
    line = f"{printable(name)} was {before!r} and is {now!r}"
    meaning = _meaning_of(printable(name)) if isinstance(before, str) and isinstance(now, str) else None
    return [line if meaning is None else f"{meaning} ({line})"]


def _meaning_of(name: str) -> str | None:
    """What changed, in words, where the values are digests; `None` where they speak for themselves."""
    owner, _, last = name.rpartition(".")
    if owner == "code":
        return f"the source file of the class {last} changed"
    if last != "fingerprint":
        return None
    split = owner.removeprefix("data.")
    return f"the examples of {split} changed, or their order" if owner.startswith("data.") else f"{owner} changed"


def _plain(value: Any) -> Any:
    """Converts tuples to lists, as JSON does."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
