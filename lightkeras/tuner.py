"""Tuner: many runs over the declared ranges, chosen by keras-tuner's oracles.

check the settings, and the objective against what an epoch logs      # before the first trial
while there is something left to do:
    for each idle worker: what the oracle proposes, as a run in trials/<name>/
    for each report: note it in the journal; stop the run if it diverged, is stuck, or does worse than others
    for each end: note it in the journal; tell the oracle
the best few again with other seeds; the best again on train and validation together, if that was asked for
name the best, and make best/

Killed at any instant, it goes on: the journal holds all that was decided, and each run its checkpoints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightkeras import hparams
from lightkeras.data.lookup import Lookup
from lightkeras.runs import report
from lightkeras.runs.directory import RunDirectory, check_directory, run_path, snake_case
from lightkeras.runs.results import SearchResult, Trial, counted
from lightkeras.runs.resume import (
    ChangedRunError,
    code_of,
    config_differences,
    data_differences,
    held_out_record,
    splits_of,
)
from lightkeras.search import figures, loop, outputs, trial_run
from lightkeras.search.coordinator import Coordinator, Plan
from lightkeras.search.journal import Journal
from lightkeras.search.progress_table import ProgressTable
from lightkeras.search.pruning import Chance, Pruning
from lightkeras.search.records import Record
from lightkeras.search.settings import TrialSettings
from lightkeras.search.space import Bounds
from lightkeras.search.workers.launch import Cluster, make_pool
from lightkeras.search.workers.pool import Pool, WorkerLimits
from lightkeras.system import display, environment, portable
from lightkeras.system.display import phase
from lightkeras.system.locks import check_free, exclusive_lock, run_lock
from lightkeras.system.messages import announce, check_whole, did_you_mean, explains_unknown_keywords
from lightkeras.system.signals import StopSignals
from lightkeras.training import decisions
from lightkeras.training.settings import Settings

POOLS = ("local", "ray")

# Arguments of keras-tuner, Optuna, Ray Tune and Lightning, by the one that takes their place.
_RENAMED = {
    "trials=20": ("max_trials", "n_trials", "num_samples"),
    "run_dir='runs/search'": ("directory", "project_name", "study_name", "storage", "local_dir"),
    "oracle='bayesian'": ("sampler", "search_alg", "tuner"),
    "pruning=Pruning('median')": ("pruner", "scheduler"),
    "objective='val/accuracy'": ("metric", "monitor"),
    "mode='max'": ("direction",),
    "workers=2": ("n_jobs", "max_concurrent_trials", "distribution_strategy"),
    "gpus=1": ("num_gpus", "resources_per_trial"),
    "retries=2": ("max_retries_per_trial", "max_failures"),
    "fixed={'units': 64}": ("hyperparameters", "tune_new_entries"),
    "runner=Runner(max_epochs=10)": ("max_epochs", "epochs", "callbacks", "patience", "max_time"),
}
_KNOWN_KEYWORDS = {
    name: f"lightkeras has it in `{ours.partition('=')[0]}`: Tuner(task, {ours})."
    for ours, names in _RENAMED.items()
    for name in names
} | {
    "hypermodel": "Give the task's class first; its HParams declare the ranges: Tuner(MyTask).",
    "executions_per_trial": "Only the best trials are run again, with other seeds: Tuner(task, top=3, seeds=2).",
    "overwrite": "A search is never overwritten: give another run_dir, or resume it with search(resume=True).",
    "load_if_exists": "Resume a search with search(resume=True).",
}


@explains_unknown_keywords(_KNOWN_KEYWORDS)
@dataclasses.dataclass(frozen=True)
class Tuner(TrialSettings):
    """Searches the declared hyperparameters of a task.

    Args:
        task: The task's class.
        objective: Epoch value to optimize, such as `val/accuracy`; `None` for the value that the runner monitors,
            or `val/loss`.
        mode: Whether it is better low (`"min"`) or high (`"max"`); `None` infers it from the runner or the name.
        oracle: How trials are chosen: `"random"`, `"bayesian"` (Gaussian process), `"hyperband"`
            (Li et al., JMLR 2018) or `"grid"`.
        trials: Maximum number of trials; `None` for all of a grid or of hyperband. A search ends before if there is
            nothing left to try; trials that fail do not end it.
        seed: Seed of the oracle's choices.
        run_dir: Directory of the search; `None` creates one in `runs/`.
        runner: Settings of each run; its `run_dir` and `callbacks` are not used.
        lookup: Where data and modules are found; `None` for `Lookup()`.
        fixed: Values of hyperparameters that are not searched, by name.
        space: Narrower ranges than declared, by name, as in `{"dropout": {"low": 0.1, "high": 0.3}}`.
        workers: Processes that run trials in parallel and divide the cores; 0 runs the trials in this process, for a
            debugger. One process and not none by default: memory is released, and a crash is a failed trial.
        pool: Where the workers run: `"local"` is this machine; `"ray"` is a Ray cluster, whose nodes must all see
            `run_dir` and the task's file (extra `ray`).
        address: Address of the Ray cluster for `ray.init`. `None` uses `RAY_ADDRESS`, else the cluster that `ray start`
            started on this machine, else starts one.
        gpus: GPUs of each worker, which its trials share, or the fraction of one. With 0, workers of this machine share
            all of them, and GPUs are hidden from those on Ray.
        retries: How often a trial, the check before the first one and the export of the best model are retried after
            their process died, hung or ran out of memory.
        limits: Limits of each worker process.
        pruning: When trials that do worse than others are stopped.
        chance: When a trial is stuck at chance level, and fails.
        seeds: Number of other seeds with which the best trials are run again, to detect lucky ones.
        top: Number of best trials to run again.
        refit: Whether the best trial is fitted again on train and validation together, for as many epochs.
        folds: Number of folds (`lk.cross_validate`): a trial is a run for each in its directory, and its objective the
            mean over them. The best trial is then fitted on all examples, for the mean of the best epochs. `None`
            uses the validation split.
        stratified: Whether each fold gets the same share of each class, by the labels.
        on_trial: Called with each finished trial.

    Raises:
        ValueError: A setting is out of its range, or there is nothing to search.
        TypeError: `task` is not a class of tasks.

    Examples:
        ```python
        import lightkeras as lk

        tuner = lk.Tuner(
            lk.testing.TwoMoons,
            objective="val/accuracy",
            trials=3,
            space={"hidden_units": {"low": 8, "high": 16}},
            runner=lk.Runner(max_epochs=1),
            workers=0,  # in this process; 2 and more work side by side
        )
        print(tuner.search().best)
        ```
    """

    workers: int = 1
    pool: str = "local"
    address: str | None = None
    gpus: float = 0.0
    retries: int = 1
    limits: WorkerLimits = dataclasses.field(default_factory=WorkerLimits)
    pruning: Pruning = dataclasses.field(default_factory=Pruning)
    chance: Chance = dataclasses.field(default_factory=Chance)
    seeds: int = 0
    top: int = 3
    refit: bool = False
    folds: int | None = None
    stratified: bool = False
    on_trial: Callable[[Trial], None] | None = None

    def __post_init__(self) -> None:
        self.runner.check_keeps_runs("A search")
        for name, least in {"workers": 0, "retries": 0, "seeds": 0, "top": 1}.items():
            check_whole("Tuner", name, getattr(self, name), least)
        _check_pool(self)
        _check_folds(self)
        super().__post_init__()
        if self.pruning.rule is not None and self.oracle == "hyperband":
            raise ValueError(
                f"Tuner(oracle='hyperband', pruning={self.pruning.rule!r}): hyperband decides itself how long a trial "
                "runs. Leave the pruning out, or take another oracle."
            )

    def search(self, *, resume: bool = False) -> SearchResult:
        """Runs the trials.

        Args:
            resume: Whether to resume the search in `run_dir`; starts it if there is none. More `trials` than it was
                started with extend it, also after its end.

        Returns:
            All trials and the best of them. `best` is `None` if no trial was completed.

        Raises:
            ValueError: There is nothing to search, or no epoch logs the objective.
            FileExistsError: The directory holds another search or run.
            RunLockedError: Another process is using the directory.
            ChangedRunError: The search in the directory has other settings.
            SearchInterrupted: SIGTERM or Ctrl-C was received; the state was saved.
            OSError: The directory cannot be written to, or a node of the cluster cannot see it.
            ImportError: Ray is not installed, or a node of the cluster lacks something that the search needs.
            ConnectionError: The cluster cannot be reached.

        Examples:
            ```python
            import lightkeras as lk

            tuner = lk.Tuner(lk.testing.TwoMoons, trials=2, runner=lk.Runner(max_epochs=1), workers=0)
            result = tuner.search()
            print(result.best.hparams, result.best_dir)
            for trial in result.ranked():
                print(trial.name, trial.objective)
            ```
        """
        if self.pool == "local" and self.workers > (cores := portable.cores()):
            warnings.warn(
                f"Tuner(workers={self.workers}): this machine has only {counted(cores, 'core')} for them to share.",
                stacklevel=2,
            )
        directory = RunDirectory(self._path(resume))
        before = _place(directory, resume)
        with contextlib.ExitStack() as stack:
            stack.enter_context(display.showing(self.runner.progress))
            pool = None
            if self.workers:
                using = directory.path / "workers.lock"
                cluster = Cluster(self.address) if self.pool == "ray" else None
                made = make_pool(
                    self.task, self.lookup, self.workers, self.limits, using, cluster=cluster, gpus=self.gpus
                )
                pool = stack.enter_context(made)
            with phase("starting and checking the task"):
                found, objective, mode = self._summarize_task(pool)
            config = _config_of(self, directory, objective, mode, found)
            if before is not None:
                _check_same(before, config)
            directory.create(needed_bytes=0)
            stack.enter_context(run_lock(directory.lock_file))
            if pool is not None:
                pool.begin()  # before the search starts: it fails if a node cannot see the directory
            if before is None:
                _begin(directory, config)
            with exclusive_lock(directory.path / "workers.lock", _announce_waiting):
                pass  # workers of a killed search end shortly after it, and hold their runs until then
            journal = stack.enter_context(Journal(directory.path / "journal.jsonl"))
            signals = stack.enter_context(StopSignals())  # before this line a signal ends the process and its workers
            return self._run(directory, journal, objective, mode, pool, signals, before)

    # ------------------------------------------------------------------ before the first trial

    def _path(self, resume: bool) -> Path:
        if resume and self.run_dir is None:
            raise ValueError("resume=True (--resume) needs the run_dir of the search.")
        return run_path(self.run_dir, f"{snake_case(self.task.__name__)}_search")

    def _summarize_task(self, pool: Pool | None) -> tuple[trial_run.TaskSummary, str, str]:
        """Checks the task. Returns its summary, the objective, which an epoch must log, and the mode."""
        space = self.made_space()
        values = hparams.to_dict(space.hparams({}))
        runner = dataclasses.replace(self.runner, run_dir=None, monitor=None, mode=None, progress=False)
        if pool is None:
            found = trial_run.summarize_task(self.task, self.lookup, values, runner, self.folds, self.stratified)
        else:
            found = pool.summarize_task(values, runner, self.retries, self.folds, self.stratified)
        objective = self.objective or self.runner.monitor or "val/loss"
        if objective not in found.names:
            raise ValueError(f"objective={objective!r}: no epoch logs that. {did_you_mean(objective, found.names)}")
        mode = self.mode or (self.runner.mode if objective == self.runner.monitor else None)
        return found, objective, mode or decisions.infer_mode(objective)

    # ------------------------------------------------------------------ the search

    def _run(
        self,
        directory: RunDirectory,
        journal: Journal,
        objective: str,
        mode: str,
        pool: Pool | None,
        signals: StopSignals,
        before: Mapping[str, Any] | None,
    ) -> SearchResult:
        from lightkeras.search.oracles import Oracle  # keras-tuner is imported only for a search

        started = time.perf_counter()
        space = self.made_space()
        plan = Plan(
            folder=directory.path,
            space=space,
            objective=objective,
            mode=mode,
            runner=self.runner,
            pruning=self.pruning,
            chance=self.chance,
            retries=self.retries,
            seeds=self.seeds,
            top=self.top,
            refit=self.refit or self.folds is not None,  # a cross-validation exports no model
            folds=self.folds,
            stratified=self.stratified,
        )
        oracle = Oracle(self.oracle, space, objective, mode, self.trials, self.runner.epoch_limit, self.seed)

        def ended(run: Record) -> None:
            if run.trial is not None:
                self._tell(directory, coordinator, run)

        extended = before is not None and before["search"].get("trials") != self.trials
        coordinator = Coordinator(plan, journal, oracle, ended, extended)
        if before is not None:
            resumed = [*before.get("resumed", []), {"at": environment.now(), "argv": sys.argv}]
            search = {**before["search"], "trials": self.trials if extended else before["search"].get("trials")}
            directory.write_config({**before, "search": search, "resumed": resumed})
        if self.oracle == "grid" and self.trials is not None and (count := space.count() or 0) > self.trials:
            announce(
                f"the grid has {count} combinations, and trials={self.trials} ends the search after as many: set it to "
                "None (--tuner.trials null) to try all"
            )
        view = ProgressTable(coordinator, self.trials, display.current())
        if pool is None:
            loop.run_in_process(coordinator, self.task, self.lookup, signals, view.update)
        else:
            loop.run_on_workers(coordinator, pool, signals, view.update)
        view.update(ended=True)
        return self._finish(directory, coordinator, pool, time.perf_counter() - started)

    def _tell(self, directory: RunDirectory, coordinator: Coordinator, run: Record) -> None:
        plan = coordinator.plan
        ended = [outputs.trial_of(plan, found) for found in coordinator.records.trials() if found.outcome]
        outputs.write_trials(directory.path / "trials.csv", plan.objective, ended)
        if self.on_trial is not None:
            self.on_trial(outputs.trial_of(plan, run))

    def _finish(
        self, directory: RunDirectory, coordinator: Coordinator, pool: Pool | None, wall_s: float
    ) -> SearchResult:
        result = outputs.result_of(coordinator, wall_s)
        if len(result.trials) != self.trials and self.trials is not None:
            announce(
                f"the search ended after {len(result.trials)} of {counted(self.trials, 'trial')}: {result.stop_reason}"
            )
        refit = next(reversed(coordinator.records.refits()), None)
        failed = refit.outcome.reason if refit is not None and result.refit is None and refit.outcome else None
        if failed is not None:
            warnings.warn(
                f"The best trial could not be fitted on train and validation together: {failed}", stacklevel=3
            )
        best = coordinator.best()
        if best is not None and result.best is not None and (result.refit is not None or self.folds is None):
            if not RunDirectory(result.refit or result.best.run_dir).model_file.exists():
                with phase("saving model.keras and the pictures of the best trial"):
                    self._export(coordinator, best, pool)
            outputs.make_best(result.refit or result.best.run_dir, result.best_dir)
        directory.update_result(outputs.summary(result, self.task.__name__, coordinator.repeats(), failed))
        if self.runner.pictures:
            with phase("drawing the search"):
                figures.write(result, coordinator.plan.space, directory.figures)
                report.write(directory.path)
                if result.best_dir.exists():
                    report.write(result.best_dir)
        return result

    def _export(self, coordinator: Coordinator, best: Record, pool: Pool | None) -> None:
        """Exports the model and the figures of the best trial; trials do not."""
        problem = loop.export(coordinator.export(best), pool, self.task, self.lookup, self.retries)
        if problem is not None:
            warnings.warn(f"The model of the best trial, {best.number}, was not written: {problem}", stacklevel=4)


def _check_folds(tuner: Tuner) -> None:
    check_whole("Tuner", "folds", tuner.folds, 2, optional=True)
    if tuner.folds is None:
        if tuner.stratified:
            raise ValueError("Tuner(stratified=True) needs folds: set folds=5, or leave it out.")
        return
    by_epoch = {
        "oracle='hyperband'": tuner.oracle == "hyperband",
        "pruning": tuner.pruning.rule is not None,
        "chance": tuner.chance.value is not None,
    }
    if found := next((name for name, used in by_epoch.items() if used), None):
        raise ValueError(
            f"Tuner(folds={tuner.folds}, {found}): it compares the epochs of one run, and a trial has "
            f"{tuner.folds}. Leave one of the two out."
        )


def _check_pool(tuner: Tuner) -> None:
    if tuner.pool not in POOLS:
        raise ValueError(f"Tuner(pool={tuner.pool!r}) is not known. {did_you_mean(tuner.pool, POOLS)}")
    if isinstance(tuner.gpus, bool) or not 0 <= tuner.gpus < float("inf"):
        raise ValueError(f"Tuner(gpus={tuner.gpus!r}): expected a number of at least 0.")
    if tuner.gpus > 1 and tuner.gpus != int(tuner.gpus):
        raise ValueError(f"Tuner(gpus={tuner.gpus!r}): above 1, expected a whole number of GPUs.")
    if tuner.pool == "ray" and not tuner.workers:
        raise ValueError("Tuner(pool='ray', workers=0): on a cluster at least one worker is needed.")
    if tuner.gpus and not tuner.workers:
        raise ValueError(f"Tuner(gpus={tuner.gpus!r}, workers=0): only worker processes have GPUs of their own.")
    if tuner.pool == "local" and tuner.address:
        raise ValueError(f"Tuner(address={tuner.address!r}) needs a cluster: set pool='ray', or leave it out.")


def _place(directory: RunDirectory, resume: bool) -> dict[str, Any] | None:
    """Returns the configuration of the search to resume; `None` starts one."""
    check_free(directory.lock_file)
    if not resume or not directory.config_file.exists():
        directory.check_unused()
        check_directory(directory, needed_bytes=0)
        return None
    before = directory.read_config()
    if "search" not in before:
        raise ValueError(f"{directory.path} holds a run, not a search: give another run_dir.")
    return before


def _begin(directory: RunDirectory, config: Mapping[str, Any]) -> None:
    from lightkeras.runs.loggers.event_file import EventFile  # loads TensorBoard's formats
    from lightkeras.runs.loggers.summaries import config_summary

    tab = EventFile(directory.path)
    tab.add(config_summary(config))
    tab.close()
    directory.write_config(config)  # last, because it marks the directory as a search


_SAME = ("task", "tried")  # and the data
_SAME_OF_SEARCH = (
    "objective",
    "mode",
    "oracle",
    "seed",
    "pruning",
    "chance",
    "seeds",
    "top",
    "refit",
    "folds",
    "stratified",
)
_FREE_OF_RUNNER = (
    "run_dir",
    "draw_every",
    "export",
    "progress",
    "profile",
    "features",
    "steps_per_call",
    "callbacks",
    "loggers",
    "preflight",
    "pictures",
)


def _config_of(
    tuner: Tuner, directory: RunDirectory, objective: str, mode: str, found: trial_run.TaskSummary
) -> dict[str, Any]:
    return {
        "task": tuner.task.__name__,
        "search": {
            "objective": objective,
            "mode": mode,
            "oracle": tuner.oracle,
            "trials": tuner.trials,
            "seed": tuner.seed,
            "fixed": dict(tuner.fixed),
            "space": {name: _plain(bounds) for name, bounds in tuner.space.items()},
            "pruning": dataclasses.asdict(tuner.pruning),
            "chance": dataclasses.asdict(tuner.chance),
            "seeds": tuner.seeds,
            "top": tuner.top,
            "refit": tuner.refit,
            "folds": tuner.folds,
            "stratified": tuner.stratified,
            "workers": tuner.workers,
            "pool": tuner.pool,
            "address": tuner.address,
            "gpus": tuner.gpus,
            "retries": tuner.retries,
            "limits": dataclasses.asdict(tuner.limits),
        },
        "tried": tuner.made_space().record(),
        "runner": {**tuner.runner.record(), "run_dir": str(directory.path)},
        "lookup": (tuner.lookup or Lookup()).record(),
        "data": {
            "source": found.source,
            "fingerprint": found.data,
            "validation": held_out_record({name: {"fingerprint": one} for name, one in found.validation.items()}),
        },
        "code": code_of(tuner.task),
        "versions": environment.versions(),
        "argv": sys.argv,
        "started": environment.now(),
    }


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises a ChangedRunError for other settings; warns of changes that may change the numbers."""
    lines = [line for name in _SAME for line in config_differences(name, before.get(name), now[name])]
    for part in ("source", *splits_of(before.get("data"), now["data"])):
        lines += data_differences(before.get("data"), now["data"], part)
    parts = {"search": {name: name in _SAME_OF_SEARCH for name in now["search"]}}
    parts["runner"] = {name: name not in _FREE_OF_RUNNER for name in now["runner"]}
    earlier = {**before, "runner": {**Settings().record(), **before.get("runner", {})}}  # lacks settings that are newer
    earlier["search"] = {"folds": None, "stratified": False, **before["search"]}
    for part, names in parts.items():
        for name in [name for name, compared in names.items() if compared]:
            lines += config_differences(f"{part}.{name}", earlier.get(part, {}).get(name), now[part][name])
    first, more = before["search"].get("trials"), now["search"]["trials"]
    if more is not None and (first is None or more < first):  # a search may be extended
        lines += config_differences("search.trials", first, more)
    if lines:
        raise ChangedRunError(
            f"This is not the search that was started in this directory: {'; '.join(lines)}. "
            "Use the settings it was started with, or start a search in another directory."
        )
    for name in ("code", "versions"):
        for line in config_differences(name, before.get(name), now[name]):
            warnings.warn(
                f"Resuming with a change; the numbers may differ from an uninterrupted search: {line}.", stacklevel=4
            )


def _plain(bounds: Bounds | Mapping[str, Any]) -> dict[str, Any]:
    given = dict(bounds) if isinstance(bounds, Mapping) else dataclasses.asdict(bounds)
    return {name: value for name, value in given.items() if value is not None}


def _announce_waiting() -> None:
    announce("waiting for workers of a search that was killed here to end")
