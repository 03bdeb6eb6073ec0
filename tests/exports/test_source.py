"""Tests of finding the model that is exported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lightkeras.exports.errors import ExportError
from lightkeras.exports.source import content_of, source_of
from lightkeras.system import files


@pytest.fixture
def run(moons: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "run"
    shutil.copytree(moons, copied)
    return copied


def change(path: Path, **entries: object) -> None:
    files.write_json(path, {**files.read_json(path), **entries})


def test_the_model_of_a_run(moons: Path) -> None:
    found = source_of(moons)
    assert (found.model_file, found.run_dir) == (moons / "model.keras", moons)
    assert found.backend_that_runs() == found.backend


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run"):
        source_of(tmp_path)


def test_a_run_without_a_model_says_why(run: Path) -> None:
    (run / "model.keras").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model.keras: it ended early, was made with export=False, or"):
        source_of(run)
    change(run / "result.json", fit={"diverged": True})
    with pytest.raises(FileNotFoundError, match=r"has no model.keras: it diverged. Give a run that has one"):
        source_of(run)


def test_the_model_of_a_diverged_run_comes_with_a_warning(run: Path) -> None:
    change(run / "result.json", fit={"diverged": True, "best": {"epoch": 3}})
    with pytest.warns(UserWarning, match="diverged: its model.keras has the weights of epoch 3, before that"):
        source_of(run)


def test_other_versions_are_warned_of(run: Path) -> None:
    change(run / "config.json", versions={"keras": "3.9.0", "numpy": "0.1"})
    with pytest.warns(UserWarning, match=r"was trained with other versions: keras 3.9.0, here 3\.\d+"):
        source_of(run)


def test_a_search_stands_for_its_best_trial(run: Path, tmp_path: Path) -> None:
    search = tmp_path / "search"
    search.mkdir()
    files.write_json(search / "config.json", {"task": "TwoMoons", "search": {"objective": "val/loss"}})
    with pytest.raises(ExportError, match=r"holds a search without a .*best: no trial of it has completed yet"):
        source_of(search)
    run.rename(search / "best")
    assert source_of(search).model_file == search / "best" / "model.keras"


def test_the_runs_of_an_experiment_are_named(run: Path, tmp_path: Path) -> None:
    files.write_json(tmp_path / "config.json", {"task": "TwoMoons", "experiment": {"main": "main"}})
    with pytest.raises(ExportError, match=rf"holds the runs of an experiment. Give one of them: {run}"):
        source_of(tmp_path)


def test_a_file_that_is_not_of_keras_is_damaged(run: Path) -> None:
    (run / "model.keras").write_bytes(b"no zip")
    with pytest.raises(files.DamagedFileError, match=r"is damaged: it is not a .keras file"):
        content_of(run / "model.keras")


def test_a_configuration_that_is_too_large_is_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "JSON_BYTES", 10)
    with pytest.raises(files.DamagedFileError, match="bytes of configuration"):
        content_of(run / "model.keras")
