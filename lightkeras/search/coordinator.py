"""Who runs what next: decides, notes it in the journal, and only then hands it out.

next run:   one that was begun and has not ended, else what the oracle answers, else what comes after the trials:
            the best few again with other seeds, then the best on train and validation together
report:     noted; then judged: not finite, stuck at chance, worse than others
end:        noted; then told to the oracle

A search that goes on is made from the journal alone: the oracle is new, and is asked and told what the journal holds,
in the same order.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from lightkeras import hparams
from lightkeras.runner import Runner
from lightkeras.search.journal import Event, Journal
from lightkeras.search.oracles import Oracle
from lightkeras.search.pruning import Chance, Pruning, is_better, not_finite
from lightkeras.search.records import COMPLETED, FAILED, PRUNED, Outcome, Record, Records, Stop
from lightkeras.search.space import Space
from lightkeras.search.trial_run import Job


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a search is to do.

    Args:
        folder: Directory of the search.
        space: What is searched.
        objective: Name of the value to search for.
        mode: `"min"` or `"max"`.
        runner: Settings of each run.
        pruning: When trials are stopped that do worse than others.
        chance: When a trial counts as stuck at chance.
        retries: How often a run is tried again whose process was lost.
        seeds: Seeds with which the best trials are run again.
        top: How many trials those are.
        refit: Whether the best is fitted once more, on train and validation together.
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


@dataclasses.dataclass(frozen=True)
class Repeats:
    """What a trial's hyperparameters give with other seeds.

    Args:
        name: The trial's run.
        values: Best value of the objective with each seed; runs that failed are left out.
        failed: How many failed.
    """

    name: str
    values: tuple[float, ...]
    failed: int

    @property
    def mean(self) -> float:
        """Mean of the values; NaN if there are none."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float:
        """Their standard deviation (of a sample); NaN of fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


@final
class Coordinator:
    """Decides what a search does next.

    Args:
        plan: What it is to do.
        journal: Where it notes what happens; what it holds already is taken in first.
        oracle: A new oracle.
        on_end: Called with each run that ended in this process.

    Raises:
        ValueError: The journal is of another search.
    """

    def __init__(
        self, plan: Plan, journal: Journal, oracle: Oracle, on_end: Callable[[Record], None] = lambda _: None
    ) -> None:
        self.plan, self.records = plan, Records()
        self._journal, self._oracle, self._on_end = journal, oracle, on_end
        for number, event in enumerate(journal.events, 1):
            self._replay(number, event)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return (
            self.records.exhausted
            and self.records.planned >= {"seeds", "refit"}
            and all(run.outcome is not None for run in self.records.runs.values())
        )

    def next(self, worker: int) -> Job | None:
        """What a worker is to do now; `None` if there is nothing, for now or for good."""
        run = self._next_run()
        if run is None:
            return None
        run.worker = worker
        return self.job(run)

    def report(self, name: str, epoch: int, value: float) -> str | None:
        """Takes in the value of the objective after an epoch of a run; answers why it is to stop, or `None`."""
        self._note({"event": "reported", "run": name, "epoch": epoch, "value": value}, durable=False)
        run = self.records.runs[name]
        if run.stopped is None and (found := self._verdict(run, epoch, value)) is not None:
            status, reason = found
            self._note({"event": "stopped", "run": name, "epoch": epoch, "status": status, "reason": reason})
        stopped = self.records.runs[name].stopped
        # A run that was killed comes to the epoch after which it was told to stop once more.
        return stopped.reason if stopped is not None and epoch >= stopped.epoch else None

    def end(self, name: str, outcome: Outcome) -> None:
        """Takes in how a run ended."""
        run = self.records.runs[name]
        if run.stopped is not None:
            outcome = self._as_told(run.stopped, outcome)
        self._note({"event": "ended", "run": name, "outcome": dataclasses.asdict(outcome)})
        self._tell(run)
        self._on_end(run)

    def lose(self, name: str, reason: str) -> None:
        """Takes in that the process of a run was lost. The run is tried again, or has failed."""
        self._note({"event": "lost", "run": name, "reason": reason})
        lost = self.records.runs[name].lost
        if len(lost) > self.plan.retries:
            times = f" {len(lost)} times, the last time" if len(lost) > 1 else ""
            self.end(name, Outcome(FAILED, f"its worker was lost{times}: it {reason}"))

    def let_go(self, name: str) -> None:
        """Takes in that nobody works on a run any more, which is to go on later."""
        self.records.runs[name].worker = None

    def job(self, run: Record) -> Job:
        """A run as a worker needs it."""
        plan = self.plan
        settings: dict[str, Any] = {
            "run_dir": plan.folder / run.name,
            "seed": plan.runner.seed if run.seed is None else run.seed,
            "max_epochs": run.epochs or plan.runner.max_epochs,
            "preflight": False,  # the search had its own
            "progress": False,
            "pictures": False,
            "export": run.joined,  # of the trials, the best is exported when it is known
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
        )

    def export(self, run: Record) -> Job:
        """The end of a run that has ended, once more: it writes `model.keras`, and the pictures of the task."""
        job = self.job(run)
        pictures = self.plan.runner.pictures
        runner = dataclasses.replace(job.runner, export=True, pictures=pictures)
        return dataclasses.replace(job, runner=runner)

    def repeats(self) -> list[Repeats]:
        """What the best trials give with other seeds, in the order of the trials' own values."""
        found = []
        for trial in self.records.ranked(self.plan.mode)[: self.plan.top if self.plan.seeds else 0]:
            outcomes = [run.outcome for run in self.records.runs.values() if run.name.startswith(_seeds_of(trial))]
            values = [outcome.value for outcome in outcomes if outcome is not None and outcome.value is not None]
            ended = sum(outcome is not None for outcome in outcomes)
            found.append(Repeats(trial.name, tuple(values), ended - len(values)))
        return found

    def best(self) -> Record | None:
        """The best trial so far: by the mean over other seeds, where there are such, else by its own value."""
        ranked = self.records.ranked(self.plan.mode)
        best, mean = (ranked[0] if ranked else None), math.nan
        for repeats in self.repeats():
            if repeats.values and (math.isnan(mean) or is_better(repeats.mean, mean, self.plan.mode)):
                best, mean = self.records.runs[repeats.name], repeats.mean
        return best

    # ------------------------------------------------------------------ deciding

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
                self._note({"event": "planned", "stage": stage, "runs": decide()})
                if unfinished := self.records.unfinished():
                    return unfinished[0]
        return None

    def _ask(self) -> None:
        answer = self._oracle.ask()
        self._note({"event": "asked", **dataclasses.asdict(answer)})

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
        ]

    def _refit(self) -> list[Event]:
        best = self.best()
        if not self.plan.refit or best is None or best.outcome is None:
            return []
        return [{"name": "refit", "values": best.values, "epochs": best.outcome.epoch, "joined": True}]

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

    def _as_told(self, stop: Stop, outcome: Outcome) -> Outcome:
        """How a run ended that was told to stop."""
        if stop.status == PRUNED and outcome.status == COMPLETED:
            return dataclasses.replace(outcome, status=PRUNED, reason=f"pruned: {stop.reason}")
        reason = stop.reason if stop.status == FAILED else outcome.reason
        return dataclasses.replace(outcome, status=FAILED, reason=reason, value=None, epoch=0, step=0)

    # ------------------------------------------------------------------ noting

    def _note(self, event: Mapping[str, Any], durable: bool = True) -> None:
        self._journal.write(event, durable)
        self.records.apply(event)

    def _tell(self, run: Record) -> None:
        if run.trial is not None and run.outcome is not None:
            self._oracle.tell(run.trial, run.outcome.value, run.outcome.epoch)

    def _replay(self, number: int, event: Event) -> None:
        if event["event"] == "asked":
            answer = self._oracle.ask()
            if answer.status != event["status"] or answer.trial != event["trial"]:
                raise ValueError(
                    f"The journal of the search cannot be gone on with: where it notes {event['status']} (line "
                    f"{number}), the oracle now says {answer.status}. Use the versions that the search was begun with."
                )
            if answer.trial is not None and dict(answer.values) != event["values"]:
                warnings.warn(
                    f"The oracle would now choose {dict(answer.values)} where it chose {event['values']}: the search "
                    "goes on with what it chose, and may differ from one that never stopped. Did versions change?",
                    stacklevel=4,
                )
                self._oracle.correct(answer.trial, event["values"])
        self.records.apply(event)
        if event["event"] == "ended":
            self._tell(self.records.runs[event["run"]])


def _seeds_of(trial: Record) -> str:
    return f"seeds/{trial.number}-"
