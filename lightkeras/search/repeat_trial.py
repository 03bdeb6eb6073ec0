"""Runs a trial again in a new process, and compares the results bit for bit."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from lightkeras.data.lookup import Lookup
from lightkeras.runner import Runner
from lightkeras.runs import checkpoint
from lightkeras.runs.directory import RunDirectory
from lightkeras.runs.resume import compare_configs, read_run
from lightkeras.runs.untrusted import untrusted_in
from lightkeras.search.journal import NAME, Journal, explained_line
from lightkeras.search.records import Outcome, Record, Records, check_event
from lightkeras.search.trial_run import Job
from lightkeras.search.workers.launch import make_pool
from lightkeras.search.workers.pool import WorkerLimits
from lightkeras.system import files, trust
from lightkeras.system.messages import did_you_mean
from lightkeras.task import Task
from lightkeras.training.settings import GROUPS

_PLACES = {"source": "auto", "data_dir": None}


@final
@dataclasses.dataclass(frozen=True)
class Replayed:
    """Result of running a trial again.

    Args:
        name: Name of the trial.
        run_dir: Run directory of the trial.
        again: Run directory of the repetition.
        objective: Name of the optimized value.
        before: Best value of the trial.
        now: Best value of the repetition; `None` if it failed.
        different: Differences of the results, the first of each kind, one sentence each.
        changed: Differences of data, code and versions, one sentence each.
    """

    name: str
    run_dir: Path
    again: Path
    objective: str
    before: float | None
    now: float | None
    different: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Returns True if all results are equal to the bit."""
        return not self.different

    def lines(self) -> dict[str, str]:
        """Lines to print, by their heading."""
        found = {
            "trial": f"{self.name}: {self.objective} was {self.before} and is {self.now}",
            "replay": "the same to the bit: every epoch's values, and the best weights"
            if self.equal
            else "; ".join(self.different),
        }
        if self.changed:
            found["changed"] = "; ".join(self.changed)
        elif not self.equal:
            found["changed"] = "nothing that is recorded: data, code, versions and threads are those of the trial"
        return found | {"runs": f"{self.run_dir} and {self.again}"}


def replay(task_class: type[Task], folder: Path, name: str, *, trust_run: bool = False) -> Replayed:
    """Runs a trial of a search again.

    Args:
        task_class: The task's class now.
        folder: Directory of the search.
        name: The trial's name, such as `"0003"`, or `"best"`.
        trust_run: Whether modules that only the directory names may be run and downloaded.

    Raises:
        FileNotFoundError: The directory holds no search.
        ValueError: The trial does not exist, has not ended, or failed.
        RuntimeError: The process of the repetition was lost.
    """
    config = RunDirectory(folder).read_config()
    if "search" not in config:
        raise ValueError(f"{folder} holds a run, not a search: give the directory of a search.")
    if config["search"].get("folds"):
        raise ValueError(
            f"{folder} holds a search whose trials are cross-validations, which are not run again as one. Run "
            "lk.cross_validate with the trial's hyperparameters and the runner's seed."
        )
    run, outcome = _find(folder, name, config["search"].get("mode", "min"))
    before = read_run(RunDirectory(folder / run.name))
    if before["task"] != task_class.__name__:
        raise ValueError(f"{folder} holds a search of {before['task']}, not of {task_class.__name__}.")
    runner = _runner_of(before["runner"])
    again = _unused(folder / "replays", run.number)
    epochs = runner.max_epochs if run.stopped is None else outcome.epochs
    job = Job(run.name, before["hparams"], dataclasses.replace(runner, run_dir=again, max_epochs=epochs), None)
    places = {name: config.get("lookup", {}).get(name, default) for name, default in _PLACES.items()}
    found = untrusted_in(folder, task_class.HParams, before["hparams"], places["data_dir"])
    with trust.trusting(None if trust_run else found):
        done = _do(task_class, Lookup(**places), job, outcome)
    now = RunDirectory(again).read_config()
    return Replayed(
        name=run.number,
        run_dir=folder / run.name,
        again=again,
        objective=config["search"]["objective"],
        before=outcome.value,
        now=done.value,
        different=tuple(_differences(folder / run.name, again, outcome, done)),
        changed=tuple(line for line in compare_configs(before, now).lines if not line.startswith("callbacks")),
    )


