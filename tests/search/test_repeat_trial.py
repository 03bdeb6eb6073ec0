"""A trial is found in its search, and its repetition compared with it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from lightkeras.encoders.features import FeatureCache
from lightkeras.runs import checkpoint
from lightkeras.search import repeat_trial
from lightkeras.search.journal import Journal
from lightkeras.search.records import COMPLETED, FAILED, Outcome
from lightkeras.search.repeat_trial import Replayed
from lightkeras.training.saver import Checkpoints
from lightkeras.training.settings import LimitBatches

DONE = Outcome(COMPLETED, "done", 0.25)


@pytest.fixture
def search(tmp_path):
    """A search of one completed, one failed, one unfinished, and one better trial."""
    with Journal(tmp_path / "journal.jsonl") as journal:
        for trial in "abcd":
            asked = {"event": "asked", "status": "RUNNING", "trial": trial, "values": {}, "epochs": None}
            journal.write({**asked, "parent": None})
        outcomes = {0: DONE, 1: Outcome(FAILED, "no memory"), 3: dataclasses.replace(DONE, value=0.125)}
        for number, outcome in outcomes.items():
            journal.write({"event": "ended", "run": f"trials/{number:04d}", "outcome": dataclasses.asdict(outcome)})
    return tmp_path


def test_a_trial_is_found_by_name_or_as_the_best(search):
    assert repeat_trial._find(search, "0000", "min")[0].name == "trials/0000"
    assert repeat_trial._find(search, "trials/0000", "min")[1] == DONE
    assert [repeat_trial._find(search, "best", mode)[0].number for mode in ("min", "max")] == ["0003", "0000"]
    (search / "result.json").write_text(json.dumps({"search": {"best": {"trial": "0000"}}}))
    assert repeat_trial._find(search, "best", "min")[0].number == "0000"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0009", r"has no trial '0009'\. .*Valid names: 0000, 0001, 0002, 0003, best"),
        ("bets", r"Did you mean 'best'\?"),
        ("0001", r"Trial 0001 has no value to compare: it failed: no memory\."),
        ("0002", r"Trial 0002 has no value to compare: it has not ended\."),
    ],
)
def test_a_trial_without_a_value_cannot_be_replayed(search, name, message):
    with pytest.raises(ValueError, match=message):
        repeat_trial._find(search, name, "min")


def test_a_search_without_a_completed_trial_has_no_best(tmp_path):
    with pytest.raises(ValueError, match=r"has no completed trial"):
        repeat_trial._find(tmp_path, "best", "min")


def replayed(**changed):
    given = Replayed("0001", Path("a"), Path("b"), "val/loss", 0.5, 0.5, (), ())
    return dataclasses.replace(given, **changed)


def test_what_is_printed_names_what_differs_and_what_may_be_the_cause():
    assert replayed().equal
    assert replayed().lines() == {
        "trial": "0001: val/loss was 0.5 and is 0.5",
        "replay": "the same to the bit: every epoch's values, and the best weights",
        "runs": "a and b",
    }
    other = replayed(different=("one", "two"))
    assert not other.equal
    assert other.lines()["replay"] == "one; two"
    assert other.lines()["changed"].startswith("nothing that is recorded: ")
    assert replayed(changed=("versions.numpy was 1 and is 2",)).lines()["changed"] == "versions.numpy was 1 and is 2"


def run(folder, losses, weight, value=0.25):
    """A run directory with the values of some epochs and its best weights, and its outcome."""
    rows = [f"step,{epoch},{epoch},9" for epoch in range(1, 9)]
    rows += [f"epoch,{epoch},{epoch},{loss}" for epoch, loss in enumerate(losses, 1)]
    folder.mkdir()
    (folder / "metrics.csv").write_text("\n".join(["kind,epoch,step,val/loss", *rows, ""]))
    captured = checkpoint.Captured({"w": weight}, {"w": {"path": "w", "dtype": str(weight.dtype)}})
    checkpoint.save(folder / "checkpoints" / "step-00000001", 1, captured, {}, {})
    checkpoint.point(folder / "checkpoints", "best", folder / "checkpoints" / "step-00000001")
    return folder, Outcome(COMPLETED, "done", value)


@pytest.mark.parametrize(
    ("losses", "weight", "value", "expected"),
    [
        ([3, 2], np.float32([1.0]), 0.25, []),
        ([3, 4, 5], np.float32([1.0]), 0.5, [
            "val/loss of epoch 2 was 2 and is 4",
            "it had 2 epochs and has 3",
            "its best value was 0.25 and is 0.5",
        ]),
        ([3, 2], np.float32([-1.0]), 0.25, ["1 of 1 best weights and states differ, such as ['w']"]),
        ([3, 2], np.float64([1.0]), 0.25, ["1 of 1 best weights and states differ, such as ['w']"]),
    ],
)  # fmt: skip
def test_the_first_difference_of_each_kind_is_named(tmp_path, losses, weight, value, expected):
    before, was = run(tmp_path / "before", [3, 2], np.float32([1.0]))
    now, is_ = run(tmp_path / "now", losses, weight, value)
    assert repeat_trial._differences(before, now, was, is_) == expected


def test_a_repetition_that_failed_differs_by_its_reason():
    found = repeat_trial._differences(Path("a"), Path("b"), DONE, Outcome(FAILED, "no memory"))
    assert found == ["it failed: no memory"]


def test_the_recorded_settings_make_the_runner_again_without_those_of_other_versions():
    recorded = {
        "max_epochs": 3,
        "limit_batches": {"train": 2},
        "checkpoints": {"keep": 4},
        "features": {},
        "callbacks": ["a"],
        "gone": 1,
    }
    runner = repeat_trial._runner_of(recorded)
    assert (runner.max_epochs, runner.callbacks) == (3, ())
    assert runner.limit_batches == LimitBatches(train=2)
    assert runner.checkpoints == Checkpoints(keep=4)
    assert runner.features == FeatureCache()


def test_repetitions_lie_beside_each_other(tmp_path):
    folder = tmp_path / "replays"
    for expected in ("0001-1", "0001-2", "0001-3"):
        found = repeat_trial._unused(folder, "0001")
        assert found == folder / expected
        found.mkdir()
    assert repeat_trial._unused(folder, "0002").name == "0002-1"
