"""Outputs of a search beside its runs: `trials.csv`, `best/` and `result.json`."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightkeras import hparams
from lightkeras.runs.results import SearchResult, Trial
from lightkeras.search.coordinator import Coordinator, Plan, Repeats
from lightkeras.search.records import Record
from lightkeras.system import files

_SHARED = ("checkpoints", "model.keras")  # never changed in place
_LEFT_OUT = ("events.out.tfevents.*", "hparams", "machine", "run.lock", "output.txt", "profile", "broken")


def trial_of(plan: Plan, run: Record) -> Trial:
    """Returns the public result of a trial that has ended."""
    hp = plan.space.hparams(run.values)
    outcome = run.outcome
    if outcome is None:
        raise ValueError(f"{run.name} has not ended.")
    return Trial(
        name=run.number,
        hparams=hparams.to_dict(hp),
        objective=outcome.value,
        status=outcome.status,
        reason=outcome.reason,
        run_dir=plan.folder / run.name,
        inactive=hparams.inactive(hp),
        epochs=outcome.epochs,
        wall_s=outcome.wall_s,
        spread=outcome.spread,
    )


def write_trials(path: Path, objective: str, trials: Sequence[Trial]) -> None:
    """Writes `trials.csv`: one row per ended trial; inactive hyperparameters are empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = list(trials[0].hparams) if trials else []
    folded = any(trial.spread is not None for trial in trials)
    table.writerow(["trial", "status", objective, *["std"] * folded, *names, "epochs", "wall_s", "reason"])
    for trial in trials:
        value = "" if trial.objective is None else f"{trial.objective:.9g}"
        chosen = ["" if name in trial.inactive else trial.hparams[name] for name in names]
        spread = ["" if trial.spread is None else f"{trial.spread:.9g}"] * folded
        row = [trial.name, trial.status, value, *spread, *chosen, trial.epochs, f"{trial.wall_s:.3f}", trial.reason]
        table.writerow(row)
    files.write_bytes(path, text.getvalue().encode())


def result_of(coordinator: Coordinator, wall_s: float) -> SearchResult:
    """Returns the result of a search that has ended."""
    plan = coordinator.plan
    trials = {run.name: trial_of(plan, run) for run in coordinator.records.trials() if run.outcome is not None}
    best = coordinator.best()
    refit = next(reversed(coordinator.records.refits()), None)
    return SearchResult(
        run_dir=plan.folder,
        objective=plan.objective,
        mode=plan.mode,
        trials=tuple(trials.values()),
        best=None if best is None else trials[best.name],
        wall_s=wall_s,
        repeats={trials[found.name].name: found.values for found in coordinator.repeats()},
        refit=plan.folder / refit.name
        if refit is not None and refit.outcome and refit.outcome.value is not None
        else None,
        stop_reason=coordinator.stop_reason,
    )


def summary(result: SearchResult, task: str, repeats: Sequence[Repeats], reason: str | None) -> dict[str, Any]:
    """Returns the content of `result.json` of a search; `reason` is why the refit failed, if it did."""
    best = result.best
    statuses = [trial.status for trial in result.trials]
    return {
        "task": task,
        "search": {
            "objective": result.objective,
            "mode": result.mode,
            "trials": len(result.trials),
            **{status: statuses.count(status) for status in ("completed", "pruned", "failed")},
            "stop_reason": result.stop_reason,
            "epochs": sum(trial.epochs for trial in result.trials),
            "wall_s": round(result.wall_s, 3),
            "best": best
            and {
                "trial": best.name,
                "run_dir": str(best.run_dir),
                "value": best.objective,
                **({} if best.spread is None else {"std": best.spread}),
                "hparams": dict(best.hparams),
            },
            "seeds": [_repeats_summary(found) for found in repeats],
            **({"folds": folds} if (folds := _folds_summary(result.trials)) else {}),
            "refit": None if result.refit is None else str(result.refit),
            **({} if reason is None else {"refit_failed": reason}),
        },
    }


def make_best(source: Path, target: Path) -> None:
    """Makes `best/`, a run directory with the checkpoints and the model of another run; replaces an existing one.

    Checkpoints and the model are hard links if the file system has them: a run never changes these files in place.
    Event files are left out, because TensorBoard would list the run twice.
    """
    beside = target.with_name(f".{target.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    with files.explained(target):
        ignored = shutil.ignore_patterns(*_LEFT_OUT, *_SHARED)
        shutil.copytree(source, beside, ignore=ignored)
        for name in _SHARED:
            _share(source / name, beside / name)
        if target.exists():
            old = target.with_name(f".{target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            beside.rename(target)
            shutil.rmtree(old)
        else:
            beside.rename(target)


def _share(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    elif source.exists():
        _link(str(source), str(target))


def _link(source: str, target: str) -> None:
    with contextlib.suppress(OSError):  # another file system, or one without links
        os.link(source, target)
        return
    shutil.copy2(source, target)


def _folds_summary(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Mean and spread of the objective over the folds of each completed trial; empty without folds."""
    return [
        {"trial": trial.name, "mean": trial.objective, "spread": trial.spread}
        for trial in trials
        if trial.spread is not None
    ]


def _repeats_summary(found: Repeats) -> Mapping[str, Any]:
    plain = dataclasses.asdict(found)
    name = plain.pop("name")
    mean, spread = (None if math.isnan(value) else value for value in (found.mean, found.spread))
    return {"trial": name.rpartition("/")[2], **plain, "mean": mean, "spread": spread}
