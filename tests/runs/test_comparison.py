"""What the page of several runs shows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from lightkeras.runs import comparison, report
from lightkeras.runs.directory import RunDirectory
from lightkeras.runs.overview import Overview

ONE = Overview(
    name="one",
    path=Path("runs/one"),
    status="finished",
    config={"task": "Moons", "source": "arrays"},
    epochs=3,
    best={"val/loss": 0.5},
    hparams={"units": 2},
    monitor="val/loss",
)
OTHER = dataclasses.replace(
    ONE, name="other", path=Path("runs/a/other"), config={"task": "Reviews", "source": "sample"}, hparams={"rate": 0.5}
)


def test_runs_of_different_tasks_have_their_task_and_what_they_lack_is_empty():
    table = comparison.rows([ONE, OTHER], {"val/loss": "min"}, "one", Path("runs"))
    assert [row["values"] for row in table["rows"]] == [
        {"val/loss": 0.5, "task": "Moons", "units": 2, "rate": None, "epochs": 3, "stopped": None},
        {"val/loss": 0.5, "task": "Reviews", "units": None, "rate": 0.5, "epochs": 3, "stopped": None},
    ]
    assert [row["best"] for row in table["rows"]] == [True, False]
    assert [row["path"] for row in table["rows"]] == ["one", "a/other"]


def test_the_page_of_any_runs_names_tasks_differences_and_damaged_runs(tmp_path):
    damaged = Overview("third", tmp_path / "third", "damaged", "config.json is damaged.")
    content = comparison.content_of_runs([ONE, OTHER, damaged], tmp_path / "page.html", ("val/loss", "min"))
    assert content["title"] == "Moons and Reviews"
    assert content["source"] == "sample"
    assert content["warnings"] == ["third is damaged. config.json is damaged."]
    assert content["differences"]["Hyperparameters"][0]["values"] == {"one": 2, "other": None, "third": None}
    page = report.page(content).decode()
    assert page.count('class="mark"') == 1
    assert "Sample data." in page


def test_of_a_search_the_best_trial_comes_first_and_one_that_did_not_end_last(tmp_path):
    path = tmp_path / "search"
    for number, (loss, result) in enumerate([(0.5, True), (0.25, True), (0.125, False)]):
        trial = path / "trials" / f"{number:04}"
        trial.mkdir(parents=True)
        (trial / "config.json").write_text(json.dumps({"task": "Moons", "hparams": {"units": number}}))
        if result:
            best = {"epoch": 1, "step": 2, "val/loss": loss}
            fit = {"epochs": 1, "monitor": "val/loss", "stop_reason": "max_epochs=1 reached", "best": best}
            (trial / "result.json").write_text(json.dumps({"fit": fit}))
    rows = "trial,status,val/loss,reason\n0000,completed,0.5,\n0001,completed,0.25,\n0002,running,,\n"
    (path / "trials.csv").write_text(rows)
    search = {"objective": "val/loss", "mode": "min", "oracle": "random"}
    content = comparison.content_of_search(RunDirectory(path), {"search": search, "task": "Moons"}, {})
    assert [row["path"] for row in content["runs"]["rows"]] == ["trials/0001", "trials/0000", "trials/0002"]
    assert content["warnings"] == ["The search has not finished."]


def test_headlines_are_the_test_and_the_best_value():
    found = comparison.headlines({"loss": 0.25}, {"epoch": 2, "val/loss": 0.5}, "val/loss")
    assert [(each["label"], each["value"]) for each in found] == [
        ("test loss", 0.25),
        ("best val/loss, epoch 2", 0.5),
    ]
    assert comparison.headlines(None, None, None) == []
