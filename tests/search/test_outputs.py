"""Files of a search beside its runs."""

import csv
import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightkeras.hparams import Choice, Int
from lightkeras.runs.results import SearchResult, Trial
from lightkeras.search import outputs
from lightkeras.search.coordinator import Plan, Repeats
from lightkeras.search.records import COMPLETED, FAILED, Outcome, Record, Records
from lightkeras.search.space import make_space

RUNNER = None


@dataclasses.dataclass(frozen=True)
class Declared:
    kind: str = Choice("wide", ["wide", "deep"])
    depth: int = Int(1, low=1, high=4, when={"kind": "deep"})


TRIALS = (
    Trial("0000", {"kind": "wide", "depth": 1}, 1 / 3, COMPLETED, "done", Path("s/trials/0000"), ("depth",), 2, 1.5),
    Trial("0001", {"kind": "deep", "depth": 3}, None, FAILED, "no, it broke", Path("s/trials/0001"), (), 1, 0.25),
)


def test_trials_csv_has_a_row_for_each_with_nothing_for_what_is_inactive_or_failed(tmp_path):
    outputs.write_trials(tmp_path / "trials.csv", "val/loss", TRIALS)
    assert (tmp_path / "trials.csv").read_text().splitlines() == [
        "trial,status,val/loss,kind,depth,epochs,wall_s,reason",
        "0000,completed,0.333333333,wide,,2,1.500,done",
        '0001,failed,,deep,3,1,0.250,"no, it broke"',
    ]
    outputs.write_trials(tmp_path / "none.csv", "val/loss", [])
    with open(tmp_path / "none.csv") as file:
        assert list(csv.reader(file)) == [["trial", "status", "val/loss", "epochs", "wall_s", "reason"]]


def coordinator(records, best=None, repeats=()):
    plan = Plan(Path("s"), make_space(Declared, {}, {}), "val/loss", "min", RUNNER)
    reason = "trials=2 reached"
    return SimpleNamespace(
        plan=plan, records=records, best=lambda: best, repeats=lambda: list(repeats), stop_reason=reason
    )


def test_a_result_has_the_trials_that_ended_and_the_refit_if_it_did_not_fail():
    values = {"kind": "wide"}
    done = Outcome(COMPLETED, "done", 0.5, epochs=2, wall_s=1.5)
    runs = [
        Record("trials/0000", values, "a", outcome=done),
        Record("trials/0001", values, "b"),
        Record("refit", values, joined=True, outcome=done),
    ]
    records = Records({run.name: run for run in runs})
    repeats = [Repeats("trials/0000", (0.4, 0.6), 0)]
    result = outputs.result_of(coordinator(records, runs[0], repeats), 3.0)
    trial = dataclasses.replace(TRIALS[0], objective=0.5)
    assert (result.trials, result.best, result.stop_reason) == ((trial,), trial, "trials=2 reached")
    assert (result.repeats, result.refit, result.wall_s) == ({"0000": (0.4, 0.6)}, Path("s/refit"), 3.0)
    runs[2].outcome = Outcome(FAILED, "no")
    assert outputs.result_of(coordinator(records), 3.0).refit is None
    runs[2].outcome = None
    assert outputs.result_of(coordinator(records), 3.0).refit is None
    del records.runs["refit"]
    found = outputs.result_of(coordinator(records), 3.0)
    assert (found.refit, found.best) == (None, None)
    with pytest.raises(ValueError, match="trials/0001 has not ended"):
        outputs.trial_of(coordinator(records).plan, runs[1])


def test_the_summary_counts_trials_and_epochs_and_names_the_best():
    result = SearchResult(Path("s"), "val/loss", "min", TRIALS, TRIALS[0], 2.00049, {}, Path("s/refit"))
    repeats = [Repeats("trials/0000", (0.2, 0.4), 1), Repeats("trials/0001", (0.2,), 0), Repeats("trials/0002", (), 2)]
    found = outputs.summary(result, "Task", repeats, None)["search"]
    counts = {name: found[name] for name in ("trials", "completed", "pruned", "failed", "epochs", "wall_s", "refit")}
    assert counts == {
        "trials": 2,
        "completed": 1,
        "pruned": 0,
        "failed": 1,
        "epochs": 3,
        "wall_s": 2.0,
        "refit": "s/refit",
    }
    assert found["best"] == {
        "trial": "0000",
        "run_dir": "s/trials/0000",
        "value": 1 / 3,
        "hparams": {"kind": "wide", "depth": 1},
    }
    assert [(seed["trial"], seed["failed"]) for seed in found["seeds"]] == [("0000", 1), ("0001", 0), ("0002", 2)]
    assert found["seeds"][0]["mean"] == pytest.approx(0.3)
    assert found["seeds"][0]["spread"] == pytest.approx(0.02**0.5)
    assert [(seed["mean"], seed["spread"]) for seed in found["seeds"][1:]] == [(0.2, None), (None, None)]
    assert "refit_failed" not in found
    empty = outputs.summary(dataclasses.replace(result, best=None, refit=None), "Task", [], "no memory")["search"]
    assert (empty["best"], empty["refit"], empty["refit_failed"]) == (None, None, "no memory")


@pytest.mark.parametrize("links", [True, False])
def test_best_is_a_copy_that_shares_its_large_files_and_replaces_the_one_before(tmp_path, monkeypatch, links):
    if not links:

        def refuse(source, target):
            raise OSError("this file system has no links")

        monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "trials", tmp_path / "best"
    (source / "checkpoints" / "step-1").mkdir(parents=True)
    (source / "checkpoints" / "step-1" / "state.json").write_text("{}")
    for name in ("model.keras", "config.json", "run.lock", "events.out.tfevents.1", "output.txt"):
        (source / name).write_text(name)
    (source / "hparams").mkdir()
    for again in (False, True):
        outputs.make_best(source, target)
        names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
        assert names == {"checkpoints/step-1/state.json", "model.keras", "config.json"}
        shared = ("model.keras", "checkpoints/step-1/state.json")
        assert [os.path.samefile(source / name, target / name) for name in shared] == [links, links]
        assert not os.path.samefile(source / "config.json", target / "config.json")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "trials"]
        if not again:
            (target / "old").write_text("")
