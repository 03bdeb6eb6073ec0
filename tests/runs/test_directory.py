from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from lightkeras.runs.directory import (
    RunDirectory,
    check_directory,
    find_broken,
    holds_several,
    run_path,
    snake_case,
)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "a")


def test_a_new_run_directory_is_empty(directory):
    directory.create(needed_bytes=1000)
    assert os.listdir(directory.path) == []


def test_a_folder_with_other_files_in_it_may_become_a_run_directory(directory):
    directory.figures.mkdir(parents=True)
    (directory.path / "notes.txt").write_text("mine")
    directory.create(needed_bytes=0)
    assert (directory.path / "notes.txt").read_text() == "mine"


def test_a_directory_that_holds_another_run_is_refused_and_left_alone(directory):
    directory.create(needed_bytes=0)
    directory.write_config({"task": "A"})
    with pytest.raises(FileExistsError, match=r"runs/a already holds another run, which would be lost\. Resume it"):
        directory.check_unused()
    assert directory.read_config() == {"task": "A"}


def test_a_file_of_that_name_is_refused(directory):
    directory.path.parent.mkdir()
    directory.path.write_text("")
    with pytest.raises(NotADirectoryError, match=r"runs/a is a file; expected a directory"):
        directory.create(needed_bytes=0)


def test_a_directory_below_a_file_is_refused(directory):
    directory.path.parent.write_text("")
    with pytest.raises(
        NotADirectoryError, match=r"runs/a cannot be created: .*/runs is a file, not a folder\. Give another"
    ):
        directory.create(0)


def test_a_link_to_nothing_is_refused(directory, tmp_path):
    directory.path.parent.mkdir()
    directory.path.symlink_to(tmp_path / "gone")
    with pytest.raises(NotADirectoryError, match=r"runs/a is a file; expected a directory"):
        check_directory(directory, 0)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc, where not even root may write")
def test_a_place_where_nothing_can_be_written_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"could not write /proc/runs/a: .*give another run directory"):
        check_directory(RunDirectory(Path("/proc/runs/a")), 0)


def test_a_check_leaves_nothing_behind(directory, tmp_path):
    check_directory(directory, needed_bytes=1000)
    assert os.listdir(tmp_path) == []
    directory.figures.mkdir(parents=True)
    check_directory(directory, needed_bytes=1000)
    assert os.listdir(directory.path) == ["figures"]


def test_too_little_room_is_reported_in_numbers_and_nothing_is_made(directory, tmp_path):
    needed = shutil.disk_usage(tmp_path).total + 5_000_000
    expected = re.escape(f"the run needs about {needed / 1e6:,.1f} MB for a model. Free disk space")
    with pytest.raises(OSError, match=r"runs/a: [\d,.]+ MB of disk are free, but " + expected):
        directory.create(needed, "a model")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_named(directory, monkeypatch):
    def refused(*args: object, **kwargs: object) -> None:  # root may write everywhere, so a mode would not do
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(PermissionError, match=r"could not write .*runs/a: Permission denied"):
        directory.create(0)


def test_the_configuration_comes_back(directory):
    directory.create(0)
    directory.write_config({"task": "A", "hparams": {"x": 1, "y": None}})
    assert directory.read_config() == {"task": "A", "hparams": {"x": 1, "y": None}}


def test_a_directory_without_a_run_is_reported_as_such(directory):
    with pytest.raises(FileNotFoundError, match=r"runs/a holds no run: there is no config\.json in it"):
        directory.read_config()


@pytest.mark.parametrize("content", ["[]", "{", ""])
def test_a_damaged_configuration_is_named(directory, content):
    directory.create(0)
    directory.config_file.write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        directory.read_config()


