"""The command `tune`: runs a search, resumes one, or reruns one of its trials."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse

from lightkeras.command_line.console import print_lines, report_search
from lightkeras.command_line.flags import check_loggers, hp_of, lookup_of, settings_of
from lightkeras.data.lookup import Lookup
from lightkeras.runner import Runner
from lightkeras.runs.directory import RunDirectory, run_path, snake_case
from lightkeras.runs.results import Trial, short
from lightkeras.runs.untrusted import untrusted_in
from lightkeras.search import repeat_trial
from lightkeras.search.loop import SearchInterrupted
from lightkeras.system import postponed_keras, trust
from lightkeras.system.console import Console
from lightkeras.system.messages import printable
from lightkeras.task import Task
from lightkeras.tuner import Tuner


def run(
    task_class: type[Task],
    settings: jsonargparse.Namespace,
    runner_defaults: dict[str, Any],
    given: jsonargparse.Namespace,
) -> int:
    """Runs the command; returns 1 if no trial was completed or a replayed trial differs, else 0.

    `settings` are all settings, with defaults; `given` are those given on the command line.
    """
    if settings.replay is not None:
        return _replay(task_class, settings)
    tuner = _tuner(task_class, settings, runner_defaults, given)
    names = list(tuner.made_space().ranges)
    postponed_keras.import_now()
    try:
        on_trial = functools.partial(print_trial, names=names)
        result = dataclasses.replace(tuner, on_trial=on_trial).search(resume=settings.resume)
    except SearchInterrupted as stop:
        resume = f"python {sys.argv[0]} tune --run_dir {tuner.run_dir} --resume"
        print_lines(Console(), {"stopped": f"{stop.received} received; the search is saved", "resume": resume})
        raise
    report_search(result)
    return 0 if result.best is not None else 1


def print_trial(trial: Trial, names: Sequence[str]) -> None:
    """Prints a line about a trial that ended, above the live table if there is one."""
    value = trial.status if trial.objective is None else f"{trial.objective:.4f}"
    values = "  ".join(f"{name} {short(trial.hparams[name])}" for name in names if name not in trial.inactive)
    reason = "" if trial.status == "completed" else f"  ({trial.reason})"
    # `print`, because a new rich Console writes to the terminal itself, into the last line of the live table.
    print(printable(f"trial {trial.name}  {value}  {values}{reason}"))


def _tuner(
    task_class: type[Task],
    settings: jsonargparse.Namespace,
    runner_defaults: dict[str, Any],
    given: jsonargparse.Namespace,
) -> Tuner:
    tuner = settings_of(settings.tuner)
    runner = {**runner_defaults, **settings_of(settings.runner)}
    fixed = hp_of(given)
    lookup = lookup_of(settings)
    if settings.resume:
        if settings.run_dir is None:
            raise ValueError("--resume needs --run_dir: the directory of the search.")
        directory = RunDirectory(Path(settings.run_dir))
        if directory.config_file.exists():
            config = directory.read_config()
            if "search" not in config:
                raise ValueError(f"{directory.path} holds a run, not a search: give --run_dir of a search.")
            recorded = {name: value for name, value in config["search"].items() if name in tuner}
            flags = settings_of(given.get("tuner", {}), recorded)
            if flags.get("pool") == "local":  # the cluster's address and GPUs do not apply
                recorded = {name: value for name, value in recorded.items() if name not in ("address", "gpus")}
            tuner |= settings_of(recorded) | flags
            recorded = {name: value for name, value in config.get("runner", {}).items() if name in runner}
            check_loggers(directory.config_file, config.get("runner", {}), runner, given.get("runner", {}))
            for name in ("callbacks", "loggers"):
                recorded.pop(name, None)
            if not settings.trust_run:
                recorded["features"] = {**recorded.get("features", {}), "folder": None}
            runner |= settings_of(recorded) | settings_of(given.get("runner", {}), recorded)
            before = config["search"].get("fixed", {})
            found = config.get("lookup", {})
            if not settings.trust_run:
                _check_address(directory.path, recorded_address=tuner.get("address"), given=flags.get("address"))
                given_dir = given.get("data_dir")
                trust.distrust(
                    untrusted_in(directory.path, task_class.HParams, before, found.get("data_dir"), fixed, given_dir)
                )
            fixed = {**before, **fixed}
            places = {"source": found.get("source", "auto"), "data_dir": found.get("data_dir")}
            lookup = Lookup(**places | {name: given[name] for name in places if name in given})
    tuner["space"] = {name: part if isinstance(part, dict) else part.as_dict() for name, part in tuner["space"].items()}
    path = run_path(settings.run_dir, f"{snake_case(task_class.__name__)}_search")
    runner.pop("run_dir", None)
    return Tuner(task_class, **tuner, run_dir=path, runner=Runner(**runner), lookup=lookup, fixed=fixed)


def _check_address(path: Path, recorded_address: str | None, given: str | None) -> None:
    if recorded_address is not None and given is None:
        raise trust.UntrustedRunError(
            f"This would connect to the Ray cluster {recorded_address}, which only {path / 'config.json'} names, and "
            "run what it sends. If you trust it, add --trust_run, or give --tuner.address."
        )


def _replay(task_class: type[Task], settings: jsonargparse.Namespace) -> int:
    if settings.run_dir is None:
        raise ValueError("--replay needs --run_dir: the directory of the search.")
    found = repeat_trial.replay(task_class, Path(settings.run_dir), settings.replay, trust_run=settings.trust_run)
    print_lines(Console(), found.lines())
    return 0 if found.equal else 1
