"""Real oracles and a real journal, with a function in the place of training; cut off at any line, and resumed."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from lightkeras.hparams import Choice, Float, Int
from lightkeras.runner import Runner
from lightkeras.search.coordinator import Coordinator, Plan, Repeats
from lightkeras.search.journal import Journal
from lightkeras.search.oracles import Oracle
from lightkeras.search.pruning import Chance, Pruning
from lightkeras.search.records import COMPLETED, FAILED, PRUNED, Outcome
from lightkeras.search.space import Bounds, Space, make_space


@dataclasses.dataclass(frozen=True)
class Declared:
    kind: str = Choice("wide", ["wide", "deep"])
    depth: int = Int(1, low=1, high=4, when={"kind": "deep"})
    rate: float = Float(0.1, low=0.0, high=1.0)


def plan(folder: Path, kind: str = "random", **settings: Any) -> Plan:
    return Plan(folder, space(kind), "val/accuracy", "max", Runner(max_epochs=9), **settings)


def space(kind: str) -> Space:
    return make_space(Declared, {}, {"rate": Bounds(step=0.25)} if kind == "grid" else {})


class KilledError(Exception):
    """The process is gone."""


class Cut:
    """A journal of a process that is killed after so many lines; a context manager."""

    def __init__(self, path: Path, lines: float = math.inf) -> None:
        self._journal, self._lines = Journal(path), lines
        self.events = self._journal.events

    def __enter__(self) -> Cut:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.__exit__()

    def write(self, event: Any, durable: bool = True) -> None:
        if self._lines <= 0:
            raise KilledError
        self._lines -= 1
        self._journal.write(event, durable)


def worth(job: Any, epoch: int) -> float:
    """What a run of these hyperparameters reaches after an epoch: some never learn, and the deep ones learn late."""
    hp = job.hparams
    depth = hp["depth"] if hp["kind"] == "deep" else 1
    if hp["rate"] > 0.9:
        return math.nan if epoch == 2 else 0.5
    return hp["rate"] * (1 - 0.5 ** (epoch / depth)) + 0.001 * job.runner.seed


def search(
    path: Path,
    kind: str,
    lines: float = math.inf,
    slots: int = 1,
    trials: int | None = 12,
    extended: bool = False,
    **settings: Any,
) -> Coordinator:
    """Runs a search to its end, or until it is killed; one report of each slot in turn."""
    plan_ = plan(path.parent, kind, **settings)
    oracle = Oracle(kind, plan_.space, plan_.objective, plan_.mode, trials, 9, 0)
    with Cut(path, lines) as journal:
        coordinator = Coordinator(plan_, journal, oracle, extended=extended)
        jobs: dict[int, tuple[Any, int]] = {}
        while not coordinator.finished:
            for slot in range(slots):
                if slot not in jobs and (job := coordinator.next(slot)) is not None:
                    jobs[slot] = (job, 0)
            for slot, (job, epoch) in list(jobs.items()):
                jobs[slot] = (job, epoch + 1)
                if step(coordinator, job, epoch + 1):
                    del jobs[slot]
        return coordinator


def step(coordinator: Coordinator, job: Any, epoch: int) -> bool:
    """One epoch of a run. Returns whether it ended."""
    value = worth(job, epoch)
    why = coordinator.report(job.name, epoch, value) if job.objective else None
    if why is None and epoch < job.runner.max_epochs:
        return False
    seen = [(worth(job, n), n) for n in range(1, epoch + 1)]
    if not math.isfinite(value):
        coordinator.end(job.name, Outcome(FAILED, "a callback asked to stop"))
    else:
        best, at = max(pair for pair in seen if math.isfinite(pair[0]))
        coordinator.end(job.name, Outcome(COMPLETED, "max_epochs reached", best, at, at, epoch, epoch))
    return True


def found(coordinator: Coordinator) -> list[Any]:
    return [
        (run.name, dict(run.values), run.parent, run.epochs, run.outcome) for run in coordinator.records.runs.values()
    ]


KINDS = ["random", "bayesian", "hyperband", "grid"]
# A Gaussian process is fitted again for each trial: what the others show takes it half a minute.
SLOW_LONG = [pytest.param(kind, marks=pytest.mark.long) if kind == "bayesian" else kind for kind in KINDS]
SETTINGS: dict[str, dict[str, Any]] = {
    "random": {"pruning": Pruning("median"), "seeds": 2, "top": 2, "refit": True},
    "bayesian": {"chance": Chance(0.05, 2)},
    "hyperband": {},
    "grid": {"pruning": Pruning("halving", factor=2)},
}


@pytest.mark.parametrize("kind", SLOW_LONG)
def test_killed_twenty_times_at_any_line_a_search_ends_as_one_that_was_never_killed(kind, tmp_path):
    trials = 12 if kind != "hyperband" else None
    whole = search(tmp_path / "whole.jsonl", kind, trials=trials, **SETTINGS[kind])
    lines = len((tmp_path / "whole.jsonl").read_text().splitlines())
    rng, path = random.Random(kind), tmp_path / "killed.jsonl"
    kills = 0
    for _ in range(20):
        try:
            search(path, kind, rng.randint(0, max(1, lines // 8)), trials=trials, **SETTINGS[kind])
        except KilledError:
            kills += 1
            with open(path, "ab") as file:  # what was being written
                file.write(b'{"event": "repo'[: rng.randint(0, 15)])
    ended = search(path, kind, trials=trials, **SETTINGS[kind])
    assert kills >= 8
    assert found(ended) == found(whole)
    assert ended.best().name == whole.best().name


@pytest.mark.parametrize("kind", KINDS)
def test_with_several_workers_it_ends_too_and_the_journal_alone_tells_how(kind, tmp_path):
    path = tmp_path / "journal.jsonl"
    with pytest.raises(KilledError):
        search(path, kind, 20, slots=3, **SETTINGS[kind])
    ended = search(path, kind, slots=3, **SETTINGS[kind])
    assert all(run.outcome is not None for run in ended.records.runs.values())
    again = search(path, kind, slots=3, **SETTINGS[kind])  # nothing is left to do
    assert found(again) == found(ended)


def test_trials_end_in_every_way(tmp_path):
    settings = {"pruning": Pruning("median", trials=2), "chance": Chance(0.01, 1)}
    ended = search(tmp_path / "journal.jsonl", "grid", trials=None, **settings)
    statuses = {run.outcome.status for run in ended.records.trials()}
    assert statuses == {COMPLETED, PRUNED, FAILED}
    for run in ended.records.trials():
        rate, outcome = run.values["rate"], run.outcome
        if rate == 1.0:
            assert (outcome.status, outcome.reason) == (FAILED, "diverged: val/accuracy is nan after epoch 2")
        elif rate == 0.0:
            reason = "stuck at chance: val/accuracy is 0 after epoch 1, not better than 0.01"
            assert (outcome.status, outcome.reason) == (FAILED, reason)
        elif outcome.status == PRUNED:
            assert outcome.reason.startswith("pruned: its best value 0.")
        assert (outcome.value is None) == (outcome.status == FAILED)


def test_a_trial_that_continues_another_names_it(tmp_path):
    ended = search(tmp_path / "journal.jsonl", "hyperband", trials=None)
    runs = ended.records.runs
    promoted = [run for run in runs.values() if run.parent is not None]
    assert promoted
    for run in promoted:
        assert runs[run.parent].values == run.values
        assert runs[run.parent].epochs < run.epochs
        assert ended.job(run).parent == tmp_path / run.parent
        assert ended.job(run).runner.max_epochs == run.epochs


def test_the_best_few_are_run_again_with_other_seeds_and_the_best_is_refitted(tmp_path):
    ended = search(tmp_path / "journal.jsonl", "random", seeds=2, top=2, refit=True)
    ranked = [run.number for run in ended.records.ranked("max")]
    assert [name for name in ended.records.runs if not name.startswith("trials/")] == [
        *(f"seeds/{number}-{seed}" for number in ranked[:2] for seed in (1, 2)),
        "refit",
    ]
    seeds = [ended.job(run).runner.seed for run in ended.records.runs.values() if run.name.startswith("seeds/")]
    assert seeds == [1, 2, 1, 2]
    repeats = ended.repeats()
    assert [found.name for found in repeats] == [f"trials/{number}" for number in ranked[:2]]
    own = ended.records.runs[f"trials/{ranked[0]}"].outcome.value
    assert repeats[0].values == pytest.approx((own + 0.001, own + 0.002))
    refit = ended.job(ended.records.runs["refit"])
    assert (refit.joined, refit.objective, refit.runner.monitor, refit.runner.patience) == (True, None, None, None)
    assert refit.runner.max_epochs == ended.best().outcome.epoch


def test_means_and_spreads_of_seeds():
    assert (Repeats("a", (1.0, 3.0), 0).mean, Repeats("a", (1.0, 3.0), 0).spread) == (2.0, pytest.approx(math.sqrt(2)))
    assert math.isnan(Repeats("a", (1.0,), 1).spread)
    assert math.isnan(Repeats("a", (), 2).mean)


def test_a_run_whose_process_is_lost_is_tried_again_and_then_has_failed(tmp_path):
    plan_ = plan(tmp_path, retries=1)
    oracle = Oracle("random", plan_.space, plan_.objective, plan_.mode, 1, 9, 0)
    with Journal(tmp_path / "journal.jsonl") as journal:
        coordinator = Coordinator(plan_, journal, oracle)
        job = coordinator.next(0)
        assert coordinator.next(1) is None  # there is no second trial
        coordinator.lose(job.name, "was killed by SIGKILL")
        assert coordinator.next(1) == job
        coordinator.lose(job.name, "hung")
        assert coordinator.next(0) is None
        assert coordinator.finished
    outcome = coordinator.records.runs[job.name].outcome
    assert (outcome.status, outcome.reason) == (FAILED, "its worker was lost 2 times, the last time: it hung")
    assert coordinator.best() is None


def test_an_oracle_that_would_choose_otherwise_now_continues_with_its_earlier_choices(tmp_path):
    path = tmp_path / "journal.jsonl"
    with pytest.raises(KilledError):
        search(path, "random", 40)
    text = path.read_text()
    first = text.splitlines()[0]
    path.write_text(text.replace(first, first.replace('"rate": 0.', '"rate": 0.0')))
    with pytest.warns(
        UserWarning, match=r"The oracle chose .*would now choose .*resumes with the former.*Did package versions change"
    ):
        ended = search(path, "random")
    assert ended.records.trials()[0].values["rate"] < 0.1


def test_a_journal_of_another_oracle_is_refused(tmp_path):
    search(tmp_path / "journal.jsonl", "random", trials=3)
    with pytest.raises(ValueError, match=r"has RUNNING in line \d+, where the oracle now answers STOPPED"):
        search(tmp_path / "journal.jsonl", "random", trials=2)


@pytest.mark.parametrize("kind", SLOW_LONG)
def test_an_extended_search_ends_as_one_that_had_all_trials_from_the_start(kind, tmp_path):
    settings = {name: value for name, value in SETTINGS[kind].items() if name not in ("seeds", "top", "refit")}
    whole = search(tmp_path / "whole.jsonl", kind, trials=12, **settings)
    first = search(tmp_path / "journal.jsonl", kind, trials=9, **settings)
    assert (first.stop_reason[:16], len(first.records.trials())) == ("trials=9 reached", 9)
    again = search(tmp_path / "journal.jsonl", kind, trials=9, **settings)  # not extended: nothing to do
    assert found(again) == found(first)
    extended = search(tmp_path / "journal.jsonl", kind, trials=12, extended=True, **settings)
    assert found(extended) == found(whole)
    assert found(search(tmp_path / "journal.jsonl", kind, trials=12, **settings)) == found(whole)


def test_an_extended_search_repeats_and_refits_what_is_best_then(tmp_path):
    settings = {"seeds": 1, "top": 2, "refit": True}
    first = search(tmp_path / "journal.jsonl", "random", trials=4, **settings)
    extended = search(tmp_path / "journal.jsonl", "random", trials=12, extended=True, **settings)
    assert extended.best().name != first.best().name  # of 12 with this seed
    best = {f"seeds/{run.number}-1" for run in extended.records.ranked("max")[:2]}
    seeds = [name for name in extended.records.runs if name.startswith("seeds/")]
    assert set(seeds) >= best
    assert len(set(seeds)) == len(seeds)
    assert [run.name for run in extended.records.runs.values() if run.joined] == ["refit", "refit-2"]
    assert extended.records.refits()[-1].values == extended.best().values


def lines_of(*answers: Any, value: float = 0.5, trial: str = "{}") -> str:
    """A journal of trials with these values that were completed; texts are statuses without a trial."""
    lines, number = [], 0
    for values in answers:
        asked = {"event": "asked", "status": values, "trial": None, "values": {}, "epochs": None, "parent": None}
        if isinstance(values, dict):
            outcome = dataclasses.asdict(Outcome(COMPLETED, "max_epochs reached", value + number / 100, 1, 1, 1, 1))
            lines.append(asked | {"status": "RUNNING", "trial": trial.format(number), "values": values})
            lines.append({"event": "ended", "run": f"trials/{number:04d}", "outcome": outcome})
            number += 1
        else:
            lines.append(asked)
    return "".join(json.dumps(line) + "\n" for line in lines)


@dataclasses.dataclass(frozen=True)
class Stepped:
    share: float = Float(0.1, low=0.1, high=0.3, step=0.1)
    depth: int = Int(1, low=1, high=2)


def resumed(path: Path, kind: str, text: str, trials: int | None) -> Coordinator:
    path.write_text(text)
    made = Plan(path.parent, make_space(Stepped, {}, {}), "val/accuracy", "max", Runner(max_epochs=1))
    with Journal(path) as journal:
        coordinator = Coordinator(made, journal, Oracle(kind, made.space, made.objective, "max", trials, 9, 0))
        while (job := coordinator.next(0)) is not None:
            coordinator.end(job.name, Outcome(COMPLETED, "max_epochs reached", 0.5, 1, 1, 1, 1))
    return coordinator


def test_a_grid_of_an_earlier_version_that_lost_its_upper_end_is_resumed_and_completed(tmp_path):
    """It had 0.1 and 0.2 of 0.1 to 0.3, in keras-tuner's rounding, and names without zeros."""
    before = [{"share": share, "depth": depth} for share in (0.1, 0.2) for depth in (1, 2)]
    ended = resumed(tmp_path / "ended.jsonl", "grid", lines_of(*before, "IDLE", "STOPPED"), None)
    assert [dict(run.values) for run in ended.records.trials()] == before
    assert ended.finished
    went_on = resumed(tmp_path / "journal.jsonl", "grid", lines_of(*before[:3]), None)
    assert [dict(run.values) for run in went_on.records.trials()] == [
        *before, {"share": 0.3, "depth": 1}, {"share": 0.3, "depth": 2},
    ]  # fmt: skip
    assert went_on.stop_reason == "the space is exhausted: all its 6 combinations were tried"