def _find(folder: Path, name: str, mode: str) -> tuple[Record, Outcome]:
    records = Records()
    with Journal(folder / NAME) as journal:
        for number, event in enumerate(journal.events, 1):
            with explained_line(folder / NAME, number):
                check_event(event)
                records.apply(event)
    known = {run.number: run for run in records.trials()}
    if name == "best":
        result = RunDirectory(folder).read_result().get("search", {})
        ranked = [run.number for run in records.ranked(mode)]
        found = (result.get("best") or {}).get("trial") or next(iter(ranked), None)
        if found is None:
            raise ValueError(f"{folder} has no completed trial.")
        name = found
    run = known.get(name.removeprefix("trials/"))
    if run is None:
        raise ValueError(f"{folder} has no trial {name!r}. {did_you_mean(name, ['best', *known])}")
    if run.outcome is None or run.outcome.value is None:
        why = "it has not ended" if run.outcome is None else f"it failed: {run.outcome.reason}"
        raise ValueError(f"Trial {name} has no value to compare: {why}.")
    return run, run.outcome


def _do(task_class: type[Task], lookup: Lookup, job: Job, outcome: Outcome) -> Outcome:
    """Does the run in a new process, with as many threads as it had."""
    with make_pool(task_class, lookup, 1, WorkerLimits(), threads=outcome.threads) as pool:
        pool.assign(0, job)
        while True:
            for said in pool.wait():
                if said.kind == "ended":
                    done: Outcome = said.content
                    return done
                if said.kind in ("lost", "full", "interrupted"):
                    raise RuntimeError(f"Trial {job.name} could not be done again: its process {said.content}.")


def _differences(before: Path, now: Path, was: Outcome, is_: Outcome) -> list[str]:
    if is_.value is None:
        return [f"it failed: {is_.reason}"]
    found = []
    old, new = _epochs(before / "metrics.csv"), _epochs(now / "metrics.csv")
    for number, (first, second) in enumerate(zip(old, new, strict=False), 1):
        wrong = [name for name in first if first[name] != second.get(name)]
        if wrong:
            found.append(f"{wrong[0]} of epoch {number} was {first[wrong[0]]} and is {second.get(wrong[0])}")
            break
    if len(old) != len(new):
        found.append(f"it had {len(old)} epochs and has {len(new)}")
    if was.value != is_.value:
        found.append(f"its best value was {was.value!r} and is {is_.value!r}")
    arrays = [checkpoint.load(checkpoint.find(path / "checkpoints", "best")).arrays for path in (before, now)]
    other = [key for key in arrays[0] if not _same(arrays[0][key], arrays[1].get(key))]
    if other or arrays[0].keys() != arrays[1].keys():
        found.append(f"{len(other)} of {len(arrays[0])} best weights and states differ, such as {other[:1]}")
    return found


def _same(first: np.ndarray, second: np.ndarray | None) -> bool:
    return second is not None and first.dtype == second.dtype and first.tobytes() == second.tobytes()


def _epochs(path: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv` that are of epochs."""
    try:
        with io.TextIOWrapper(files.open_to_read(path), encoding="utf-8", newline="") as file:
            return [row for row in csv.DictReader(file) if row["kind"] == "epoch"]
    except (csv.Error, KeyError, UnicodeDecodeError) as error:
        raise files.DamagedFileError(f"{path} is damaged: {type(error).__name__}, {error}.") from error


def _runner_of(recorded: Mapping[str, Any]) -> Runner:
    settings = {name: GROUPS[name](**value) if name in GROUPS else value for name, value in recorded.items()}
    known = {field.name for field in dataclasses.fields(Runner)} - {"callbacks", "loggers"}
    return Runner(**{name: value for name, value in settings.items() if name in known})


def _unused(folder: Path, name: str) -> Path:
    """Returns an unused path with the next number."""
    with files.explained(folder):
        folder.mkdir(exist_ok=True)
    taken = {found.name for found in os.scandir(folder)}
    return next(folder / f"{name}-{n}" for n in range(1, len(taken) + 2) if f"{name}-{n}" not in taken)
