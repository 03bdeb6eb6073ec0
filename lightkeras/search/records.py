"""State of each run of a search, as a pure function of the journal's events."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from lightkeras.system.schema import Count, find_problem, matches

COMPLETED, PRUNED, FAILED = "completed", "pruned", "failed"

Report = Callable[[int, float], "str | None"]
"""Takes an epoch (from 1) and the objective; returns the reason to stop the run, or `None`."""


def same_name(trial: str) -> str:
    """Returns the present name of a trial. In journals of earlier versions it has fewer zeros."""
    return f"{int(trial):04d}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Args:
        status: `"completed"`, `"pruned"` or `"failed"`.
        reason: Why it stopped.
        value: Best value of the objective, or its mean over folds; `None` if it failed.
        epoch: Epoch, from 1, in which it was reached; 0 if it failed.
        step: Train steps done then.
        epochs: Epochs finished.
        steps: Train steps done in all.
        wall_s: Seconds of the last attempt.
        spread: Standard deviation of the value over folds; `None` without folds.
        threads: Threads that its process computed with; `None` for the default. A repetition must use as many, because
            sums may depend on it.
    """

    status: str
    reason: str
    value: float | None = None
    epoch: int = 0
    step: int = 0
    epochs: int = 0
    steps: int = 0
    wall_s: float = 0.0
    spread: float | None = None
    threads: int | None = None


_OUTCOME = {field.name for field in dataclasses.fields(Outcome)}


@dataclasses.dataclass(frozen=True)
class Stop:
    """A decision to stop a run after an epoch (from 1), as `"pruned"` or `"failed"`."""

    epoch: int
    status: str
    reason: str


@dataclasses.dataclass
class Event:
    """A line of the journal."""

    event: str


@dataclasses.dataclass
class Asked(Event):
    """The oracle's answer."""

    status: Literal["RUNNING", "IDLE", "STOPPED"]
    trial: str | None
    values: dict[str, int | float | str | bool]
    epochs: int | None
    parent: str | None


@dataclasses.dataclass
class PlannedRun:
    """A run after the trials."""

    name: Annotated[str, matches(r"refit|seeds/\d+-\d+")]
    values: dict[str, int | float | str | bool]
    epochs: int | None = None
    seed: int | None = None
    joined: bool = False


@dataclasses.dataclass
class Planned(Event):
    """The runs after the trials."""

    stage: Literal["seeds", "refit"]
    runs: list[PlannedRun]


@dataclasses.dataclass
class Reported(Event):
    """The objective after an epoch."""

    run: str
    epoch: Count
    value: float | None


@dataclasses.dataclass
class Stopped(Event):
    """A decision to stop a run."""

    run: str
    epoch: Count
    status: Literal["pruned", "failed"]
    reason: str


@dataclasses.dataclass
class Lost(Event):
    """A process that was lost."""

    run: str
    reason: str


@dataclasses.dataclass
class Ended(Event):
    """The outcome of a run."""

    run: str
    outcome: Outcome


_EVENTS: dict[str, type] = {
    "asked": Asked,
    "planned": Planned,
    "reported": Reported,
    "stopped": Stopped,
    "lost": Lost,
    "ended": Ended,
}


def check_event(event: Mapping[str, Any]) -> None:
    """Checks the form of an event that was read from a journal.

    Raises:
        ValueError: A key is missing, or its value is of another kind.
    """
    if (problem := find_problem(event, _EVENTS.get(event["event"], Event))) is not None:
        raise ValueError(f"an event {event['event']!r}: {problem}.")


@dataclasses.dataclass
class Record:
    """State of one run of a search.

    Args:
        name: Path of its run directory below that of the search, such as `"trials/0003"`.
        values: Chosen hyperparameters, without those that are not used.
        trial: The oracle's name for it; `None` for a run after the trials.
        epochs: Maximum epochs; `None` for those of the runner.
        parent: Name of the trial that it continues.
        seed: Seed of the run; `None` for that of the search's runner.
        joined: Whether it is trained on train and validation together.
        reports: Epochs with the value of the objective.
        stopped: The decision to stop it; `None` if there is none.
        lost: Reasons of its lost attempts.
        outcome: Its outcome; `None` before it has ended.
        worker: Slot of the worker that runs it; `None` if none does.
    """

    name: str
    values: Mapping[str, Any]
    trial: str | None = None
    epochs: int | None = None
    parent: str | None = None
    seed: int | None = None
    joined: bool = False
    reports: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    stopped: Stop | None = None
    lost: list[str] = dataclasses.field(default_factory=list)
    outcome: Outcome | None = None
    worker: int | None = None

    @property
    def number(self) -> str:
        """`0003` of `trials/0003`."""
        return self.name.rpartition("/")[2]


