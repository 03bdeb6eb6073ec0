"""Chooses the next run of a search, writes it to the journal, and only then returns it.

next run:   an unfinished run, else a new trial from the oracle, else the runs after the trials: the best trials again
            with other seeds, then the best on train and validation together
report:     written to the journal, then checked: not finite, stuck at chance, worse than others
end:        written to the journal, then passed to the oracle

A search is resumed from the journal alone: a new oracle is given the events of the journal in the same order. A saved
keras-tuner oracle would not do: it lacks the grid's order and the Bayesian oracle's random state.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from lightkeras import hparams
from lightkeras.runner import Runner
from lightkeras.search import journal as journals
from lightkeras.search.journal import Event, Journal, explained_line
from lightkeras.search.pruning import Chance, Pruning, is_better, not_finite
from lightkeras.search.records import COMPLETED, FAILED, PRUNED, Outcome, Record, Records, Stop, check_event, same_name
from lightkeras.search.space import Space
from lightkeras.search.trial_run import Job

if TYPE_CHECKING:
    from lightkeras.search.oracles import Oracle


@dataclasses.dataclass(frozen=True)
class Plan:
    """Settings of a search.

    Args:
        folder: Directory of the search.
        space: The searched hyperparameters.
        objective: Name of the value to optimize.
        mode: `"min"` or `"max"`.
        runner: Settings of each run.
        pruning: When trials that do worse than others are stopped.
        chance: When a trial counts as stuck at chance.
        retries: How often a run is retried after its process was lost.
        seeds: Seeds with which the best trials are run again.
        top: How many trials those are.
        refit: Whether the best trial is fitted again on train and validation together.
        folds: Number of folds of each trial; `None` for one run on the data module's splits.
        stratified: Whether each fold has the same share of each class.
    """

    folder: Path
    space: Space
    objective: str
    mode: str
    runner: Runner
    pruning: Pruning = dataclasses.field(default_factory=Pruning)
    chance: Chance = dataclasses.field(default_factory=Chance)
    retries: int = 1
    seeds: int = 0
    top: int = 3
    refit: bool = False
    folds: int | None = None
    stratified: bool = False


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Best objective of a trial's hyperparameters with each other seed; `failed` counts the failed runs."""

    name: str
    values: tuple[float, ...]
    failed: int

    @property
    def mean(self) -> float:
        """Mean of the values; NaN if there are none."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float:
        """Sample standard deviation of the values; NaN for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


