"""`lightkeras list` and `lightkeras compare`, on directories of runs in any state."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightkeras.command_line.entry_point import main


def make(path: Path, loss: float | None = None, accuracy: float | None = None, **config: Any) -> Path:
    path.mkdir(parents=True)
    known = {"task": "Moons", "data": {"fingerprint": "abc"}, "source": "arrays", "hparams": {"units": 2}}
    known |= {"monitor": {"name": "val/loss", "mode": "min"}, "code": {"Moons": "0123456789abcdef"}}
    (path / "config.json").write_text(json.dumps(known | config))
    if loss is not None:
        fit = {"epochs": 2, "monitor": "val/loss", "stop_reason": "max_epochs=2 reached"}
        fit["best"] = {"epoch": 2, "step": 4, "val/loss": loss}
        test = {} if accuracy is None else {"test": {"accuracy": accuracy}}
        (path / "result.json").write_text(json.dumps({"fit": fit, **test}))
    (path / "metrics.csv").write_text("kind,epoch,step,val/loss\nepoch,1,2,1.0\nepoch,2,4,0.5\n")
    return path


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("COLUMNS", "160")
    make(tmp_path / "runs" / "a", 0.5, 0.75, started="1")
    make(tmp_path / "runs" / "b", 0.25, 0.5, started="2", hparams={"units": 4}, code={"Moons": "f" * 16})
    make(tmp_path / "runs" / "c", started="3")
    return tmp_path / "runs"


BAR = "\N{BOX DRAWINGS LIGHT VERTICAL}"


def rows(text: str) -> list[list[str]]:
    lines = [line.strip(BAR).split(BAR) for line in text.splitlines() if line.startswith(BAR)]
    return [[cell.strip() for cell in line] for line in lines]


def test_in_a_narrow_terminal_each_value_has_a_line(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["list", str(runs)]) == 0
    assert capsys.readouterr().out.splitlines()[:6] == [
        *("a", "  task      Moons", "  status    finished", "  epochs    2", "  val/loss  0.5"),
        "  test      accuracy 0.75",
    ]
    assert main(["compare", str(runs / "a"), str(runs / "b")]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40
    monkeypatch.setenv("COLUMNS", "30")
    assert main(["compare", str(runs / "a"), str(runs / "b")]) == 0
    assert capsys.readouterr().out.startswith("task\n  b  Moons\n  a  Moons\nstatus\n")


def test_runs_are_listed_in_the_order_of_their_start_or_by_a_value(runs, capsys):
    assert main(["list", str(runs)]) == 0
    assert rows(capsys.readouterr().out) == [
        ["a", "Moons", "finished", "2", "0.5", "accuracy 0.75"],
        ["b", "Moons", "finished", "2", "0.25", "accuracy 0.5"],
        ["c", "Moons", "not finished", "2", "0.5", ""],
    ]
    assert main(["list", str(runs), "--by", "test/accuracy"]) == 0
    found = rows(capsys.readouterr().out)
    assert [(row[0], row[4]) for row in found] == [("a", "0.75"), ("b", "0.5"), ("c", "")]
    assert main(["list", str(runs), "--by", "val/loss"]) == 0
    assert rows(capsys.readouterr().out)[0][0] == "b"


def test_runs_side_by_side_have_their_results_and_what_differs(runs, capsys):
    assert main(["compare", str(runs / "a"), str(runs / "b")]) == 0
    found = rows(capsys.readouterr().out)
    assert found == [  # the best first
        ["task", "Moons", "Moons"],
        ["status", "finished", "finished"],
        ["epochs", "2", "2"],
        ["best val/loss", "0.25", "0.5"],
        ["test/accuracy", "0.5", "0.75"],
        ["Hyperparameters", "", ""],
        ["units", "4", "2"],
        ["Code", "", ""],
        ["Moons", "ffffffff", "01234567"],
    ]


def test_more_runs_than_columns_have_a_row_each(runs, capsys):
    for name in ("d", "e", "f"):
        make(runs / name, 0.125)
    assert main(["compare", *(str(runs / name) for name in "abdef")]) == 0
    found = rows(capsys.readouterr().out)
    assert len(found) == 5
    assert found[0][-1] == "2"  # its units


def test_runs_of_different_tasks_are_compared_without_an_order(runs, capsys):
    monitor = {"name": "val/auc", "mode": "max"}
    other = make(runs / "other", task="Reviews", hparams={"rate": 0.5}, monitor=monitor)
    assert main(["compare", str(runs / "a"), str(other)]) == 0
    found = rows(capsys.readouterr().out)
    assert found[0] == ["task", "Moons", "Reviews"]
    assert ["rate", "", "0.5"] in found


def test_runs_of_one_name_are_told_apart_by_their_folders(runs, capsys):
    one, other = make(runs / "x" / "0000", 1.0), make(runs / "y" / "0000", 2.0)
    assert main(["compare", str(one), str(other)]) == 0
    assert "x/0000" in capsys.readouterr().out


def test_a_page_is_written_where_it_is_asked_for(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["compare", str(runs / "a"), str(runs / "b"), "--page", str(page)]) == 0
    assert f"page  {page}" in capsys.readouterr().out
    text = page.read_text()
    assert "Differences" in text
    assert "data:image/png;base64," in text
    assert main(["list", str(runs), "--page", str(page)]) == 0
    assert "3 runs" in page.read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["list", "nowhere"], "nowhere does not exist"),
        (["list", ".", "--by", "val/los"], "--by val/los: no run has such a value. Did you mean 'val/loss'"),
        (["compare", "a"], "compare: got one run, a; expected at least two"),
        (["compare", "a", "."], "holds no run"),
    ],
)
def test_bad_arguments_are_errors(runs, monkeypatch, capsys, args, message):
    monkeypatch.chdir(runs)
    assert main(args) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_runs_is_no_error(tmp_path, capsys):
    assert main(["list", str(tmp_path)]) == 0
    assert "There are no runs below" in capsys.readouterr().out


def test_a_damaged_run_does_not_hide_the_others(runs, capsys):
    (runs / "a" / "config.json").write_text("{")
    assert main(["list", str(runs)]) == 0
    text = capsys.readouterr().out
    assert [row[2] for row in rows(text)] == ["finished", "not finished", "damaged"]
    assert "a is damaged: " in text


def test_control_characters_of_a_run_are_escaped(runs, capsys):
    make(runs / "z", task="a\x1b]0;owned\x07b")
    assert main(["list", str(runs)]) == 0
    assert "\x1b]0" not in capsys.readouterr().out


def test_neither_keras_nor_a_backend_is_imported(runs):
    program = """
import sys
from lightkeras.command_line.entry_point import main
main(["compare", *sys.argv[1:]])
print(sorted({name.split(".")[0] for name in sys.modules} & {"keras", "tensorflow", "jax", "torch"}))
"""
    command = [sys.executable, "-c", program, str(runs / "a"), str(runs / "b"), "--page", str(runs / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