def test_the_result_grows_and_newer_parts_replace_older_ones(directory):
    directory.create(0)
    directory.update_result({"fit": {"epochs": 1}, "task": "A"})
    directory.update_result({"test": {"loss": 0.5}})
    directory.update_result({"test": {"loss": 0.25}})
    assert json.loads(directory.result_file.read_text()) == {"fit": {"epochs": 1}, "task": "A", "test": {"loss": 0.25}}


def test_a_damaged_result_is_not_overwritten(directory):
    directory.create(0)
    directory.result_file.write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        directory.update_result({"test": {}})
    assert directory.result_file.read_text() == "{"


def test_a_path_that_is_given_is_taken_as_it_is():
    assert run_path("a/b", "x") == Path("a/b")


def test_a_path_that_is_not_given_is_made_of_name_time_and_chance():
    path = run_path(None, "imdb_hub")
    assert re.fullmatch(r"runs/imdb_hub/\d{8}-\d{6}-[0-9a-f]{4}", str(path))
    assert len({run_path(None, "x") for _ in range(8)}) > 1


@pytest.mark.parametrize(
    ("name", "expected"), [("ImdbHub", "imdb_hub"), ("GAN", "gan"), ("Task2Vec", "task2_vec"), ("plain", "plain")]
)
def test_names_of_classes_become_names_of_folders(name, expected):
    assert snake_case(name) == expected


def test_the_names_in_a_run_directory_are_those_of_the_documentation(directory):
    names = [
        directory.config_file,
        directory.result_file,
        directory.metrics_file,
        directory.checkpoints,
        directory.figures,
        directory.model_file,
    ]
    assert [path.relative_to(directory.path).as_posix() for path in names] == [
        "config.json",
        "result.json",
        "metrics.csv",
        "checkpoints",
        "figures",
        "model.keras",
    ]


def test_a_result_that_is_not_an_object_is_refused_and_left_as_it_is(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.result_file.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"result\.json is damaged: expected an object, got list\."):
        directory.update_result({"test": {"loss": 0.5}})
    assert directory.result_file.read_text() == "[1, 2]"


@pytest.mark.parametrize("part", ["checkpoints", "figures", "broken", "profile"])
def test_a_directory_inside_a_part_of_a_run_is_refused(directory, part):
    directory.create(needed_bytes=0)
    directory.write_config({"task": "A"})
    inside = RunDirectory(directory.path / part / "deeper")
    with pytest.raises(
        FileExistsError, match=rf"{part}/deeper is part of the run in .*runs/a\. Give another run_dir\."
    ):
        inside.check_not_inside()
    RunDirectory(directory.path / "below").check_not_inside()  # where an experiment has its runs


def test_only_the_directory_of_an_experiment_holds_several_runs(directory):
    assert not holds_several(directory)
    directory.create(needed_bytes=0)
    assert not holds_several(directory)
    directory.write_config({"task": "A"})
    assert not holds_several(directory)
    directory.write_config({"task": "A", "experiment": []})
    assert holds_several(directory)


def test_a_bundle_is_found_by_its_folder_or_as_the_newest_of_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no broken step"):
        find_broken(tmp_path)
    of_run = {"hparams": {}, "seed": 0, "logs": {}, "variables_after": {}, "variables": {}, "environment": {}}
    of_step = {"broken": {"examples": []}, "repeated": True, "what_happened": "", "task": "Mine", "file": None}
    for step, at in ((12, "2026-11-02"), (7, "2026-11-03")):
        bundle = tmp_path / "broken" / f"step-{step:08}"
        bundle.mkdir(parents=True)
        (bundle / "state.json").write_text(json.dumps(of_run | of_step | {"step": step, "at": at}))
    assert find_broken(tmp_path).name == "step-00000007"
    assert find_broken(tmp_path / "broken" / "step-00000012").name == "step-00000012"


def test_the_search_of_a_configuration_is_not_null(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.config_file.write_text('{"search": null}')
    with pytest.raises(ValueError, match=r"config\.json is damaged: search: expected .*, got None"):
        directory.read_config()
