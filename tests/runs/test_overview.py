"""Overviews of runs in any state, read from the files of their directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightkeras.runs import overview
from lightkeras.runs.directory import RunDirectory
from lightkeras.system.files import DamagedFileError
from lightkeras.system.locks import run_lock

METRICS = """kind,epoch,step,train/loss,val/loss,val/auc
step,1,1,2.0,,
epoch,1,2,1.5,1.25,0.5
validation,2,3,,1.1,
epoch,2,4,0.75,1,nan
epoch,3,6,0.5,1.5,0.75
"""


def make(path: Path, result: dict[str, Any] | None = None, **config: Any) -> Path:
    path.mkdir(parents=True)
    known = {"task": "Moons", "data": {"fingerprint": "abc"}, "source": "arrays", "hparams": {"units": 2}, "seed": 0}
    known |= {"monitor": {"name": "val/loss", "mode": "min"}, "code": {"Moons": "0123456789abcdef"}, "backend": "jax"}
    (path / "config.json").write_text(json.dumps(known | config))
    if result is not None:
        (path / "result.json").write_text(json.dumps(result))
    (path / "metrics.csv").write_text(METRICS)
    return path


def fit(loss: float, **values: Any) -> dict[str, Any]:
    best = {"epoch": 2, "step": 4, "train/loss": 0.75, "val/loss": loss}
    return {"epochs": 3, "monitor": "val/loss", "stop_reason": "max_epochs=3 reached", "best": best, **values}


def make_search(path: Path) -> Path:
    make(path, search={"objective": "val/loss", "mode": "min"}, started="2")
    make(path / "trials" / "0000", {"fit": fit(0.5)}, started="3")
    make(path / "trials" / "0001", {"fit": fit(0.25)}, started="4")
    make(path / "best", {"fit": fit(0.5), "test": {"loss": 0.125}}, started="3")
    rows = "trial,status,val/loss,reason\n0000,completed,0.5,a\n0001,pruned,0.25,worse than others\n"
    (path / "trials.csv").write_text(rows)
    best = {"trial": "0000", "value": 0.5, "hparams": {"units": 2}}
    (path / "result.json").write_text(json.dumps({"search": {"best": best, "stop_reason": "trials=2 reached"}}))
    return path


def test_a_finished_run_has_its_best_epoch_and_its_test(tmp_path):
    found = overview.read(make(tmp_path / "run", {"fit": fit(1.0), "test": {"loss": 0.5, "auc": None}}))
    assert (found.name, found.status, found.epochs) == ("run", "finished", 3)
    assert found.values == {"val/loss": 1.0, "test/loss": 0.5}
    assert found.note == "max_epochs=3 reached"


@pytest.mark.parametrize(
    ("values", "status"), [({"diverged": True}, "diverged"), ({"interrupted": "SIGTERM"}, "interrupted")]
)
def test_what_ended_a_run_is_its_status(tmp_path, values, status):
    assert overview.read(make(tmp_path / "run", {"fit": fit(1.0, **values)})).status == status


@pytest.mark.parametrize(("mode", "best"), [("min", {"val/loss": 1.0}), ("max", {"val/loss": 1.5, "val/auc": 0.75})])
def test_a_run_without_a_result_has_the_best_of_its_epochs_so_far(tmp_path, mode, best):
    found = overview.read(make(tmp_path / "run", monitor={"name": "val/loss", "mode": mode}))
    assert (found.status, found.epochs, found.best) == ("not finished", 3, best)


def test_a_run_whose_lock_is_held_is_running_and_its_last_line_may_be_incomplete(tmp_path):
    path = make(tmp_path / "run")
    (path / "metrics.csv").write_text(METRICS + "epoch,4,8,0.5")
    with run_lock(RunDirectory(path).lock_file):
        found = overview.read(path)
    assert (found.status, found.epochs) == ("running", 3)


def test_a_run_that_has_not_begun_its_first_epoch_has_no_values(tmp_path):
    path = make(tmp_path / "run")
    (path / "metrics.csv").unlink()
    assert (overview.read(path).epochs, overview.read(path).values) == (0, {})


def test_a_search_stands_for_its_best_trial(tmp_path):
    found = overview.read(make_search(tmp_path / "search"))
    assert (found.is_search, found.epochs, found.status) == (True, 2, "finished")
    assert found.values == {"val/loss": 0.5, "test/loss": 0.125}
    assert found.curves == tmp_path / "search" / "best"


def test_a_damaged_file_is_the_status_of_its_run_alone(tmp_path):
    path = make(tmp_path / "a run")
    make(tmp_path / "b run", {"fit": fit(1.0)})
    (path / "config.json").write_text("{")
    damaged, whole = overview.read_below(tmp_path)
    assert damaged.status == "damaged"
    assert "config.json" in (damaged.note or "")
    assert whole.status == "finished"


def test_runs_searches_and_runs_of_experiments_are_found_in_the_order_of_their_start(tmp_path):
    make(tmp_path / "late", started="9")
    make_search(tmp_path / "search")
    make(tmp_path / "experiment", experiment={"main": "main"}, started="1")
    make(tmp_path / "experiment" / "part", started="5")
    (tmp_path / "link").symlink_to(tmp_path / "late")
    names = [found.name for found in overview.read_below(tmp_path)]
    assert names == ["search", "experiment/part", "late"]
    assert [found.name for found in overview.read_below(tmp_path / "late")] == ["late"]


def test_of_a_search_itself_the_trials_are_found_with_their_status(tmp_path):
    found = overview.read_below(make_search(tmp_path / "search"))
    assert [(each.name, each.status, each.note) for each in found] == [
        ("0000", "finished", "max_epochs=3 reached"),
        ("0001", "pruned", "worse than others"),
    ]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist, or is not a folder"):
        overview.found(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        overview.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds an experiment: give its runs"):
        overview.read(make(tmp_path / "experiment", experiment={"main": "main"}))


def test_runs_are_ranked_and_those_without_the_value_come_last(tmp_path):
    shown = [
        overview.read(make(tmp_path / "a", {"fit": fit(1.0)})),
        overview.read(make(tmp_path / "b", {"fit": {"epochs": 0}})),
        overview.read(make(tmp_path / "c", {"fit": fit(0.5), "test": {"auc": 0.5}})),
    ]
    assert [found.name for found in overview.ranked(shown, "val/loss", "min")] == ["c", "a", "b"]
    assert [found.name for found in overview.ranked(shown, "val/loss", "max")] == ["a", "c", "b"]
    assert [found.name for found in overview.ranked(shown, "test/auc", "max")] == ["c", "a", "b"]
    with pytest.raises(ValueError, match=r"no run has such a value\. Did you mean 'val/loss'"):
        overview.ranked(shown, "val/los", "min")
    with pytest.raises(ValueError, match="No run has a result yet"):
        overview.ranked(shown[1:2], "val/loss", "min")


def test_only_a_monitored_value_of_all_runs_is_in_common(tmp_path):
    one = overview.read(make(tmp_path / "a", {"fit": fit(1.0)}))
    other = overview.read(
        make(tmp_path / "b", {"fit": fit(1.0, monitor="train/loss")}, monitor={"name": "train/loss", "mode": "min"})
    )
    assert overview.common_monitor([one]) == ("val/loss", "min")
    assert overview.common_monitor([one, other]) is None
    assert overview.common_monitor([]) is None


def test_what_differs_is_listed_by_group(tmp_path):
    shown = [
        overview.read(make(tmp_path / "a")),
        overview.read(make(tmp_path / "b", task="Other", hparams={"units": 4, "rate": 0.5}, code={"Other": "f" * 16})),
        overview.read(make(tmp_path / "c", seed=1, source="sample")),
    ]
    assert overview.differences(shown) == {
        "Hyperparameters": {"units": [2, 4, 2], "rate": [None, 0.5, None]},
        "Code": {"Moons": ["01234567", None, "01234567"], "Other": [None, "ffffffff", None]},
        "Data and environment": {"data": ["arrays", "arrays", "sample"], "seed": [0, 0, 1]},
    }
    assert overview.differences(shown[:1]) == {}


def test_the_history_has_the_epochs_of_metrics_csv(tmp_path):
    history = overview.history_of(RunDirectory(make(tmp_path / "run")))
    assert history["train/loss"] == [1.5, 0.75, 0.5]
    assert history["val/loss"] == [1.25, 1.0, 1.5]


def test_a_damaged_table_of_trials_is_named(tmp_path):
    path = make_search(tmp_path / "search")
    (path / "trials.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DamagedFileError, match=r"trials\.csv is damaged"):
        overview.trials_of(path)
    assert overview.read(path).status == "damaged"
