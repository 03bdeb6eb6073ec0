"""Searches whose trials are cross-validations: `Tuner(folds=...)`."""

import csv
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import time
from pathlib import Path

import forked
import numpy as np
import pytest
from keras import ops

import lightkeras as lk
from lightkeras.testing import TwoMoons

QUICK = lk.Runner(max_epochs=2, progress=False, export=False)


def tuner(folder, task=TwoMoons, **settings):
    given = {"run_dir": folder / "search", "trials": 2, "runner": QUICK, "workers": 0, "folds": 3} | settings
    return lk.Tuner(task, **given)


def bests_of(trial):
    runs = sorted(trial.run_dir.glob("fold_*"))
    return [json.loads((run / "result.json").read_text())["fit"]["best"] for run in runs]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    return tuner(tmp_path_factory.mktemp("folds"), stratified=True).search()


def test_a_trial_has_the_mean_and_the_spread_of_a_cross_validation(searched, tmp_path):
    trial = searched.trials[0]
    hp = TwoMoons.HParams(**trial.hparams)
    runner = dataclasses.replace(QUICK, run_dir=tmp_path / "alone", monitor="val/loss", mode="min", pictures=False)
    alone = lk.cross_validate(lambda: TwoMoons(hp), folds=3, stratified=True, runner=runner)
    values = [fold.best.value for fold in alone.folds]
    assert trial.objective == pytest.approx(np.mean(values), rel=1e-12)
    assert trial.spread == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert (trial.epochs, trial.reason) == (6, "3 folds")


def test_each_fold_is_a_run_in_the_directory_of_its_trial(searched):
    for trial in searched.trials:
        runs = sorted(path.name for path in trial.run_dir.iterdir() if (path / "metrics.csv").exists())
        assert runs == ["fold_1", "fold_2", "fold_3"]
        values = [
            json.loads((trial.run_dir / run / "result.json").read_text())["fit"]["best"]["val/loss"] for run in runs
        ]
        assert trial.objective == statistics.fmean(values)


def test_tables_files_and_the_report_show_mean_and_spread(searched):
    rows = list(csv.DictReader((searched.run_dir / "trials.csv").read_text().splitlines()))
    assert [float(row["std"]) for row in rows] == pytest.approx([trial.spread for trial in searched.trials])
    assert "std" in str(searched)
    found = json.loads((searched.run_dir / "result.json").read_text())["search"]
    assert found["best"]["std"] == searched.best.spread
    assert [one["spread"] for one in found["folds"]] == [trial.spread for trial in searched.trials]
    page = (searched.run_dir / "report.html").read_text()
    assert "Mean and spread over folds" in page
    assert f"{searched.best.objective:.4f} \N{PLUS-MINUS SIGN} {searched.best.spread:.4f}" in page


def test_the_best_trial_is_fitted_on_all_examples_and_exported(searched):
    assert searched.refit == searched.run_dir / "refit"
    epochs = round(statistics.fmean(best["epoch"] for best in bests_of(searched.best)))
    assert json.loads((searched.refit / "result.json").read_text())["fit"]["epochs"] == epochs
    assert (searched.best_dir / "model.keras").exists()


PROGRAM = """
import sys
from pathlib import Path
import lightkeras as lk
from lightkeras.testing import TwoMoons

runner = lk.Runner(max_epochs=2, progress=False, export=False)
tuner = lk.Tuner(
    TwoMoons, run_dir=Path(sys.argv[1]), trials=2, runner=runner, workers=0, folds=3, stratified=True
)
tuner.search(resume=True)
"""


@pytest.mark.long
def test_a_search_that_is_killed_and_resumed_has_the_same_trials(searched, tmp_path):
    folder = tmp_path / "search"
    run = forked.Process(["-c", PROGRAM, folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (folder / "trials/0000/fold_2/result.json").exists():  # the last fold of the first trial is left
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait(60)
    finished = folder / "trials/0000/fold_1/metrics.csv"
    before = finished.read_bytes()
    again = tuner(tmp_path, stratified=True).search(resume=True)
    assert finished.read_bytes() == before
    assert [trial.hparams for trial in again.trials] == [trial.hparams for trial in searched.trials]
    assert [(t.objective, t.spread) for t in again.trials] == [(t.objective, t.spread) for t in searched.trials]
    assert again.best.name == searched.best.name


def test_other_folds_are_another_search(searched):
    with pytest.raises(lk.ChangedRunError, match=r"search.folds: 3 -> 4|search.folds.*3.*4"):
        tuner(searched.run_dir.parent, stratified=True, folds=4).search(resume=True)


class Streamed(TwoMoons):
    def build_data(self):
        whole = super().build_data()

        class Data(lk.DataModule):
            def prepare(self, lookup):
                whole.prepare(lookup)

            def train(self):
                x, y = whole.train().arrays
                return lambda: iter([(x, y)])

        return Data()


class Nothing(TwoMoons):
    def build_data(self):
        return None


@pytest.mark.parametrize(
    ("task", "settings", "error", "message"),
    [
        (Streamed, {}, TypeError, "Data streams its batches: folds need the examples in memory"),
        (Nothing, {}, ValueError, "folds=3 needs a data module: Nothing.build_data returns None"),
        (TwoMoons, {"folds": 100_000}, ValueError, r"folds=100000 of \d+ examples: expected at most one fold"),
        (TwoMoons, {"folds": 300, "stratified": True}, ValueError, r"Class \d has \d+ examples, fewer than folds="),
    ],
)
def test_data_that_cannot_be_folded_is_refused_before_anything_is_written(tmp_path, task, settings, error, message):
    with pytest.raises(error, match=message):
        tuner(tmp_path, task, **settings).search()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 1}, r"Tuner\(folds=1\): expected a whole number of at least 2, or None"),
        ({"folds": None, "stratified": True}, r"Tuner\(stratified=True\) needs folds"),
        (
            {"oracle": "hyperband", "trials": None},
            r"Tuner\(folds=3, oracle='hyperband'\): it compares the epochs of one",
        ),
        ({"pruning": lk.Pruning("median")}, r"Tuner\(folds=3, pruning\): it compares the epochs of one run"),
        ({"chance": lk.Chance(0.5)}, r"Tuner\(folds=3, chance\): it compares the epochs of one run"),
    ],
)
def test_settings_that_compare_epochs_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        tuner(tmp_path, **settings)


class Diverges(TwoMoons):
    def loss(self, batch, training):
        value = super().loss(batch, training)
        finite = ops.cast(self.optimizer.iterations < 3, "float32")
        return value / finite if training else value


def test_a_fold_that_fails_fails_the_trial(tmp_path):
    result = tuner(tmp_path, Diverges, trials=1).search()
    (trial,) = result.trials
    assert (trial.status, trial.objective, trial.spread) == ("failed", None, None)
    assert trial.reason.startswith("fold 1: ")
    assert result.best is None


@pytest.mark.long
def test_workers_do_the_folds_too(searched, tmp_path):
    result = tuner(tmp_path, stratified=True, workers=1).search()
    assert [(t.objective, t.spread) for t in result.trials] == [(t.objective, t.spread) for t in searched.trials]


def test_a_trial_of_folds_is_not_replayed(searched):
    from lightkeras.search import repeat_trial

    with pytest.raises(ValueError, match=r"trials are cross-validations.*lk.cross_validate with the trial's"):
        repeat_trial.replay(TwoMoons, Path(searched.run_dir), "best")
