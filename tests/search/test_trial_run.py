"""One run of a search: its directory, its reports, and its outcome."""

import errno
import math
from types import SimpleNamespace

import pytest

from lightkeras.data import reuse
from lightkeras.runner import Runner
from lightkeras.runs.results import Best, FitResult
from lightkeras.search import trial_run
from lightkeras.search.records import COMPLETED, FAILED, Outcome
from lightkeras.search.reporter import Reporter
from lightkeras.search.trial_run import Job, OutOfMemoryError
from lightkeras.task import Task
from lightkeras.testing import TwoMoons


def job(folder, objective="val/loss", **more):
    return Job("trials/0000", {}, Runner(run_dir=folder / "run", progress=False, max_epochs=1), objective, **more)


def fit_result(folder, value=0.5, **changed):
    best = None if value is None else Best(2, 7, value, {"val/loss": value})
    given = {"run_dir": folder, "epochs": 3, "steps": 9, "stop_reason": "max_epochs=3 reached", "monitor": "val/loss"}
    return FitResult(**{**given, "best": best, "history": {}, "wall_s": 1.0, **changed})


def test_a_new_run_has_an_empty_directory_and_one_that_has_begun_keeps_its_own(tmp_path):
    folder = tmp_path / "run"
    trial_run.prepare(job(tmp_path))
    assert list(folder.iterdir()) == []
    (folder / "left").write_text("of an attempt that ended before its configuration was written")
    trial_run.prepare(job(tmp_path))
    assert list(folder.iterdir()) == []
    (folder / "config.json").write_text("{}")
    trial_run.prepare(job(tmp_path, parent=tmp_path / "nowhere"))
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_run_that_continues_another_begins_with_a_copy_of_its_state(tmp_path):
    parent = tmp_path / "parent"
    (parent / "checkpoints").mkdir(parents=True)
    (parent / "figures").mkdir()
    for name in (
        "config.json",
        "checkpoints/last",
        "figures/a.png",
        "result.json",
        "run.lock",
        "output.txt",
        "mlflow.run.json",
    ):
        (parent / name).write_text(name)
    (tmp_path / ".run.part").mkdir()  # of an attempt that was killed
    trial_run.prepare(job(tmp_path, parent=parent))
    files = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert files == {"config.json", "checkpoints/last"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parent", "run"]


def test_the_objective_is_reported_from_epoch_1_and_a_reason_stops_the_run():
    told = []
    reporter = Reporter(
        "val/loss", lambda epoch, value: told.append((epoch, value)) or ("worse" if value > 1 else None)
    )
    reporter.set_model(SimpleNamespace(stop_training=False))
    reporter.on_epoch_end(0, {"val_loss": 0.5, "loss": 9.0})
    reporter.on_epoch_end(1, {"loss": 9.0})
    reporter.on_epoch_end(2)
    assert (told, reporter.model.stop_training) == ([(1, 0.5)], False)
    reporter.on_epoch_end(3, {"val_loss": 2})
    assert (told[1:], reporter.model.stop_training) == ([(4, 2.0)], True)
    assert reporter.state_dict() == {}


def test_a_run_with_a_best_value_is_completed(tmp_path):
    found = trial_run._outcome(fit_result(tmp_path), job(tmp_path))
    assert found == Outcome(COMPLETED, "max_epochs=3 reached", 0.5, 2, 7, 3, 9)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"diverged": True, "stop_reason": "nan at step 3"}, "nan at step 3"),
        ({"value": None}, "max_epochs=3 reached"),
        ({"value": math.inf}, "diverged: val/loss is inf after epoch 2"),
    ],
)
def test_a_run_without_a_finite_best_value_has_failed(tmp_path, changed, reason):
    found = trial_run._outcome(fit_result(tmp_path, **changed), job(tmp_path))
    assert found == Outcome(FAILED, reason, epochs=3, steps=9)
    assert not (tmp_path / "run").exists()