@final
class Coordinator:
    """Chooses the next run of a search; raises a ValueError if the journal belongs to another search.

    The events of the journal are applied first, to a new oracle. `extended`: whether the oracle may choose more trials
    than when the search was last run. `on_end` is called with each run that ends afterwards.
    """

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        oracle: Oracle,
        on_end: Callable[[Record], None] = lambda _: None,
        extended: bool = False,
    ) -> None:
        self.plan, self.records = plan, Records()
        self._journal, self._oracle, self._on_end = journal, oracle, on_end
        for number, event in enumerate(journal.events, 1):
            self._replay(number, event)
        if extended and self.records.exhausted:
            self._write({"event": "extended"})

    @property
    def finished(self) -> bool:
        """Returns True if all runs have ended and no more will be chosen."""
        return (
            self.records.exhausted
            and self.records.planned >= {"seeds", "refit"}
            and all(run.outcome is not None for run in self.records.runs.values())
        )

    @property
    def stop_reason(self) -> str:
        """Returns why there are no more trials."""
        return self._oracle.why_stopped()

    def next(self, worker: int) -> Job | None:
        """Returns the next run for a worker; `None` if there is none at the moment or at all."""
        run = self._next_run()
        if run is None:
            return None
        run.worker = worker
        return self.job(run)

    def report(self, name: str, epoch: int, value: float) -> str | None:
        """Records the objective after an epoch of a run. Returns the reason to stop it, or `None`."""
        self._write({"event": "reported", "run": name, "epoch": epoch, "value": value}, durable=False)
        run = self.records.runs[name]
        if run.stopped is None and (found := self._verdict(run, epoch, value)) is not None:
            status, reason = found
            self._write({"event": "stopped", "run": name, "epoch": epoch, "status": status, "reason": reason})
        stopped = self.records.runs[name].stopped
        # A run that was killed repeats the epochs before the one after which it must stop.
        return stopped.reason if stopped is not None and epoch >= stopped.epoch else None

    def end(self, name: str, outcome: Outcome) -> None:
        """Records the outcome of a run."""
        run = self.records.runs[name]
        if run.stopped is not None:
            outcome = self._outcome_of_stopped(run.stopped, outcome)
        self._write({"event": "ended", "run": name, "outcome": dataclasses.asdict(outcome)})
        self._tell(run)
        self._on_end(run)

    def lose(self, name: str, reason: str) -> None:
        """Records that the process of a run was lost. The run is retried, or fails after too many attempts."""
        self._write({"event": "lost", "run": name, "reason": reason})
        lost = self.records.runs[name].lost
        if len(lost) > self.plan.retries:
            times = f" {len(lost)} times, the last time" if len(lost) > 1 else ""
            self.end(name, Outcome(FAILED, f"its worker was lost{times}: it {reason}"))

    def release(self, name: str) -> None:
        """Marks a run as not worked on; it is resumed later."""
        self.records.runs[name].worker = None

    def job(self, run: Record) -> Job:
        """Returns the run in the form that a worker needs."""
        plan = self.plan
        settings: dict[str, Any] = {
            "run_dir": plan.folder / run.name,
            "seed": plan.runner.seed if run.seed is None else run.seed,
            "max_epochs": run.epochs or plan.runner.max_epochs,
            "preflight": False,  # the search had one
            "progress": False,
            "pictures": False,
            # Only the best trial is exported, at the end: each export of a text module takes seconds.
            "export": run.joined,
        }
        if run.joined:
            settings |= {"monitor": None, "mode": None, "patience": None}
        else:
            settings |= {"monitor": plan.objective, "mode": plan.mode}
        return Job(
            run.name,
            hparams.to_dict(plan.space.hparams(run.values)),
            dataclasses.replace(plan.runner, **settings),
            None if run.joined else plan.objective,
            None if run.parent is None else plan.folder / run.parent,
            run.joined,
            plan.folds,
            plan.stratified,
        )

    def export(self, run: Record) -> Job:
        """Returns a job that repeats the final stage of a finished run to export `model.keras` and the figures."""
        job = self.job(run)
        pictures = self.plan.runner.pictures
        runner = dataclasses.replace(job.runner, export=True, pictures=pictures)
        return dataclasses.replace(job, runner=runner)

    def repeats(self) -> list[Repeats]:
        """Returns the results of the best trials with other seeds, ordered by the trials' own values."""
        found = []
        for trial in self.records.ranked(self.plan.mode)[: self.plan.top if self.plan.seeds else 0]:
            outcomes = [run.outcome for run in self.records.runs.values() if run.name.startswith(_seeds_of(trial))]
            values = [outcome.value for outcome in outcomes if outcome is not None and outcome.value is not None]
            ended = sum(outcome is not None for outcome in outcomes)
            found.append(Repeats(trial.name, tuple(values), ended - len(values)))
        return found

    def best(self) -> Record | None:
        """Returns the best trial: by the mean over other seeds if there are any, else by its own value."""
        ranked = self.records.ranked(self.plan.mode)
        best, mean = (ranked[0] if ranked else None), math.nan
        for repeats in self.repeats():
            if repeats.values and (math.isnan(mean) or is_better(repeats.mean, mean, self.plan.mode)):
                best, mean = self.records.runs[repeats.name], repeats.mean
        return best

    # ------------------------------------------------------------------ choosing

    def _next_run(self) -> Record | None:
        if unfinished := self.records.unfinished():
            return unfinished[0]
        if not self.records.exhausted and not self.records.idle:
            self._ask()
            if unfinished := self.records.unfinished():
                return unfinished[0]
        if not self.records.exhausted or self.records.working():
            return None
        for stage, decide in {"seeds": self._seeds, "refit": self._refit}.items():
            if stage not in self.records.planned:
                self._write({"event": "planned", "stage": stage, "runs": decide()})
                if unfinished := self.records.unfinished():
                    return unfinished[0]
        return None

    def _ask(self) -> None:
        answer = self._oracle.ask()
        self._write({"event": "asked", **dataclasses.asdict(answer)})

    def _seeds(self) -> list[Event]:
        first = self.plan.runner.seed
        return [
            {
                "name": f"{_seeds_of(trial)}{number}",
                "values": trial.values,
                "epochs": trial.epochs,
                "seed": first + number,
            }
            for trial in self.records.ranked(self.plan.mode)[: self.plan.top]
            for number in range(1, self.plan.seeds + 1)
            if f"{_seeds_of(trial)}{number}" not in self.records.runs  # of the search before it was extended
        ]

    def _refit(self) -> list[Event]:
        best = self.best()
        if not self.plan.refit or best is None or best.outcome is None:
            return []
        before = self.records.refits()
        if before and (before[-1].values, before[-1].epochs) == (best.values, best.outcome.epoch):
            return []
        name = f"refit-{len(before) + 1}" if before else "refit"
        return [{"name": name, "values": best.values, "epochs": best.outcome.epoch, "joined": True}]

    def _verdict(self, run: Record, epoch: int, value: float) -> tuple[str, str] | None:
        plan = self.plan
        if (reason := not_finite(epoch, value, plan.objective)) is not None:
            return FAILED, reason
        if run.trial is None:
            return None
        if (reason := plan.chance.verdict(run.reports, plan.objective, plan.mode)) is not None:
            return FAILED, reason
        others = [other for other in self.records.trials() if other is not run]
        completed = [other.reports for other in others if other.outcome and other.outcome.status == COMPLETED]
        reason = plan.pruning.verdict(run.reports, [other.reports for other in others], completed, plan.mode)
        return None if reason is None else (PRUNED, reason)

    def _outcome_of_stopped(self, stop: Stop, outcome: Outcome) -> Outcome:
        """The outcome of a run that the search stopped."""
        if stop.status == PRUNED and outcome.status == COMPLETED:
            return dataclasses.replace(outcome, status=PRUNED, reason=f"pruned: {stop.reason}")
        reason = stop.reason if stop.status == FAILED else outcome.reason
        return dataclasses.replace(outcome, status=FAILED, reason=reason, value=None, epoch=0, step=0)

    # ------------------------------------------------------------------ the journal

    def _write(self, event: Mapping[str, Any], durable: bool = True) -> None:
        self._journal.write(event, durable)
        self.records.apply(event)

    def _tell(self, run: Record) -> None:
        if run.trial is not None and run.outcome is not None:
            self._oracle.tell(run.trial, run.outcome.value, run.outcome.epoch)

    def _replay(self, number: int, event: Event) -> None:
        with explained_line(self.plan.folder / journals.NAME, number):
            check_event(event)
            unknown = sorted(set(event.get("values") or {}) - set(self.plan.space.ranges))
            if unknown:
                raise ValueError(f"the search does not vary {unknown[0]!r}.")
        if event["event"] == "asked" and event["status"] != "STOPPED":  # an oracle that stopped is not asked again
            self._ask_again(number, event)
        with explained_line(self.plan.folder / journals.NAME, number):
            self.records.apply(event)
        if event["event"] == "ended":
            self._tell(self.records.runs[event["run"]])

    def _ask_again(self, number: int, event: Event) -> None:
        answer = self._oracle.ask(replayed=event["status"])
        if "RUNNING" not in (answer.status, event["status"]):
            return
        if answer.trial is None or event["trial"] is None or same_name(answer.trial) != same_name(event["trial"]):
            raise ValueError(
                f"The search cannot be resumed from its journal, which has {event['status']} in line {number}, "
                f"where the oracle now answers {answer.status}. Use the package versions that it was started with."
            )
        if dict(answer.values) == event["values"]:
            return
        if not _are_close(answer.values, event["values"]):
            warnings.warn(
                f"The oracle chose {event['values']}, and would now choose {dict(answer.values)}: the search "
                "resumes with the former, and may differ from an uninterrupted one. Did package versions change?",
                stacklevel=5,
            )
        self._oracle.correct(answer.trial, event["values"])


def _are_close(values: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Returns True if values differ only by rounding: earlier versions chose 0.30000000000000004 for 0.3."""
    return values.keys() == others.keys() and all(
        math.isclose(value, others[name]) if isinstance(value, float) else value == others[name]
        for name, value in values.items()
    )


def _seeds_of(trial: Record) -> str:
    return f"seeds/{trial.number}-"
