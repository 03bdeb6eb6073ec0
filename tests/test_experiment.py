"""Experiments of several runs: `lk.cli(task, main)`, in this process and in one of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import forked
import keras
import numpy as np
import pytest

import lightkeras as lk
from lightkeras.experiment import Experiment
from lightkeras.runs.directory import RunDirectory, holds_several, runs_below
from lightkeras.testing import TwoMoons

pytestmark = pytest.mark.usefixtures("folder")

SIZES = {"tiny": 4, "small": 8}
QUICK = ["--runner.max_epochs", "1", "--run_dir", "all"]


def sizes(task: lk.Task, runner: lk.Runner) -> dict[str, Any]:
    """Two sizes, one after the other."""
    found = {}
    for name, units in SIZES.items():
        sized = type(task)(dataclasses.replace(task.hp, hidden_units=units), task.lookup)
        below = dataclasses.replace(runner, run_dir=runner.run_dir / name)
        below.fit(sized, resume=True)
        found[name] = below.evaluate(sized, weights="best")["loss"]
    best = min(found, key=found.get)
    return {"best": best, "test": {"loss": np.float32(0.5), "losses": np.array([1, 2])}}


def run(*words: str, main: Any = sizes, task: type[lk.Task] = TwoMoons, **defaults: Any) -> int:
    """The exit status."""
    try:
        lk.cli(task, main, list(words), **defaults)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


def nothing(task: lk.Task, runner: lk.Runner) -> None:
    """Does nothing."""


# ---------------------------------------------------------------------- what it does


def test_each_run_has_its_directory_and_what_main_returns_is_in_the_result_above(folder, capsys):
    assert run(*QUICK, "--hp.learning_rate", "0.05") == 0
    result = read("all/result.json")
    assert result["runs"] == ["tiny", "small"]
    assert result["best"] in SIZES
    assert result["test"] == {"loss": 0.5, "losses": [1, 2]}
    assert (result["task"], result["source"], result["backend"]) == ("TwoMoons", "arrays", keras.backend.backend())
    assert result["wall_s"] > 0
    config = read("all/config.json")
    assert config["experiment"] == {"main": "sizes"}
    assert config["hparams"]["learning_rate"] == 0.05
    assert config["runner"]["run_dir"] == "all"
    for name, units in SIZES.items():
        below = read(f"all/{name}/config.json")
        assert below["hparams"] == {"hidden_units": units, "learning_rate": 0.05, "batch_size": 32}
        assert read(f"all/{name}/result.json")["fit"]["epochs"] == 1
        assert (folder / "all" / name / "report.html").is_file()
    page = (folder / "all" / "report.html").read_text()
    assert 'href="./tiny/report.html"' in page
    assert 'href="./small/report.html"' in page
    printed = capsys.readouterr().out
    assert "tiny" in printed
    assert printed.endswith("    run_dir  all\ntensorboard  tensorboard --logdir all\n")

    # A run of it is tested like any other.
    assert run("test", "--run_dir", "all/tiny") == 0
    assert run("test", "--run_dir", "all") == 2
    assert (
        "holds the runs of an experiment. Give the directory of one of them: all/tiny, all/small."
        in capsys.readouterr().err
    )

    # Started again it is refused; resumed it takes its recorded settings for flags that are not given.
    assert run(*QUICK) == 2
    assert "all is not empty, and the runs of an experiment need a directory of their own." in capsys.readouterr().err
    assert run("--resume", "--run_dir", "all", "--runner.max_epochs", "2") == 0
    assert [read(f"all/{name}/result.json")["fit"]["epochs"] for name in SIZES] == [2, 2]
    assert read("all/small/config.json")["hparams"]["learning_rate"] == 0.05
    resumed = read("all/config.json")
    assert len(resumed["resumed"]) == 1
    assert resumed["started"] == config["started"]

    # With other hyperparameters it is another experiment.
    assert run("--resume", "--run_dir", "all", "--hp.learning_rate", "0.01") == 2
    assert "hparams.learning_rate was 0.05 and is 0.01" in capsys.readouterr().err


def test_a_dry_run_checks_the_task_and_writes_nothing(folder, capsys):
    assert run(*QUICK, "--dry_run", main=nothing) == 0
    assert "Checks passed. Logged every epoch: train/accuracy" in capsys.readouterr().out
    assert os.listdir(folder) == []
    assert run(*QUICK, "--dry_run", "--runner.monitor", "val/los", main=nothing) == 2
    assert "Did you mean 'val/loss'?" in capsys.readouterr().err


def test_main_is_given_the_task_as_the_flags_made_it_and_the_runner_with_its_directory(folder):
    given = []

    def record(task: lk.Task, runner: lk.Runner) -> None:
        given.extend([task.hp.hidden_units, hasattr(task, "model"), runner.run_dir, runner.patience, runner.profile])

    assert run("--hp.hidden_units", "4", "--profile", "--run_dir", "x", main=record, patience=7) == 0
    assert given == [4, False, Path("x"), 7, True]
    assert read("x/result.json")["runs"] == []


def test_without_a_directory_one_is_made_in_runs(folder):
    assert run(main=nothing) == 0
    (made,) = (folder / "runs" / "two_moons").iterdir()
    assert (made / "result.json").is_file()


def test_the_help_describes_main_and_has_no_flag_for_single_runs(capsys):
    run("--help")
    printed = capsys.readouterr().out
    assert "Without a command: Two sizes, one after the other." in printed
    assert "--accept_changes" not in printed


def test_fit_ignores_main(folder):
    assert run("fit", "--run_dir", "one", "--runner.max_epochs", "1") == 0
    assert "experiment" not in read("one/config.json")


# ---------------------------------------------------------------------- bad input


def test_a_directory_that_is_not_empty_is_refused(folder, capsys):
    (folder / "all").mkdir()
    (folder / "all" / "notes.txt").write_text("mine")
    assert run(*QUICK, main=nothing) == 2
    assert "all is not empty" in capsys.readouterr().err
    with pytest.raises(FileExistsError, match=r"Resume the experiment in it with resume=True \(--resume\)"):
        Experiment(nothing, TwoMoons(), lk.Runner(run_dir=Path("all"))).run(resume=False)


def test_a_resume_of_a_single_run_is_refused(folder, capsys):
    run("fit", "--run_dir", "one", "--runner.max_epochs", "1")
    assert run("--resume", "--run_dir", "one", main=nothing) == 2
    assert "one holds a single run, not an experiment of several runs: give another" in capsys.readouterr().err


def test_the_directory_of_an_experiment_is_not_a_run_to_resume(folder, capsys):
    def careless(task: lk.Task, runner: lk.Runner) -> None:
        runner.fit(task, resume=True)

    assert run(*QUICK, main=careless) == 2
    assert "all holds the runs of an experiment, each in a directory of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (3, "returned int: expected a mapping for result.json, or None."),
        ({"runs": 1}, "returned 'runs', which lightkeras writes itself: use another name."),
        ({"a": {"b": [object()]}}, "main returned a object as 'a.b.0': expected numbers, strings, and lists"),
    ],
)
def test_what_cannot_be_written_is_refused(folder, capsys, returned, message):
    assert run(*QUICK, main=lambda task, runner: returned) == 2
    assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.* is outside its declared range:UserWarning")
def test_a_run_that_diverged_gives_status_1(folder):
    def explodes(task: lk.Task, runner: lk.Runner) -> None:
        below = dataclasses.replace(runner, run_dir=runner.run_dir / "run", preflight=False)
        below.fit(type(task)(task.HParams(learning_rate=1e30), task.lookup), resume=True)

    assert run(*QUICK, main=explodes) == 1
    assert "diverged" in (folder / "all" / "run" / "report.html").read_text()


def test_an_error_of_main_is_not_swallowed(folder):
    def broken(task: lk.Task, runner: lk.Runner) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        run(*QUICK, main=broken)


# ---------------------------------------------------------------------- finding runs


def test_runs_are_found_at_any_depth_but_not_inside_of_others(tmp_path):
    for path, content in {
        "": {"experiment": {}},
        "b": {"data": {}, "started": "1"},
        "a/deep": {"data": {}, "started": "2"},
        "b/inner": {"data": {}, "started": "3"},
        "search": {"search": {"objective": "val/loss"}, "started": "0"},
    }.items():
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / "config.json").write_text(json.dumps(content))
    assert runs_below(RunDirectory(tmp_path)) == [tmp_path / "b", tmp_path / "a/deep"]
    assert holds_several(RunDirectory(tmp_path))
    assert not holds_several(RunDirectory(tmp_path / "b"))


# ---------------------------------------------------------------------- a process of its own

FILE = """
import dataclasses

import lightkeras as lk


def main(task, runner):
    dataclasses.replace(runner, run_dir=runner.run_dir / "one").fit(task, resume=True)
    return {"test": {"accuracy": 0.5}}


if __name__ == "__main__":
    lk.cli(lk.testing.TwoMoons, main, max_epochs=1)
"""


def test_a_real_process_leaves_its_runs_and_refuses_to_start_again(folder):
    (folder / "moons.py").write_text(FILE)

    def process(*words: str) -> subprocess.CompletedProcess[str]:
        return forked.run(["moons.py", "--run_dir", "all", *words], env={**os.environ, "COLUMNS": "120"})

    first = process()
    assert first.returncode == 0, first.stderr
    assert read("all/result.json")["test"] == {"accuracy": 0.5}
    assert (folder / "all" / "one" / "report.html").is_file()
    again = process()
    assert again.returncode == 2
    assert "error: all is not empty" in again.stderr
    assert "Traceback" not in again.stderr
