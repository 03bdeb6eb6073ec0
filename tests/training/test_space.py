"""Space that a run needs is estimated before its first step."""

import pytest
from fit_by_hand import make_fit

import lightkeras as lk
from lightkeras.runs.directory import RunDirectory
from lightkeras.system import memory
from lightkeras.testing import TwoMoons
from lightkeras.training.space import disk_needed, memory_warning, state_bytes

STATE = 4 * (3 * 65 + 2)  # weights 2 * 16 + 16 + 16 + 1, twice more as the moments of Adam, its iterations and rate
MODEL = 4 * 65


@pytest.fixture
def fit(tmp_path):
    return make_fit(tmp_path / "run")


def test_the_size_of_the_state_counts_every_variable(fit):
    assert state_bytes(fit.task.variables()) == STATE


@pytest.mark.parametrize(("keep", "best"), [(1, "the best"), (3, "the 3 best")])
def test_the_disk_holds_all_checkpoints_at_once_and_the_model(fit, keep, best):
    needed, purpose = disk_needed(fit.task, fit.directory, keep)
    assert needed == (keep + 3) * STATE + MODEL
    assert purpose == (
        f"{keep + 3} checkpoints of 0.0 MB ({best}, the last, the one before it, and one that is being written) and a "
        "model of 0.0 MB"
    )


def test_the_checkpoints_of_a_run_that_is_resumed_are_written_already(fit):
    written = fit.directory.checkpoints / "step-00000001"
    written.mkdir(parents=True)
    (written / "variables.safetensors").write_bytes(bytes(STATE))
    assert disk_needed(fit.task, fit.directory, 1)[0] == 3 * STATE + MODEL
    (written / "variables.safetensors").write_bytes(bytes(9 * STATE))
    assert disk_needed(fit.task, fit.directory, 1)[0] == 0


def test_a_disk_that_is_too_small_is_refused_with_the_sum_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("lightkeras.training.space.state_bytes", lambda variables: 10**15)
    message = r"the run needs about 5,000,000,000\.0 MB for 4 checkpoints of 1,000,000,000\.0 MB \(the best, the last"
    with pytest.raises(OSError, match=message):
        lk.Runner(run_dir=tmp_path / "run").fit(TwoMoons())
    assert not (tmp_path / "run").exists()


def test_a_state_that_is_larger_than_half_of_the_free_memory_is_warned_of(fit, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 2 * STATE)
    assert memory_warning(fit.task) is None
    monkeypatch.setattr(memory, "available_bytes", lambda: 2 * STATE - 1)
    assert "more than half of the 0.0 MB of memory that are free" in memory_warning(fit.task)


def test_a_run_prints_that_its_state_is_too_large_for_the_memory(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1)
    lk.Runner(max_epochs=1, run_dir=tmp_path / "run", pictures=False, export=False).fit(TwoMoons())
    assert "the process may run out of memory" in capsys.readouterr().err


def test_free_memory_that_is_not_known_is_not_warned_of(fit, monkeypatch):
    def unknown():
        raise OSError("no /proc")

    monkeypatch.setattr(memory, "available_bytes", unknown)
    assert memory_warning(fit.task) is None


def test_a_run_directory_that_does_not_exist_has_no_checkpoints(fit, tmp_path):
    assert disk_needed(fit.task, RunDirectory(tmp_path / "none"), 1)[0] == 4 * STATE + MODEL