@pytest.mark.filterwarnings("ignore:The oracle chose")
@pytest.mark.parametrize("kind", ["random", "bayesian"])
def test_values_of_an_earlier_version_are_kept_and_not_tried_again(kind, tmp_path):
    rounded = [{"share": 0.1 + 0.1 + 0.1, "depth": depth} for depth in (1, 2)]
    ended = resumed(tmp_path / "journal.jsonl", kind, lines_of(*rounded, trial="0{}"), 20)
    values = [tuple(run.values.values()) for run in ended.records.trials()]
    assert values[:2] == [(0.30000000000000004, 1), (0.30000000000000004, 2)]
    assert sorted(values[2:]) == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]


@pytest.mark.filterwarnings("ignore:The oracle chose")
def test_a_search_of_an_earlier_version_that_repeated_a_value_is_resumed(tmp_path):
    before = [{"share": share, "depth": depth} for share in (0.1, 0.2, 0.3) for depth in (1, 2)]
    ended = resumed(tmp_path / "journal.jsonl", "bayesian", lines_of(*before, before[0], before[0]), 20)
    assert len(ended.records.trials()) == 8
    assert ended.stop_reason.startswith("the space is exhausted")


def test_a_value_that_differs_by_rounding_is_not_warned_of(tmp_path):
    before = [
        {"share": 0.1 + 0.1 + 0.1 if share == 0.3 else share, "depth": d} for share in (0.1, 0.2, 0.3) for d in (1, 2)
    ]
    ended = resumed(tmp_path / "journal.jsonl", "grid", lines_of(*before), None)
    assert [dict(run.values) for run in ended.records.trials()] == before
