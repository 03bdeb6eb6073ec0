"""One run of a search, in a worker process or in the process of the search."""

from __future__ import annotations

import copy
import dataclasses
import errno
import functools
import math
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from lightkeras import hparams
from lightkeras.cross_validation import cross_validate
from lightkeras.data import join, reuse
from lightkeras.data.arrays import train_of
from lightkeras.data.folds import Fold
from lightkeras.data.held_out import held_out_of
from lightkeras.data.lookup import Lookup
from lightkeras.engine import make_engine
from lightkeras.runner import Interrupted, Runner
from lightkeras.runs.directory import RunDirectory
from lightkeras.runs.results import FitResult
from lightkeras.search import pruning
from lightkeras.search.records import COMPLETED, FAILED, Outcome, Report
from lightkeras.system.locks import wait_until_free
from lightkeras.task import Task

LEFT_BEHIND = 60.0  # seconds to wait for a lost attempt to release the run directory: Ray may declare a node lost early

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_COPIED = (
    *("run.lock", "output.txt", "result.json", "report.html", "model.keras", "figures", "profile", "broken"),
    *("*.run.json", "wandb"),  # runs of services, which are the parent's
)


class OutOfMemoryError(MemoryError):
    """A run ran out of memory. Its process must end to release its memory."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A run for a worker.

    Args:
        name: Name in the search, such as `"trials/0003"`.
        hparams: All hyperparameters by name.
        runner: Runner with the run directory.
        objective: Name of the value to report; `None` reports none.
        parent: Run directory of the trial that it continues; `None` starts anew.
        joined: Whether it is trained on train and validation together.
        folds: Number of folds that it is cross-validated on, each a run in its directory; `None` for one run.
        stratified: Whether each fold has the same share of each class.
    """

    name: str
    hparams: dict[str, Any]
    runner: Runner
    objective: str | None
    parent: Path | None = None
    joined: bool = False
    folds: int | None = None
    stratified: bool = False

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return Path(str(self.runner.run_dir))


@dataclasses.dataclass(frozen=True)
class TaskSummary:
    """What a search needs to know of a task before the first run.

    `names` are those of the values that each epoch will log; `data` is the fingerprint of the train split, or `None`,
    and `validation` those of the validation sets by name.
    """

    names: tuple[str, ...]
    source: str | None
    data: str | None
    validation: Mapping[str, str | None] = dataclasses.field(default_factory=dict)


def summarize_task(
    task_class: type[Task],
    lookup: Lookup | None,
    values: dict[str, Any],
    runner: Runner,
    folds: int | None = None,
    stratified: bool = False,
) -> TaskSummary:
    """Checks a task like `Runner.fit` before its first epoch, with the errors of `Runner.check`; writes nothing.

    With `folds` it has the data of the first fold: what cannot be cut into folds is refused here.
    """
    task = task_class(hparams.from_dict(task_class.HParams, values), lookup)
    if folds is not None:
        module = task.build_data()
        if module is None:
            raise ValueError(f"folds={folds} needs a data module: {task_class.__name__}.build_data returns None.")
        fold = Fold(module, 0, folds, stratified=stratified, shuffle=True, seed=runner.seed)
        fold.prepare(task.lookup)
        task.take_data(fold)
    names = runner.check(task)
    data = task.data
    reuse.commit(ended_well=data is not None)
    if data is None:
        return TaskSummary(tuple(names), None, None)
    held_out = {name: feed.fingerprint() for name, feed in held_out_of(data, "validation").items()}
    return TaskSummary(tuple(names), data.source, train_of(data).fingerprint(), held_out)


def run(job: Job, task_class: type[Task], lookup: Lookup | None, report: Report) -> Outcome:
    """Runs or resumes a prepared job, and calls `report` with the objective after each epoch.

    A run that raises has failed, except for what concerns more than this run: `OutOfMemoryError`, `Interrupted` (its
    state was saved), and `OSError` of a full disk.
    """
    from lightkeras.search.reporter import Reporter  # a class of Keras's: imports Keras

    began = time.perf_counter()
    keras.backend.clear_session()  # drops the graphs of the previous run
    callbacks = [] if job.objective is None or job.folds is not None else [Reporter(job.objective, report)]
    loggers = copy.deepcopy(job.runner.loggers)  # in the process of the search, the trials must not share them
    runner = dataclasses.replace(job.runner, callbacks=callbacks, loggers=loggers, progress=False)
    try:
        if job.folds is None or job.joined:
            outcome = _outcome(_fit(job, task_class, lookup, runner), job)
        else:
            outcome = _outcome_of_folds(_cross_validated(job, task_class, lookup, runner))
        reuse.commit(ended_well=True)
    except Interrupted:
        raise
    except Exception as error:  # a failed run must not end the search; the reason is recorded
        reuse.commit(ended_well=False)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        if make_engine().is_out_of_memory(error) or isinstance(error, MemoryError):
            raise OutOfMemoryError(f"{type(error).__name__}: {_first_line(error)}") from error
        return Outcome(FAILED, f"{type(error).__name__}: {error}", wall_s=time.perf_counter() - began)
    return dataclasses.replace(outcome, wall_s=time.perf_counter() - began)


