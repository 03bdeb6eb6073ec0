"""Tuner: many runs over the declared ranges, chosen by keras-tuner's oracles.

check the settings, and the objective against what an epoch logs      # before the first trial
while the oracle has another trial:
    hyperparameters = the oracle's proposal
    Runner.fit in trials/<name>/                                      # a run directory of its own
    tell the oracle the best value of the objective
name the best
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from lightkeras import files, hparams, run_directory, schedule
from lightkeras._messages import did_you_mean
from lightkeras.data.lookup import Lookup
from lightkeras.hparams import Range
from lightkeras.loggers.tensorboard import EventFile, config_summary, scalars, search_summary
from lightkeras.results import Best, SearchResult, Trial
from lightkeras.run_directory import RunDirectory, snake_case
from lightkeras.runner import Runner
from lightkeras.task import Task

ORACLES = ("random", "bayesian", "hyperband", "grid")


@dataclasses.dataclass(frozen=True)
class Tuner:
    """Searches the declared hyperparameters of a task.

    Args:
        task: The task's class.
        objective: Epoch value to search for, such as `val/accuracy`; `None` means what the runner
            monitors, or `val/loss`.
        mode: Whether it is better low (`"min"`) or high (`"max"`); `None` tells it from the runner or the name.
        oracle: How trials are chosen: `"random"`, `"bayesian"` (Gaussian process), `"hyperband"`
            (Li et al., JMLR 2018) or `"grid"`.
        trials: Most trials; `None` lets a grid or a hyperband run to its end.
        seed: Seed of the oracle's choices.
        run_dir: Directory of the search; `None` makes one under `runs/`.
        runner: Settings of each run; its `run_dir` and `callbacks` are not used.
        lookup: Where data and modules are looked for; `None` is `Lookup()`.
        fixed: Hyperparameters that are not searched, by name, with their values.
        on_trial: Called with each finished trial; `None` calls nothing.

    Raises:
        ValueError: A setting out of its range, or nothing to search.
        TypeError: `task` is not a class of tasks.
    """

    task: type[Task]
    objective: str | None = None
    mode: str | None = None
    oracle: str = "random"
    trials: int | None = 10
    seed: int = 0
    run_dir: str | Path | None = None
    runner: Runner = dataclasses.field(default_factory=Runner)
    lookup: Lookup | None = None
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    on_trial: Callable[[Trial], None] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.task, type) and issubclass(self.task, Task)):
            raise TypeError(f"Tuner(task={self.task!r}): expected a class derived from lightkeras.Task.")
        if self.oracle not in ORACLES:
            raise ValueError(f"Tuner(oracle={self.oracle!r}) is not known. {did_you_mean(self.oracle, ORACLES)}")
        if self.mode not in (None, "min", "max"):
            raise ValueError(f"Tuner(mode={self.mode!r}): expected 'min', 'max' or None.")
        if self.trials is None and self.oracle in ("random", "bayesian"):
            raise ValueError(f"Tuner(oracle={self.oracle!r}, trials=None) would never end: give a number of trials.")
        for name, least in {"trials": 1, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"Tuner({name}={value!r}): expected a whole number of at least {least}.")
        if self.runner.callbacks:
            raise ValueError(
                "Tuner(runner=...): the runner has callbacks, which would carry their state from trial to trial. "
                "Make them inside the task instead, or leave them out."
            )
        hparams.from_dict(self.task.HParams, self.fixed)

    def search(self) -> SearchResult:
        """Runs the trials, one after the other.

        Returns:
            All trials and the best of them. `best` is `None` where every trial failed.

        Raises:
            ValueError: There is nothing to search, or the objective is logged by no epoch.
            FileExistsError: The directory holds another search or run.
        """
        from lightkeras import oracles  # keras-tuner is imported for a search alone

        started = time.perf_counter()
        space = self._space()
        objective, mode = self._checked_objective()
        directory = RunDirectory(run_directory.path_of(self.run_dir, f"{snake_case(self.task.__name__)}_search"))
        directory.check_unused()
        directory.create(needed_bytes=0)
        config = self._config(directory, objective, mode)
        directory.write_config(config)
        tab = EventFile(directory.path)
        tab.add(search_summary(space, [_best_tag(objective), objective]))
        tab.add(config_summary(config))
        tab.close()
        oracle = oracles.make_oracle(
            self.oracle, space, objective, mode, self.trials, self.runner.max_epochs, self.seed
        )
        trials: list[Trial] = []

        def run_trial(number: int, chosen: Mapping[str, Any], epochs: int | None) -> float:
            trial = self._run(directory.path / "trials" / f"{number:04d}", chosen, epochs, objective, mode)
            trials.append(trial)
            _write_trials(directory.path / "trials.csv", objective, trials)
            if self.on_trial is not None:
                self.on_trial(trial)
            if trial.objective is None:
                raise oracles.FailedTrialError(trial.reason)
            return trial.objective

        oracles.search(oracle, space, directory.path, run_trial)
        done = [trial for trial in trials if trial.objective is not None]
        choose = min if mode == "min" else max
        best = choose(done, key=_objective_of) if done else None
        result = SearchResult(directory.path, objective, mode, tuple(trials), best, time.perf_counter() - started)
        directory.update_result(_summary(result, self.task))
        return result

    def _space(self) -> dict[str, Range]:
        space = hparams.search_space(self.task.HParams)
        left = {name: found for name, found in space.items() if name not in self.fixed}
        if not left:
            raise ValueError(
                f"There is nothing to search: {self.task.__name__}.HParams declares the ranges "
                f"{sorted(space) or 'none'}, of which {sorted(set(space) & set(self.fixed)) or 'none'} are fixed. "
                "Declare a hyperparameter with lk.Int, lk.Float, lk.Choice or lk.Bool, or fix fewer."
            )
        return left

    def _checked_objective(self) -> tuple[str, str]:
        """The objective and its direction, checked against what an epoch really logs."""
        task = self.task(hparams.from_dict(self.task.HParams, self.fixed), self.lookup)
        names = self.runner.check(task)
        objective = self.objective or self.runner.monitor or "val/loss"
        if objective not in names:
            raise ValueError(f"objective={objective!r}: no epoch logs that. {did_you_mean(objective, names)}")
        mode = self.mode or (self.runner.mode if objective == self.runner.monitor else None)
        return objective, mode or schedule.infer_mode(objective)

    def _run(self, path: Path, chosen: Mapping[str, Any], epochs: int | None, objective: str, mode: str) -> Trial:
        keras.backend.clear_session()  # the graphs of the trial before
        hp = hparams.from_dict(self.task.HParams, {**self.fixed, **chosen})
        runner = dataclasses.replace(
            self.runner,
            run_dir=path,
            monitor=objective,
            mode=mode,
            progress=False,
            pictures=False,
            max_epochs=epochs or self.runner.max_epochs,
        )
        values = hparams.to_dict(hp)
        try:
            fit = runner.fit(self.task(hp, self.lookup))
        except Exception as error:  # one bad trial must not lose the search; its reason is kept
            return Trial(path.name, values, None, "failed", f"{type(error).__name__}: {error}", path)
        if fit.diverged or fit.best is None:
            return Trial(path.name, values, None, "failed", fit.stop_reason, path)
        if not math.isfinite(fit.best.value):
            return Trial(path.name, values, None, "failed", f"the best {objective} is {fit.best.value}", path)
        _log_best(path, objective, fit.best)
        return Trial(path.name, values, fit.best.value, "completed", fit.stop_reason, path)

    def _config(self, directory: RunDirectory, objective: str, mode: str) -> dict[str, Any]:
        return {
            "task": self.task.__name__,
            "search": {
                "objective": objective,
                "mode": mode,
                "oracle": self.oracle,
                "trials": self.trials,
                "seed": self.seed,
                "fixed": dict(self.fixed),
            },
            "runner": {**self.runner.record(), "run_dir": str(directory.path)},
            "lookup": (self.lookup or Lookup()).record(),
            "versions": run_directory.versions(),
            "started": run_directory.now(),
        }


def _objective_of(trial: Trial) -> float:
    return float("nan") if trial.objective is None else trial.objective


def _best_tag(objective: str) -> str:
    return f"best/{objective}"


def _log_best(path: Path, objective: str, best: Best) -> None:
    """Writes what was searched for beside the trial's curves: of a curve, the HParams tab shows the last value."""
    file = EventFile(path)
    file.add(scalars({_best_tag(objective): best.value}), best.step)
    file.close()


def _write_trials(path: Path, objective: str, trials: Sequence[Trial]) -> None:
    """`trials.csv`: one row per trial so far."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", "status", objective, *trials[0].hparams, "reason"])
    for trial in trials:
        value = "" if trial.objective is None else f"{trial.objective:.9g}"
        table.writerow([trial.name, trial.status, value, *trial.hparams.values(), trial.reason])
    files.write_bytes(path, text.getvalue().encode())


def _summary(result: SearchResult, task: type[Task]) -> dict[str, Any]:
    best = result.best
    return {
        "task": task.__name__,
        "search": {
            "objective": result.objective,
            "mode": result.mode,
            "trials": len(result.trials),
            "failed": sum(trial.status == "failed" for trial in result.trials),
            "wall_s": round(result.wall_s, 3),
            "best": best
            and {
                "trial": best.name,
                "run_dir": str(best.run_dir),
                "value": best.objective,
                "hparams": dict(best.hparams),
            },
        },
    }
