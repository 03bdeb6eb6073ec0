"""What changed since a run was started, and which of its checkpoints is resumed."""

import json
import textwrap

import numpy as np
import pytest

from lightkeras.runs import checkpoint
from lightkeras.runs.checkpoint import Captured
from lightkeras.runs.directory import RunDirectory
from lightkeras.runs.resume import (
    ChangedRunError,
    Changes,
    changed_fingerprints,
    check_changes,
    choose_checkpoint,
    code_of,
    compare_configs,
    run_and_checkpoint,
    with_fingerprints,
)
from lightkeras.system.variables import CheckpointError
from lightkeras.task import SupervisedTask
from lightkeras.testing import TwoMoons

BEFORE = {
    "task": "TwoMoons",
    "hparams": {"rate": 0.1, "units": 8},
    "data": {"fingerprint": "ab", "batch_size": 32},
    "seed": 0,
    "monitor": {"name": "val/loss", "mode": "min"},
    "backend": "tensorflow",
    "code": {"TwoMoons": "12"},
    "modules": [{"handle": "h", "digest": "d"}],
    "versions": {"keras": "3.15.0"},
    "runner": {"max_epochs": 3, "preflight": True, "validate_every": 1, "callbacks": ["Own"]},
    "argv": ["a.py"],
    "started": "2026-11-24",
}

CHANGED = "the examples of {} changed, or their order"
OTHER_FILE = "the source file of the class TwoMoons changed"


# ---------------------------------------------------------------------- data by split


HELD_OUT = {"fingerprint": "v", "examples": 40}


def with_validation(validation, **train):
    return changed(data={**BEFORE["data"], **train, "validation": validation})


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        (
            {"fingerprint": "w", "examples": 40},
            [f"{CHANGED.format('validation')} (data.validation.fingerprint was 'v' and is 'w')"],
        ),
        ({"fingerprint": "v", "examples": 20}, ["data.validation.examples was 40 and is 20"]),
        (None, [f"data.validation was {HELD_OUT!r} and is None"]),
        ({"fingerprint": None, "examples": 40}, []),  # not known now, as without the preflight
    ],
)
def test_a_changed_validation_split_is_refused_by_its_name(now, lines):
    assert compare_configs(with_validation(HELD_OUT), with_validation(now)) == Changes(tuple(lines), ())
    assert changed_fingerprints(with_validation(HELD_OUT), with_validation(now)) == (
        ["validation"] if "fingerprint was" in "".join(lines) else []
    )


def test_a_run_of_an_earlier_version_has_no_record_of_validation_and_resumes():
    assert compare_configs(BEFORE, with_validation(HELD_OUT)) == Changes((), ())
    assert compare_configs(with_validation(HELD_OUT), with_validation(HELD_OUT, fingerprint=None)) == Changes((), ())


def test_another_first_batch_of_a_stream_that_is_shuffled_anew_is_warned_of():
    before, now = with_validation(HELD_OUT), with_validation({"fingerprint": "w", "examples": 20})
    changes = compare_configs(before, now, reordered=["validation"])
    assert changes.refused == ("data.validation.examples was 40 and is 20",)
    assert "data.validation begins with another batch: its source orders each epoch anew" in changes.warned[0]


def test_fingerprints_that_are_not_known_now_are_kept():
    before = {"fingerprint": "ab", "validation": {"fingerprint": "v"}}
    now = {"fingerprint": None, "batches": 3, "validation": {"fingerprint": None, "batches": 2}}
    expected = {"fingerprint": "ab", "batches": 3, "validation": {"fingerprint": "v", "batches": 2}}
    assert with_fingerprints(now, before) == expected
    assert with_fingerprints(now, {"fingerprint": None}) == now


# ---------------------------------------------------------------------- what changed


def changed(**parts):
    return {**BEFORE, **parts}


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (changed(task="Other"), "task was 'TwoMoons' and is 'Other'"),
        (changed(hparams={"rate": 0.2, "units": 8}), "hparams.rate was 0.1 and is 0.2"),
        (changed(hparams={"rate": 0.1}), "hparams.units was 8 and is None"),
        (changed(hparams={"rate": 0.1, "units": 8, "new": 1}), "hparams.new was None and is 1"),
        (
            changed(data={"fingerprint": "cd", "batch_size": 32}),
            f"{CHANGED.format('train')} (data.train.fingerprint was 'ab' and is 'cd')",
        ),
        (changed(data={"fingerprint": "ab", "batch_size": 16}), "data.train.batch_size was 32 and is 16"),
        (changed(seed=1), "seed was 0 and is 1"),
        (changed(hparams={"rate": 0.1, "units": 8, "\x1b[2J": 1}), r"hparams.\x1b[2J was None and is 1"),
        (changed(monitor={"name": "val/loss", "mode": "max"}), "monitor.mode was 'min' and is 'max'"),
    ],
)
def test_another_experiment_is_refused(now, line):
    assert compare_configs(BEFORE, now) == Changes((line,), ())


