"""Whole runs with loggers of the user: by a Runner, in a search with a worker process, from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import keras
import logged
import numpy as np
import pytest
from commands import run

import lightkeras as lk
from lightkeras.testing import TwoMoons

pytestmark = pytest.mark.any_backend


class Keeping(lk.loggers.Logger):
    """Keeps the values of steps and epochs, and raises where it should."""

    def __init__(self, broken=""):
        self.broken, self.opened, self.points, self.told = broken, [], {}, []

    def check(self, method):
        if method == self.broken:
            raise RuntimeError(f"no {method} today")

    def open(self, run):
        self.check("open")
        self.opened.append(run)

    def log_steps(self, epoch, first_step, values):
        self.check("log_steps")
        for name, column in values.items():
            self.points.setdefault(name, []).extend(enumerate(column, first_step))

    def log_epoch(self, epoch, step, values):
        self.check("log_epoch")
        for name, value in values.items():
            self.points.setdefault(f"epoch/{name}", []).append((epoch, value))
            if name.startswith("val/"):
                self.points.setdefault(name, []).append((step, value))

    def log_artifacts(self, paths):
        self.told.append(sorted(path.name for path in paths))

    def saved(self, position):
        self.check("saved")

    def close(self, failed=False):
        self.check("close")
        self.told.append(failed)


def runner(folder: Path, *loggers: lk.loggers.Logger, **settings: object) -> lk.Runner:
    return lk.Runner(**{"max_epochs": 2, "run_dir": folder / "run", "progress": False, "loggers": loggers, **settings})


def test_a_logger_gets_what_metrics_csv_has_and_knows_the_run(tmp_path):
    logger = Keeping()
    runner(tmp_path, logger).fit(TwoMoons())
    assert logger.points == logged.csv_points(tmp_path / "run")
    (found,) = logger.opened
    assert (found.directory, found.position, found.step, found.search) == (tmp_path / "run", None, 0, None)
    assert found.hparams == {"hidden_units": 16, "learning_rate": 0.01, "batch_size": 32}
    assert found.names == ["train/accuracy", "train/loss", "val/accuracy", "val/loss"]
    assert found.config["task"] == "TwoMoons"
    assert found.config["runner"]["loggers"] == ["Keeping"]
    assert logger.told == [["figures", "metrics.csv", "model.keras", "report.html", "result.json"], False]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["runner"]["loggers"] == ["Keeping"]


def test_a_logger_is_closed_as_failed_if_training_raises(tmp_path):
    logger = Keeping()
    failing = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runner(tmp_path, logger, callbacks=[failing]).fit(TwoMoons())
    assert logger.told == [True]


@pytest.mark.parametrize("method", ["log_steps", "log_epoch", "saved", "close"])
def test_a_logger_that_raises_is_warned_of_once_and_listed_and_changes_nothing_else(tmp_path, method):
    whole = runner(tmp_path / "whole").fit(TwoMoons())
    broken, other = Keeping(method), Keeping()
    expected = rf"^Keeping: {method} raised RuntimeError: no {method} today\. Training continues"
    with pytest.warns(UserWarning, match=expected) as caught:
        found = runner(tmp_path, broken, other).fit(TwoMoons())
    assert len([warning for warning in caught if issubclass(warning.category, UserWarning)]) == 1
    assert found.history == whole.history
    assert other.points == logged.csv_points(tmp_path / "run")
    problem = f"{method} raised RuntimeError: no {method} today"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["fit"]["loggers"] == {"Keeping": problem}
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"Keeping does not have all values of the run: {problem}" in page


def test_a_logger_that_cannot_be_opened_ends_the_run_before_its_first_step(tmp_path):
    logger = Keeping("open")
    with pytest.raises(RuntimeError, match="no open today"):
        runner(tmp_path, logger).fit(TwoMoons())
    assert (logger.points, logger.told) == ({}, [])


def test_what_is_no_logger_is_refused_with_what_to_give():
    expected = (
        r"Runner\(loggers=\.\.\.\): expected loggers such as lk\.loggers\.MLflow\(\), got 'mlflow'\. A logger ext"
    )
    with pytest.raises(TypeError, match=expected):
        lk.Runner(loggers=["mlflow"])


@pytest.mark.parametrize(("name", "package"), [("MLflow", "mlflow"), ("WandB", "wandb")])
def test_a_package_that_is_not_installed_is_named_when_the_logger_is_made(name, package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    expected = rf'^lk\.loggers\.{name} needs the package {package}, .* pip install "lightkeras\[{package}\]"$'
    with pytest.raises(ImportError, match=expected):
        getattr(lk.loggers, name)()


@pytest.mark.long
def test_the_trials_of_a_search_with_a_worker_process_are_children_of_one_mlflow_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    for name, value in logged.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    uri = logged.new_store(tmp_path)
    settings = lk.Runner(
        max_epochs=1, progress=False, pictures=False, export=False, loggers=[lk.loggers.MLflow(uri, "moons")]
    )
    result = lk.Tuner(TwoMoons, run_dir=tmp_path / "search", trials=2, runner=settings, workers=1).search()
    parent, *children = logged.mlflow_runs(uri)
    assert [trial.status for trial in result.trials] == ["completed", "completed"]
    assert parent.info.run_name == "search"
    assert sorted(child.info.run_name for child in children) == ["trials/0000", "trials/0001"]
    for child in children:
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        run_dir = Path(child.data.tags["lightkeras.run_dir"])
        expected = logged.csv_points(run_dir)
        found = logged.mlflow_points(uri, child.info.run_id)
        assert {name: found[name] for name in expected} == expected
        hparams = json.loads((run_dir / "config.json").read_text())["hparams"]
        assert child.data.params == {name: str(value) for name, value in hparams.items()}


def test_trials_in_the_process_of_the_search_have_loggers_of_their_own(tmp_path):
    logger = Keeping()
    settings = lk.Runner(max_epochs=1, progress=False, pictures=False, export=False, loggers=[logger])
    lk.Tuner(TwoMoons, run_dir=tmp_path / "search", trials=2, runner=settings, workers=0).search()
    assert (logger.opened, logger.points) == ([], {})


LINES = """
import lightkeras as lk

