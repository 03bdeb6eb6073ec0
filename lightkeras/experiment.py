"""Experiments of several runs: calls the user's `main` and writes the directory that holds its runs.

runs/overfit/20261122-101500-ab12/
  config.json      task, hyperparameters, settings, versions, command
  result.json      the values that main returned
  report.html      compares the runs
  tiny/, large/    a run directory for each
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import keras
import numpy as np

from lightkeras import hparams
from lightkeras.runner import Runner
from lightkeras.runs.directory import RunDirectory, holds_several, runs_below
from lightkeras.runs.resume import ChangedRunError, compare_configs
from lightkeras.system import environment, files
from lightkeras.task import Task

Main = Callable[[Task, Runner], Mapping[str, Any] | None]
"""Called with the task built from the flags and the runner with its `run_dir`; returns values for `result.json`."""

_RESERVED = ("task", "source", "backend", "hparams", "versions", "runs", "wall_s")  # keys of result.json


@final
class Experiment:
    """A `main` with its task, which is not set up, and its runner, whose `run_dir` is the experiment's directory."""

    def __init__(self, main: Main, task: Task, runner: Runner) -> None:
        if not isinstance(runner.run_dir, Path):
            raise TypeError(f"Expected the runner's run_dir as a Path, got {runner.run_dir!r}.")
        self._main, self._task, self._runner = main, task, runner
        self.directory = RunDirectory(runner.run_dir)

    def check(self, resume: bool) -> list[str]:
        """Checks the directory, and the task as `Runner.check` does; returns the names of the values of an epoch.

        Writes nothing. Raises a FileExistsError if the directory is not empty and `resume` is false, and a
        ChangedRunError if it holds an experiment with another task or other hyperparameters.
        """
        self._compare(resume)
        return dataclasses.replace(self._runner, run_dir=self.directory.path / "run").check(self._task)

    def run(self, resume: bool) -> bool:
        """Calls `main`, writes `result.json`, and returns whether one of its runs diverged.

        Raises the errors of `check`, and a TypeError if `main` returned a value that JSON cannot hold.
        """
        began = time.perf_counter()
        before, config = self._compare(resume), self._config()
        self.directory.create(needed_bytes=0)
        if before is None:
            self.directory.write_config(config)
        else:
            record = {"at": config["started"], "argv": config["argv"]}
            resumed = [*before.get("resumed", []), record]
            kept = {name: before[name] for name in ("started", "argv")}
            self.directory.write_config({**config, **kept, "resumed": resumed})
        returned = _checked(self._main(self._task, self._runner), self._main)
        runs = [path.relative_to(self.directory.path).as_posix() for path in runs_below(self.directory)]
        results = {name: RunDirectory(self.directory.path / name).read_result() for name in runs}
        facts = {name: config[name] for name in ("task", "backend", "hparams", "versions")}
        wall = {"wall_s": round(time.perf_counter() - began, 3)}
        self.directory.update_result({**facts, "source": _source(results), "runs": runs, **wall, **returned})
        return any(result.get("fit", {}).get("diverged") for result in results.values())

    def _compare(self, resume: bool) -> dict[str, Any] | None:
        """Returns the configuration that the experiment was started with, or `None` if it starts now."""
        path = self.directory.path
        self.directory.check_not_inside()
        if not resume:
            # The runs are fitted with `resume=True`: without this check they would silently resume what is there.
            if path.is_dir() and any(path.iterdir()):
                raise FileExistsError(
                    f"{path} is not empty, and the runs of an experiment need a directory of their own. Resume the "
                    "experiment in it with resume=True (--resume), give another run_dir, or remove it first."
                )
            return None
        if not self.directory.config_file.exists():
            return None
        if not holds_several(self.directory):
            raise ValueError(f"{path} holds a single run, not an experiment of several runs: give another --run_dir.")
        before = self.directory.read_config()
        changed = compare_configs(
            {name: before.get(name) for name in ("task", "hparams", "seed")},
            {name: self._config()[name] for name in ("task", "hparams", "seed")},
        )
        if changed.refused:
            raise ChangedRunError(
                f"The experiment in {path} was started with other settings: {'; '.join(changed.refused)}. "
                "Use the settings that it was started with, or give another --run_dir."
            )
        return before

    def _config(self) -> dict[str, Any]:
        return {
            "task": type(self._task).__name__,
            "experiment": {"main": self._main.__name__},
            "backend": keras.backend.backend(),
            "hparams": hparams.to_dict(self._task.hp),
            "versions": environment.versions(),
            "runner": {**self._runner.record(), "run_dir": str(self.directory.path)},
            "lookup": self._task.lookup.record(),
            "machine": environment.machine(),
            "seed": self._runner.seed,
            "argv": sys.argv,
            "started": environment.now(),
        }


def _source(results: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Returns the data sources of the runs; `"sample"` if any of them used the sample."""
    sources = list(dict.fromkeys(str(result["source"]) for result in results.values() if "source" in result))
    if not sources:
        return None
    return "sample" if "sample" in sources else ", ".join(sources)


def _checked(returned: Any, main: Main) -> dict[str, Any]:
    if returned is None:
        return {}
    if not isinstance(returned, Mapping):
        raise TypeError(
            f"{main.__name__} returned {type(returned).__name__}: expected a mapping for result.json, or None."
        )
    taken = sorted(set(returned) & set(_RESERVED))
    if taken:
        raise ValueError(f"{main.__name__} returned {taken[0]!r}, which lightkeras writes itself: use another name.")
    plain = {str(key): _plain(value, str(key)) for key, value in returned.items()}
    files.json_bytes(plain)
    return plain


def _plain(value: Any, path: str) -> Any:
    """Converts a value to one that JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}.{number}") for number, item in enumerate(value)]
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(
        f"main returned a {type(value).__name__} as {path!r}: expected numbers, strings, and lists and dicts of them."
    )