@dataclasses.dataclass
class Records:
    """All runs of a search by name, in the order in which they were chosen.

    `exhausted`: the oracle has no more trials; `idle`: it has none until another trial ends; `planned`: the stages
    after the trials that were planned, `"seeds"` and `"refit"`.
    """

    runs: dict[str, Record] = dataclasses.field(default_factory=dict)
    exhausted: bool = False
    idle: bool = False
    planned: set[str] = dataclasses.field(default_factory=set)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Applies an event; one that is unknown, or of a run that was not chosen before, is a ValueError."""
        if (name := event.get("run")) is not None and name not in self.runs:
            raise ValueError(f"The journal has an event of the run {name!r}, which was not chosen before.")
        kind = event["event"]
        if kind == "asked":
            self._asked(event)
        elif kind == "extended":
            self.exhausted = self.idle = False
            self.planned.clear()
        elif kind == "planned":
            self.planned.add(event["stage"])
            for run in event["runs"]:
                known = {key: run[key] for key in ("name", "values", "epochs", "seed", "joined") if key in run}
                self.runs[run["name"]] = Record(**known)
        elif kind == "reported":
            self._reported(event)
        elif kind == "stopped":
            self.runs[event["run"]].stopped = Stop(event["epoch"], event["status"], event["reason"])
        elif kind == "lost":
            run = self.runs[event["run"]]
            run.lost.append(event["reason"])
            run.worker = None
        elif kind == "ended":
            self.idle = False
            run = self.runs[event["run"]]
            known = {key: value for key, value in event["outcome"].items() if key in _OUTCOME}
            run.outcome, run.worker = Outcome(**known), None
        elif kind != "corrected":
            raise ValueError(f"The journal has an event {kind!r}, which this version does not know.")

    def trials(self) -> list[Record]:
        """Returns the trials in the order in which they were chosen."""
        return [run for run in self.runs.values() if run.trial is not None]

    def unfinished(self) -> list[Record]:
        """Returns the runs that have not ended and have no worker."""
        return [run for run in self.runs.values() if run.outcome is None and run.worker is None]

    def working(self) -> list[Record]:
        """Returns the runs that have a worker."""
        return [run for run in self.runs.values() if run.worker is not None]

    def refits(self) -> list[Record]:
        """Returns the fits of the best trial on train and validation together: one, and more if it was extended."""
        return [run for run in self.runs.values() if run.joined]

    def ranked(self, mode: str) -> list[Record]:
        """Returns completed trials, the best first; of equals the earlier first."""
        sign = 1 if mode == "min" else -1
        done = [(run, run.outcome) for run in self.trials() if run.outcome and run.outcome.status == COMPLETED]
        return [run for run, _ in sorted(done, key=lambda item: sign * (item[1].value or 0.0))]

    def _asked(self, event: Mapping[str, Any]) -> None:
        self.exhausted |= event["status"] == "STOPPED"
        self.idle = event["status"] == "IDLE"
        if event["status"] != "RUNNING":
            return
        parent = event["parent"] and next((run.name for run in self.trials() if run.trial == event["parent"]), "")
        if parent == "" or event["trial"] is None:
            raise ValueError(f"The journal has a trial {event['trial']!r} that continues the unknown {parent!r}.")
        name = f"trials/{len(self.trials()):04d}"
        self.runs[name] = Record(name, event["values"], event["trial"], event["epochs"], parent)

    def _reported(self, event: Mapping[str, Any]) -> None:
        run, epoch = self.runs[event["run"]], event["epoch"]
        value = math.nan if event["value"] is None else event["value"]
        # A run that was killed repeats the reports after its last checkpoint.
        run.reports = [(at, found) for at, found in run.reports if at < epoch] + [(epoch, value)]
