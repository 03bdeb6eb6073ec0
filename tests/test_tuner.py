"""Searches with real oracles and real runs of a tiny task."""

from __future__ import annotations

import csv
import dataclasses
import errno
import gc
import json
import os
import weakref
from pathlib import Path
from typing import Any

import pytest
from keras import ops

import lightkeras as lk
from lightkeras.runs import checkpoint
from lightkeras.runs.results import Trial
from lightkeras.search import repeat_trial
from lightkeras.system.locks import run_lock
from lightkeras.testing import TwoMoons

QUICK = lk.Runner(max_epochs=2, progress=False)
BARE = lk.Runner(max_epochs=2, progress=False, pictures=False, export=False)


def tuner(folder: Path, task: type[lk.Task] = TwoMoons, **settings: Any) -> lk.Tuner:
    given = {"run_dir": folder / "search", "trials": 2, "runner": QUICK, "workers": 0, **settings}
    return lk.Tuner(task, **given)


class Fragile(TwoMoons):
    """Diverges, raises, or never gets a number for validation, by its hyperparameters."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """What goes wrong."""

        fate: str = lk.Choice("well", ["well", "diverges", "raises", "infinite", "no number"])
        learning_rate: float = 1e-2
        hidden_units: int = 4
        batch_size: int = 160

    def build_optimizer(self):
        if self.hp.fate == "raises":
            raise RuntimeError("no such optimizer of this name")
        return super().build_optimizer()

    def loss(self, batch, training):
        value = super().loss(batch, training)
        if self.hp.fate == "diverges" and training:
            # Finite on the first batch, which is tried before anything is written.
            return value / ops.cast(self.optimizer.iterations < 3, "float32")
        if self.hp.fate in ("infinite", "no number") and not training:
            # After the first epoch; what is wrong before it, the preflight finds.
            broken = float("inf" if self.hp.fate == "infinite" else "nan")
            return value * ops.where(self.optimizer.iterations > 0, broken, 1.0)
        return value


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[lk.SearchResult, list[Trial]]:
    told: list[Trial] = []
    result = tuner(tmp_path_factory.mktemp("tuner"), trials=3, on_trial=told.append).search()
    return result, told


def test_a_search_shows_what_it_found(searched):
    result, told = searched
    assert (result.objective, result.mode) == ("val/loss", "min")
    assert [trial.name for trial in result.trials] == ["0000", "0001", "0002"]
    assert list(result.trials) == told
    assert {trial.status for trial in result.trials} == {"completed"}
    assert result.best.objective == min(trial.objective for trial in result.trials)
    for trial in result.trials:
        assert 4 <= trial.hparams["hidden_units"] <= 32
        assert trial.hparams["hidden_units"] % 4 == 0
        assert 1e-3 <= trial.hparams["learning_rate"] <= 1e-1
        assert trial.hparams["batch_size"] == 32
        assert trial.run_dir == result.run_dir / "trials" / trial.name


def test_trials_csv_has_a_row_per_trial(searched):
    result, _ = searched
    with open(result.run_dir / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    hparams = ["hidden_units", "learning_rate", "batch_size"]
    assert list(rows[0]) == ["trial", "status", "val/loss", *hparams, "epochs", "wall_s", "reason"]
    for row, trial in zip(rows, result.trials, strict=True):
        assert row["trial"] == trial.name
        assert float(row["val/loss"]) == pytest.approx(trial.objective, rel=1e-8)
        assert float(row["learning_rate"]) == trial.hparams["learning_rate"]
        assert row["reason"] == "max_epochs=2 reached"


def test_result_json_names_the_best_trial(searched):
    result, _ = searched
    found = json.loads((result.run_dir / "result.json").read_text())
    wall_s = found["search"].pop("wall_s")
    assert wall_s == pytest.approx(result.wall_s, abs=1e-3)
    assert found == {
        "task": "TwoMoons",
        "search": {
            "objective": "val/loss",
            "mode": "min",
            "trials": 3,
            "completed": 3,
            "pruned": 0,
            "failed": 0,
            "stop_reason": "trials=3 reached",
            "epochs": 6,
            "best": {
                "trial": result.best.name,
                "run_dir": str(result.best.run_dir),
                "value": result.best.objective,
                "hparams": dict(result.best.hparams),
            },
            "seeds": [],
            "refit": None,
        },
    }


def test_config_json_shows_how_it_was_searched(searched):
    result, _ = searched
    found = json.loads((result.run_dir / "config.json").read_text())
    assert found["task"] == "TwoMoons"
    assert found["search"] == {
        "objective": "val/loss",
        "mode": "min",
        "oracle": "random",
        "trials": 3,
        "seed": 0,
        "fixed": {},
        "space": {},
        "pruning": {"rule": None, "first": 1, "trials": 3, "factor": 3},
        "chance": {"value": None, "epochs": 3},
        "seeds": 0,
        "top": 3,
        "refit": False,
        "folds": None,
        "stratified": False,
        "workers": 0,
        "pool": "local",
        "address": None,
        "gpus": 0.0,
        "retries": 1,
        "limits": {"silence": 600.0, "memory_gb": None, "runs": 50},
    }
    assert found["tried"] == {"hidden_units": "4 to 32 in steps of 4", "learning_rate": "0.001 to 0.1, log scale"}
    assert found["runner"]["max_epochs"] == 2
    assert len(found["data"]["fingerprint"]) == 32


def test_every_trial_can_be_evaluated_later_with_the_number_it_reported(searched):
    result, _ = searched
    for trial in result.trials:
        task = TwoMoons(TwoMoons.HParams(**trial.hparams))
        found = lk.Runner(run_dir=trial.run_dir).evaluate(task, weights="best", split="validation")
        assert found["loss"] == pytest.approx(trial.objective, abs=1e-6)


def test_the_same_seed_gives_the_same_trials_and_values(searched, tmp_path):
    again = tuner(tmp_path, trials=2, runner=BARE).search()
    assert [(trial.hparams, trial.objective) for trial in again.trials] == [
        (trial.hparams, trial.objective) for trial in searched[0].trials[:2]
    ]


def test_a_directory_that_holds_a_search_is_refused_and_left_alone(searched):
    result, _ = searched
    before = {path: path.stat().st_mtime_ns for path in result.run_dir.rglob("*")}
    with pytest.raises(FileExistsError, match=r"already holds another run"):
        tuner(result.run_dir.parent).search()
    assert {path: path.stat().st_mtime_ns for path in result.run_dir.rglob("*")} == before


def test_a_directory_that_holds_a_run_is_refused(searched):
    with pytest.raises(FileExistsError, match=r"already holds another run"):
        tuner(searched[0].run_dir, run_dir=searched[0].trials[0].run_dir).search()


@pytest.mark.parametrize(
    "objective", ["val/los", *(pytest.param(name, marks=pytest.mark.long) for name in ("val_loss", "test/loss"))]
)
def test_a_misspelled_objective_is_refused_before_anything_is_written(tmp_path, objective):
    with pytest.raises(ValueError, match=rf"objective='{objective}': no epoch logs that\. Did you mean '\w+/loss'\?"):
        tuner(tmp_path, objective=objective).search()
    assert list(tmp_path.iterdir()) == []


def test_an_objective_whose_name_tells_no_direction_needs_one(tmp_path):
    class Named(TwoMoons):
        def loss(self, batch, training):
            self.log("score", 1.0)
            return super().loss(batch, training)

    with pytest.raises(ValueError, match=r"'val/score' does not show whether lower or higher is better: .*mode='max'"):
        tuner(tmp_path, Named, objective="val/score").search()
    assert list(tmp_path.iterdir()) == []
    assert tuner(tmp_path, Named, objective="val/score", mode="max", trials=1, runner=BARE).search().mode == "max"


def test_an_accuracy_is_searched_upwards_by_the_oracle_that_was_named(tmp_path):
    result = tuner(tmp_path, objective="val/accuracy", oracle="bayesian", trials=3, runner=BARE).search()
    assert result.mode == "max"
    assert result.best.objective == max(trial.objective for trial in result.trials)
    assert len({trial.objective for trial in result.trials}) > 1


@pytest.mark.long
def test_what_is_fixed_is_not_searched(tmp_path):
    result = tuner(tmp_path, runner=BARE, fixed={"hidden_units": 5, "batch_size": 160}).search()
    assert [(t.hparams["hidden_units"], t.hparams["batch_size"]) for t in result.trials] == [(5, 160)] * 2
    assert len({trial.hparams["learning_rate"] for trial in result.trials}) == 2


def test_an_empty_space_is_refused_before_anything_is_written(tmp_path):
    fixed = {"hidden_units": 5, "learning_rate": 0.01}
    with pytest.raises(
        ValueError, match=r"nothing to search: of the ranges of TwoMoons\.HParams, hidden_units, .* are fixed\. Declare"
    ):
        tuner(tmp_path, fixed=fixed).search()

    class Plain(lk.Task):
        """Declares nothing."""

    with pytest.raises(ValueError, match=r"NoHParams declares no ranges\. Declare a hyperparameter"):
        tuner(tmp_path, Plain).search()
    assert list(tmp_path.iterdir()) == []


def test_trials_that_go_wrong_are_failed_with_their_reason_and_never_best(tmp_path, capfd):
    result = tuner(tmp_path, Fragile, oracle="grid", trials=None, runner=BARE).search()
    assert capfd.readouterr().out == ""  # keras-tuner would say a lot
    found = {trial.hparams["fate"]: trial for trial in result.trials}
    assert len(result.trials) == 5
    assert {fate for fate, trial in found.items() if trial.status == "completed"} == {"well"}
    assert result.best == found["well"]
    assert found["raises"].reason == "RuntimeError: no such optimizer of this name"
    assert found["diverges"].reason.startswith("train/loss became inf at step 4 (epoch 2, batch 2): ")
    assert found["infinite"].reason == "diverged: val/loss is inf after epoch 1"
    assert found["no number"].reason == "diverged: val/loss is nan after epoch 1"
    assert all(trial.objective is None for fate, trial in found.items() if fate != "well")
    assert json.loads((result.run_dir / "result.json").read_text())["search"]["failed"] == 4
    with open(result.run_dir / "trials.csv") as file:
        assert [row["val/loss"] == "" for row in csv.DictReader(file)].count(True) == 4


def test_a_search_without_a_success_has_no_best(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class HParams(Fragile.HParams):
        fate: str = "raises"
        learning_rate: float = lk.Float(0.1, low=0.1, high=0.2)

    class Hopeless(Fragile):
        def build_optimizer(self):
            if self.hp.learning_rate > 0.1:
                raise RuntimeError("never")
            return TwoMoons.build_optimizer(self)

    Hopeless.HParams = HParams
    result = tuner(tmp_path, Hopeless, runner=BARE).search()
    assert result.best is None
    assert [trial.reason for trial in result.trials] == ["RuntimeError: never"] * 2
    assert not result.best_dir.exists()
    assert json.loads((result.run_dir / "result.json").read_text())["search"]["best"] is None


def test_hyperband_grants_each_trial_its_epochs(tmp_path):
    result = tuner(tmp_path, oracle="hyperband", trials=4, runner=lk.Runner(max_epochs=3, progress=False)).search()
    # Factor 3 and 3 epochs: the best of 3 trials continues.
    epochs = [json.loads((trial.run_dir / "result.json").read_text())["fit"]["epochs"] for trial in result.trials]
    assert epochs == [1, 1, 1, 3]
    best = min(result.trials[:3], key=lambda trial: trial.objective)
    assert result.trials[3].hparams == best.hparams
    # It resumed from that checkpoint, and equals a run that never stopped.
    config = json.loads((result.trials[3].run_dir / "config.json").read_text())
    assert config["resumed"][0]["step"] == 10
    again = lk.Runner(max_epochs=3, progress=False, monitor="val/loss", run_dir=tmp_path / "again")
    again.fit(TwoMoons(TwoMoons.HParams(**best.hparams)))
    found, expected = (
        checkpoint.load(checkpoint.find(folder / "checkpoints", "last")).arrays
        for folder in (result.trials[3].run_dir, tmp_path / "again")
    )
    assert {key: array.tobytes() for key, array in found.items()} == {
        key: array.tobytes() for key, array in expected.items()
    }


@pytest.mark.long
def test_yes_or_no_keeps_its_type(tmp_path):
    class Typed(TwoMoons):
        @dataclasses.dataclass(frozen=True)
        class HParams(TwoMoons.HParams):
            """One more."""

            wide: bool = lk.Bool(False)

    fixed = {"hidden_units": 4, "learning_rate": 0.01}
    result = tuner(tmp_path, Typed, oracle="grid", trials=None, fixed=fixed).search()
    assert [trial.status for trial in result.trials] == ["completed"] * 2
    assert [trial.hparams["wide"] for trial in result.trials] == [False, True]
    assert all(type(trial.hparams["wide"]) is bool for trial in result.trials)


def test_the_trials_that_were_finished_before_an_interruption_are_kept(tmp_path):
    def interrupt(trial: Trial) -> None:
        if trial.name == "0001":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuner(tmp_path, trials=5, runner=dataclasses.replace(BARE, max_epochs=1), on_trial=interrupt).search()
    rows = (tmp_path / "search" / "trials.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["trial", "0000", "0001"]


def test_tasks_of_earlier_trials_are_released(tmp_path):
    alive: weakref.WeakSet[lk.Task] = weakref.WeakSet()

    class Counted(TwoMoons):
        def build_optimizer(self):
            alive.add(self)
            return super().build_optimizer()

    most = 0

    def count(trial: Trial) -> None:
        nonlocal most
        gc.collect()
        most = max(most, len(alive))

    tuner(tmp_path, Counted, trials=3, runner=dataclasses.replace(BARE, max_epochs=1), on_trial=count).search()
    assert most <= 2


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_trials": 5}, TypeError, r"Tuner\(max_trials=\.\.\.\): there is no .* Tuner\(task, trials=20\)\."),
        ({"overwrite": True}, TypeError, r"Tuner\(overwrite=\.\.\.\): .*give another run_dir, or resume it"),
        ({"epochs": 3}, TypeError, r"has it in `runner`: Tuner\(task, runner=Runner\(max_epochs=10\)\)\."),
        ({"orcale": "grid"}, TypeError, r"Tuner\(orcale=\.\.\.\): .* Did you mean 'oracle'\? Valid names: address, "),
        ({"oracle": "bayes"}, ValueError, r"Tuner\(oracle='bayes'\) is not known\. Did you mean 'bayesian'\?"),
    ],
)
def test_invalid_settings_raise_at_once(settings, error, message):
    with pytest.raises(error, match=message):
        lk.Tuner(**{"task": TwoMoons, **settings})


def test_the_best_is_a_run_directory_ready_to_test_and_to_predict_with(searched):
    result, _ = searched
    assert json.loads((result.best_dir / "config.json").read_text())["hparams"] == result.best.hparams
    task = TwoMoons(TwoMoons.HParams(**result.best.hparams))
    found = lk.Runner(run_dir=result.best_dir).evaluate(task, weights="best", split="validation")
    assert found["loss"] == pytest.approx(result.best.objective, abs=1e-6)
    assert (result.best_dir / "model.keras").is_file()
    assert not list(result.best_dir.glob("events.*"))  # TensorBoard would list the run twice
    assert [trial.name for trial in result.trials if (trial.run_dir / "model.keras").exists()] == [result.best.name]
    assert {path.name for path in (result.run_dir / "figures").iterdir()} == {"objective.png", "hyperparameters.png"}
    assert (result.run_dir / "report.html").is_file()


def test_a_search_that_has_ended_resumes_to_the_same_end(searched):
    result, _ = searched
    before = (result.run_dir / "trials.csv").read_bytes()
    told: list[Trial] = []
    again = tuner(result.run_dir.parent, trials=3, on_trial=told.append).search(resume=True)
    assert told == []
    assert again.trials == result.trials
    assert (result.run_dir / "trials.csv").read_bytes() == before


def repeated(*values: Any) -> Any:
    """Settings that are compared as the others are."""
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        (
            {"space": {"hidden_units": {"low": 8}}},
            r"tried\.hidden_units was '4 to 32 in steps of 4' and is '8 to 32 in",
        ),
        repeated(
            {"fixed": {"hidden_units": 8}}, r"tried\.hidden_units was '4 to 32 in steps of 4' and is 'fixed to 8'"
        ),
        repeated({"objective": "train/loss"}, r"search\.objective was 'val/loss' and is 'train/loss'"),
        repeated({"seed": 1}, r"search\.seed was 0 and is 1"),
        ({"runner": lk.Runner(max_epochs=3, progress=False)}, r"runner\.max_epochs was 2 and is 3"),
    ],
)
def test_another_search_is_not_resumed_in_the_directory_and_the_changes_are_named(searched, settings, change):
    result, _ = searched
    with pytest.raises(lk.ChangedRunError, match=rf"not the search that was started in this directory: .*{change}"):
        tuner(result.run_dir.parent, **{"trials": 3, **settings}).search(resume=True)


def test_a_run_is_not_resumed_as_a_search(searched):
    result, _ = searched
    with pytest.raises(ValueError, match=r"holds a run, not a search"):
        tuner(result.run_dir, run_dir=result.best.run_dir).search(resume=True)
    with pytest.raises(ValueError, match=r"resume=True \(--resume\) needs the run_dir of the search"):
        lk.Tuner(TwoMoons).search(resume=True)


def test_two_searches_at_a_time_in_one_directory_are_refused(searched):
    result, _ = searched
    with run_lock(result.run_dir / "run.lock"), pytest.raises(lk.RunLockedError, match=r"in use by another run"):
        tuner(result.run_dir.parent, trials=3).search(resume=True)


def test_a_full_disk_ends_the_search_which_can_be_resumed_when_there_is_room(searched, tmp_path, monkeypatch):
    result, _ = searched
    pwrite, calls = os.pwrite, 0

    def full(descriptor: int, content: Any, offset: int) -> int:
        nonlocal calls
        calls += b"event" in bytes(content)
        if calls >= 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"could not write .*: No space left on device"):
        tuner(tmp_path, trials=3, runner=BARE).search()
    monkeypatch.undo()
    again = tuner(tmp_path, trials=3, runner=BARE).search(resume=True)
    assert [(trial.hparams, trial.objective) for trial in again.trials] == [
        (trial.hparams, trial.objective) for trial in result.trials
    ]


def test_the_best_few_are_run_with_other_seeds_and_the_best_is_fitted_on_all(tmp_path):
    runner = lk.Runner(max_epochs=1, progress=False)
    result = tuner(tmp_path, seeds=2, top=1, refit=True, runner=runner).search()
    best = min(result.trials, key=lambda trial: trial.objective)
    assert list(result.repeats) == [best.name]
    assert len(set(result.repeats[best.name]) | {best.objective}) == 3
    (told,) = json.loads((result.run_dir / "result.json").read_text())["search"]["seeds"]
    assert told["mean"] == pytest.approx(sum(told["values"]) / 2)
    assert told["spread"] == pytest.approx(abs(told["values"][0] - told["values"][1]) / 2**0.5)
    assert result.refit == tmp_path / "search" / "refit"
    config = json.loads((result.best_dir / "config.json").read_text())
    assert config["data"]["batches"] == (320 + 100 + 31) // 32
    assert config["hparams"] == best.hparams


def test_a_trial_is_replayed_to_the_bit_in_a_new_process_and_what_changed_is_named(searched):
    result, _ = searched
    file = result.trials[1].run_dir / "config.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | {"seed": 0, "code": {"TwoMoons": "another"}}))
    try:
        found = repeat_trial.replay(TwoMoons, result.run_dir, "0001")
    finally:
        file.write_text(before)
    assert found.equal, found.different
    assert (found.before, found.now) == (result.trials[1].objective, result.trials[1].objective)
    assert found.changed == ("code.TwoMoons was 'another' and is None",)
    assert "the same to the bit" in found.lines()["replay"]


def test_more_workers_than_cores_are_warned_of(tmp_path):
    class Local(TwoMoons):
        """Cannot be imported by workers, which comes after the warning."""

    with (
        pytest.warns(UserWarning, match=r"Tuner\(workers=999\): this machine has only \d+ cores"),
        pytest.raises(TypeError),
    ):
        tuner(tmp_path, Local, workers=999).search()


def test_a_search_that_ends_before_its_trials_says_why(tmp_path, capfd):
    space = {"hidden_units": {"low": 4, "high": 8}}
    result = tuner(tmp_path, fixed={"learning_rate": 0.01}, space=space, trials=5, runner=BARE).search()
    reason = "the space is exhausted: all its 2 combinations were tried"
    assert (len(result.trials), result.stop_reason) == (2, reason)
    assert f"lightkeras: the search ended after 2 of 5 trials: {reason}\n" in capfd.readouterr().err
    assert json.loads((result.run_dir / "result.json").read_text())["search"]["stop_reason"] == reason


def test_a_search_is_extended_after_its_end_and_a_grid_cut_by_its_trials_says_so(tmp_path, capfd):
    runner = dataclasses.replace(BARE, max_epochs=1)
    settings = {"fixed": {"learning_rate": 0.01}, "space": {"hidden_units": {"high": 16}}, "runner": runner}
    first = tuner(tmp_path, oracle="grid", trials=2, **settings).search()
    cut = "the grid has 4 combinations, and trials=2 ends the search after as many"
    assert cut in capfd.readouterr().err
    assert first.stop_reason == "trials=2 reached of the 4 combinations of the grid"
    more = tuner(tmp_path, oracle="grid", trials=3, **settings).search(resume=True)
    assert more.trials[:2] == first.trials
    assert [trial.hparams["hidden_units"] for trial in more.trials] == [4, 8, 12]
    with pytest.raises(lk.ChangedRunError, match=r"search\.trials was 3 and is 2"):
        tuner(tmp_path, oracle="grid", trials=2, **settings).search(resume=True)
    whole = tuner(tmp_path, oracle="grid", trials=None, **settings).search(resume=True)
    assert [trial.hparams["hidden_units"] for trial in whole.trials] == [4, 8, 12, 16]
    assert len((whole.run_dir / "trials.csv").read_text().splitlines()) == 1 + 4
    assert cut not in capfd.readouterr().err