def runner(**settings):
    return changed(runner={**BEFORE["runner"], **settings})


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (changed(backend="jax"), "backend was 'tensorflow' and is 'jax'"),
        (
            changed(code={"TwoMoons": "34"}),
            f"{OTHER_FILE} (code.TwoMoons was '12' and is '34')",
        ),
        (changed(versions={"keras": "3.16.0"}), "versions.keras was '3.15.0' and is '3.16.0'"),
        (runner(preflight=False), "preflight was True and is False"),
        (runner(validate_every="9 steps"), "validate_every was 1 and is '9 steps'"),
        (runner(callbacks=[]), "callbacks was ['Own'] and is []"),
    ],
)
def test_what_may_change_the_numbers_is_warned_of(now, line):
    assert compare_configs(BEFORE, now) == Changes((), (line,))


@pytest.mark.parametrize("now", [changed(), changed(argv=["b.py"], started="2027"), runner(max_epochs=9, max_time=3.0)])
def test_a_change_without_effect_is_not_reported(now):
    assert compare_configs(BEFORE, now) == Changes((), ())


def test_the_json_form_of_a_value_is_not_a_change():
    now = changed(hparams={"rate": 0.1, "units": 8, "sizes": (1, (2, 3))}, code={"TwoMoons": "12"})
    before = json.loads(json.dumps(now))
    assert compare_configs(before, now) == Changes((), ())


def test_all_that_is_refused_is_named_at_once_with_what_to_do():
    changes = compare_configs(BEFORE, changed(seed=2, task="Other", backend="jax"))
    message = (
        r"^This is not the run that was started in this directory: task was 'TwoMoons' and is 'Other'; "
        r"seed was 0 and is 2\. Use the settings it was started with, .* accept_changes=True \(--accept_changes\)\.$"
    )
    with pytest.raises(ChangedRunError, match=message):
        check_changes(changes, accepted=False)


def test_what_is_accepted_is_warned_of_as_all_else_is():
    changes = compare_configs(BEFORE, changed(seed=2, backend="jax"))
    with pytest.warns(UserWarning, match="may differ from an uninterrupted run") as warned:
        check_changes(changes, accepted=True)
    said = [str(warning.message) for warning in warned]
    assert len(said) == 2
    assert "seed was 0 and is 2." in said[0]
    assert "backend was 'tensorflow' and is 'jax'." in said[1]


# ---------------------------------------------------------------------- code


def test_the_code_of_a_task_is_that_of_the_users_classes(tmp_path, monkeypatch):
    source = """
        from lightkeras.testing import TwoMoons
        class Base(TwoMoons):
            pass
        class Mine(Base):
            pass
    """
    file = tmp_path / "users_task.py"
    file.write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    import users_task

    before = code_of(users_task.Mine)
    assert sorted(before) == ["Base", "Mine"]
    file.write_text(textwrap.dedent(source) + "# another\n")
    assert code_of(users_task.Mine)["Mine"] != before["Mine"]


def test_what_comes_with_lightkeras_and_what_was_typed_in_have_no_code():
    assert code_of(TwoMoons) == {}
    typed: dict = {"__name__": "typed_in", "Base": TwoMoons}
    exec("class Typed(Base): pass", typed)
    assert code_of(typed["Typed"]) == {}
    assert SupervisedTask.__module__.startswith("lightkeras.")


# ---------------------------------------------------------------------- which checkpoint


@pytest.fixture
def directory(tmp_path):
    found = RunDirectory(tmp_path / "run")
    found.checkpoints.mkdir(parents=True)
    return found


REST = {
    "epochs": 0,
    "done": 0,
    "validations": 0,
    "validated": None,
    "history": {},
    "means": {"examples": 0, "sums": {}},
    "random": {"python": [3, "", None], "numpy": ["MT19937", "", 0, 0, 0.0]},
    "logs": {},
    "callbacks": {"callbacks": [], "stop_training": False},
}