def test_the_value_of_folds_is_their_mean_with_its_spread(tmp_path):
    folds = [fit_result(tmp_path, value=value) for value in (0.5, 0.75, 1.0)]
    found = trial_run._outcome_of_folds(folds)
    assert found == Outcome(COMPLETED, "3 folds", 0.75, 2, 7, 9, 27, spread=0.25)
    broken = [folds[0], fit_result(tmp_path, diverged=True, stop_reason="nan at step 3"), folds[2]]
    assert trial_run._outcome_of_folds(broken) == Outcome(FAILED, "fold 2: nan at step 3", epochs=9, steps=27)


@pytest.fixture
def fits(monkeypatch):
    """What fits raise or return, and what was said of them to the data modules that are reused."""
    found = SimpleNamespace(result=None, committed=[], runners=[])

    def fit(job, task, lookup, runner):
        found.runners.append(runner)
        if isinstance(found.result, BaseException):
            raise found.result
        return found.result

    monkeypatch.setattr(trial_run, "_fit", fit)
    monkeypatch.setattr(reuse, "commit", lambda ended_well: found.committed.append(ended_well))
    return found


def test_a_run_reports_its_objective_if_it_has_one_and_shows_no_bar(tmp_path, fits):
    (tmp_path / "run").mkdir()
    fits.result = fit_result(tmp_path)
    assert trial_run.run(job(tmp_path), TwoMoons, None, print).status == COMPLETED
    trial_run.run(job(tmp_path, objective=None), TwoMoons, None, print)
    assert [[type(callback) for callback in runner.callbacks] for runner in fits.runners] == [[Reporter], []]
    assert fits.committed == [True, True]
    assert not fits.runners[0].progress


def test_a_run_that_raises_has_failed_with_its_error(tmp_path, fits):
    fits.result = RuntimeError("no model")
    found = trial_run.run(job(tmp_path), TwoMoons, None, print)
    assert (found.status, found.reason, found.value) == (FAILED, "RuntimeError: no model", None)
    assert 0 <= found.wall_s < 60
    assert fits.committed == [False]


def test_a_full_disk_ends_the_search_and_another_error_of_the_system_the_run(tmp_path, fits):
    fits.result = OSError(errno.ENOSPC, "no space")
    with pytest.raises(OSError, match="no space"):
        trial_run.run(job(tmp_path), TwoMoons, None, print)
    fits.result = OSError(errno.EACCES, "not yours")
    assert trial_run.run(job(tmp_path), TwoMoons, None, print).status == FAILED


@pytest.mark.parametrize(("text", "expected"), [("9 GB\nmore", "9 GB"), ("", "no message")])
def test_without_memory_the_process_must_end(tmp_path, fits, text, expected):
    fits.result = MemoryError(text)
    with pytest.raises(OutOfMemoryError, match=f"^MemoryError: {expected}$"):
        trial_run.run(job(tmp_path), TwoMoons, None, print)


def test_a_task_is_summarized_without_writing_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = Runner(progress=False, preflight=False)
    found = trial_run.summarize_task(TwoMoons, None, {"hidden_units": 4}, runner)
    assert found.names == ("train/accuracy", "train/loss", "val/accuracy", "val/loss")
    assert found.source == "arrays"
    assert found.data == TwoMoons().build_data().train().fingerprint()
    assert list(tmp_path.iterdir()) == []


def test_train_and_validation_are_joined_if_both_are_there(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(Runner, "fit", lambda self, task, train=None, resume=False: given.append((train, resume)))
    trial_run._fit(job(tmp_path), TwoMoons, None, Runner())
    trial_run._fit(job(tmp_path, joined=True), TwoMoons, None, Runner())
    assert given[0] == (None, False)
    assert given[1][0].examples == 320 + 100

    class Dataless(Task):
        def build_model(self):
            return TwoMoons().build_model()

        build_optimizer = TwoMoons.build_optimizer

    class Unvalidated(TwoMoons):
        def build_data(self):
            data = super().build_data()
            data.validation = lambda: None
            return data

    Dataless.build = lambda self: None
    with pytest.raises(ValueError, match="Dataless has no data module: expected one with train and validation"):
        trial_run._fit(job(tmp_path, joined=True), Dataless, None, Runner())
    with pytest.raises(ValueError, match="Unvalidated's data has no validation split to join with train"):
        trial_run._fit(job(tmp_path, joined=True), Unvalidated, None, Runner())