def prepare(job: Job) -> None:
    """Creates the run directory; for a trial that continues another one, as a copy of its directory.

    The copy is made beside it and renamed, so that it is never incomplete. A lost attempt, on a node that no longer
    answers, may hold the lock for a moment: waits for it.
    """
    target = job.run_dir
    wait_until_free(RunDirectory(target).lock_file, LEFT_BEHIND)
    if (target / "config.json").exists():
        return
    shutil.rmtree(target, ignore_errors=True)  # of an attempt that ended before its configuration was written
    target.parent.mkdir(parents=True, exist_ok=True)
    if job.parent is None:
        target.mkdir()
        return
    beside = target.with_name(f".{target.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(job.parent, beside, ignore=shutil.ignore_patterns(*_NOT_COPIED))
    beside.rename(target)


def _fit(job: Job, task_class: type[Task], lookup: Lookup | None, runner: Runner) -> FitResult:
    task = task_class(hparams.from_dict(task_class.HParams, job.hparams), lookup)
    resume = RunDirectory(job.run_dir).config_file.exists()
    if not job.joined:
        return runner.fit(task, resume=resume)
    task.set_up(runner.seed)
    if task.data is None:
        raise ValueError(
            f"{task_class.__name__} has no data module: expected one with train and validation splits to join."
        )
    task.data.prepare(task.lookup)
    sets = held_out_of(task.data, "validation")
    if not sets and job.folds is None:
        raise ValueError(f"{task_class.__name__}'s data has no validation split to join with train.")
    return runner.fit(task, functools.reduce(join.join_feeds, sets.values(), train_of(task.data)), resume=resume)


def _cross_validated(job: Job, task_class: type[Task], lookup: Lookup | None, runner: Runner) -> tuple[FitResult, ...]:
    """Runs the folds that have not ended; the directory is never of another trial."""

    def make() -> Task:
        return task_class(hparams.from_dict(task_class.HParams, job.hparams), lookup)

    folds = 0 if job.folds is None else job.folds
    return cross_validate(make, folds=folds, stratified=job.stratified, runner=runner, resume=True).folds


def _outcome_of_folds(folds: Sequence[FitResult]) -> Outcome:
    """The mean of the best values of the folds, and their spread; one fold that failed is a trial that failed."""
    bests = [fold.best for fold in folds if fold.best is not None and not fold.diverged]
    values = [best.value for best in bests]
    done: dict[str, Any] = {"epochs": sum(fold.epochs for fold in folds), "steps": sum(fold.steps for fold in folds)}
    if len(values) < len(folds) or not all(map(math.isfinite, values)):
        number, fold = next(
            (number, fold)
            for number, fold in enumerate(folds, 1)
            if fold.diverged or fold.best is None or not math.isfinite(fold.best.value)
        )
        return Outcome(FAILED, f"fold {number}: {fold.stop_reason}", **done)
    epoch, step = (round(statistics.fmean(found)) for found in ([b.epoch for b in bests], [b.step for b in bests]))
    spread = statistics.stdev(values)
    return Outcome(COMPLETED, f"{len(folds)} folds", statistics.fmean(values), epoch, step, spread=spread, **done)


def _outcome(fit: FitResult, job: Job) -> Outcome:
    done: dict[str, Any] = {"epochs": fit.epochs, "steps": fit.steps}
    if fit.diverged or fit.best is None:
        return Outcome(FAILED, fit.stop_reason, **done)
    if not math.isfinite(fit.best.value):
        reason = pruning.not_finite(fit.best.epoch, fit.best.value, str(fit.monitor))
        return Outcome(FAILED, str(reason), **done)
    return Outcome(COMPLETED, fit.stop_reason, fit.best.value, fit.best.epoch, fit.best.step, **done)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["no message"])[0]