def saved(directory, step, best=None, top=(), name=None, **state):
    """Writes a checkpoint as `last`."""
    path = directory.checkpoints / (name or f"step-{step:08d}")
    captured = Captured({"a": np.float32([step])}, {"a": {"path": "a", "dtype": "float32"}})
    kept = {"best": best, "top": [list(item) for item in top]}
    progress = {"mode": "min", "best": 1.0, "waited": 1}
    whole = {
        "kept": kept,
        "best": {"epoch": 1, "step": 1, "value": 1.0, "logs": {}},
        "progress": progress,
        "beside": False,
        **REST,
        **state,
    }
    checkpoint.save(path, step, captured, whole)
    checkpoint.point(directory.checkpoints, "last", path)
    if best is not None:
        checkpoint.point(directory.checkpoints, "best", directory.checkpoints / best)
    return path


def harm(path):
    (path / "state.json").write_bytes(b"{}")


def test_there_is_none_before_the_first_was_written(directory):
    assert choose_checkpoint(directory) is None
    (directory.checkpoints / ".step-00000003.12ab.part").mkdir()
    assert choose_checkpoint(directory) is None


def test_the_last_one_is_taken_without_a_word(directory):
    saved(directory, 3)
    saved(directory, 10)
    assert choose_checkpoint(directory).state["step"] == 10


def test_what_last_names_comes_before_a_later_step(directory):
    saved(directory, 10)
    saved(directory, 3)  # somebody went back
    assert choose_checkpoint(directory).state["step"] == 3


def test_a_damaged_one_is_named_and_the_newest_whole_one_before_it_is_taken(directory):
    for step in (3, 10, 100):
        saved(directory, step)
    harm(directory.checkpoints / "step-00000100")
    message = r"step-00000100 is damaged: state\.json has 2 bytes .* Resuming from .*step-00000010\.$"
    with pytest.warns(UserWarning, match=message):
        assert choose_checkpoint(directory).state["step"] == 10


def test_one_that_refers_to_a_damaged_best_gives_way_to_one_that_does_not(directory):
    saved(directory, 1, best="step-00000001")
    saved(directory, 2, best="step-00000001")
    saved(directory, 3, best="step-00000003")
    saved(directory, 4, best="step-00000003")
    harm(directory.checkpoints / "step-00000003")
    with pytest.warns(UserWarning, match=r"step-00000003 is damaged.*Resuming from .*step-00000002\.$"):
        found = choose_checkpoint(directory)
    assert (found.state["step"], found.state["kept"]["best"]) == (2, "step-00000001")


def test_where_every_one_refers_to_a_damaged_best_that_is_lost_and_reported(directory):
    saved(directory, 1, best="step-00000001")
    saved(directory, 2, best="step-00000001")
    harm(directory.checkpoints / "step-00000001")
    with pytest.warns(UserWarning, match=r"step-00000001 is damaged.*best weights are lost.*Resuming from .*000002\.$"):
        found = choose_checkpoint(directory)
    assert (found.state["best"], found.state["progress"]) == (None, {"mode": "min"})
    assert found.state["kept"] == {"best": None, "top": []}


def test_what_was_judged_beside_the_run_is_passed_over_unless_it_is_all_there_is(directory):
    saved(directory, 5)
    saved(directory, 7, beside=True, name="step-00000007-1")
    saved(directory, 7)
    harm(directory.checkpoints / "step-00000007")
    with pytest.warns(UserWarning, match=r"step-00000007 is damaged.*Resuming from .*step-00000005\.$"):
        assert choose_checkpoint(directory).state["step"] == 5
    harm(directory.checkpoints / "step-00000005")
    with pytest.warns(UserWarning, match=r"has a validation that an uninterrupted run does not make.*00007-1\.$"):
        assert choose_checkpoint(directory).path.name == "step-00000007-1"


def test_where_all_are_damaged_each_is_named(directory):
    for step in (3, 10):
        harm(saved(directory, step))
    message = (
        r"All checkpoints in .* are damaged: .*step-00000010 is damaged.*step-00000003 is damaged.*another directory\.$"
    )
    with pytest.raises(CheckpointError, match=message):
        choose_checkpoint(directory)


def test_the_one_that_was_asked_for_is_taken_or_refused(directory):
    earlier, last = saved(directory, 3), saved(directory, 10)
    harm(last)
    assert choose_checkpoint(directory, earlier).state["step"] == 3
    with pytest.raises(CheckpointError, match=r"step-00000010 is damaged"):
        choose_checkpoint(directory, last)
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint at .*step-00000004"):
        choose_checkpoint(directory, directory.checkpoints / "step-00000004")


def test_a_path_is_that_of_a_run_or_of_one_of_its_checkpoints(directory):
    path = saved(directory, 3)
    assert run_and_checkpoint(path) == (directory, path)
    assert run_and_checkpoint(directory.path) == (directory, None)