class Lines(lk.loggers.Logger):
    \"\"\"Writes a line for each epoch.\"\"\"

    def __init__(self, name: str = "lines.txt"):
        self.name = name

    def open(self, run):
        self.file = (run.directory / self.name).open("a")

    def log_steps(self, epoch, first_step, values):
        pass

    def log_epoch(self, epoch, step, values):
        print(epoch, step, file=self.file)

    def close(self, failed=False):
        self.file.close()
"""


def test_loggers_are_flags_and_a_resumed_run_asks_for_them(tmp_path, monkeypatch, capsys):
    """A class that only a run directory names is not imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["moons.py"])
    (tmp_path / "logger_of_mine.py").write_text(LINES)
    monkeypatch.syspath_prepend(tmp_path)
    base = ["fit", "--run_dir", "run", "--runner.max_epochs"]
    flags = ["--runner.loggers+=logger_of_mine.Lines", "--runner.loggers.name=mine.txt"]
    assert run(*base, "1", *flags) == 0
    assert Path("run/mine.txt").read_text() == "1 10\n"
    capsys.readouterr()
    assert run(*base, "2", "--resume") == 2
    expected = (
        r"has the loggers Lines, and none are given now\. Give --runner\.loggers as before, or --runner\.loggers \[\]"
    )
    assert re.search(expected, " ".join(capsys.readouterr().err.split()))
    assert run(*base, "2", "--resume", *flags) == 0
    assert Path("run/mine.txt").read_text() == "1 10\n2 20\n"
    assert run(*base, "3", "--resume", "--runner.loggers", "[]") == 0
    assert Path("run/mine.txt").read_text() == "1 10\n2 20\n"


def test_loggers_of_the_experiments_file_stay_without_a_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["moons.py"])
    logger = Keeping()
    assert run("fit", "--run_dir", "run", "--runner.max_epochs", "1", loggers=[logger]) == 0
    assert logger.points["train/loss"][-1][0] == 10
    assert np.isfinite([value for _, value in logger.points["train/loss"]]).all()
    assert run("fit", "--run_dir", "run", "--resume", "--runner.max_epochs", "2", loggers=[logger]) == 0
    assert logger.opened[-1].step == 10
