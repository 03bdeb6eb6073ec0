"""Event files, read by TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightkeras.runs.loggers.event_file import EventFile, is_ours, replaced
from lightkeras.runs.loggers.summaries import scalars
from lightkeras.system.files import LinkError


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_two_files_of_the_same_second_are_two_files_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("lightkeras.runs.loggers.event_file.time.time", lambda: 1_700_000_000.5)
    first, second = EventFile(tmp_path), EventFile(tmp_path)
    first.add(scalars({"a": 1.0}), step=1)
    second.add(scalars({"b": 2.0}), step=1)
    first.close()
    second.close()
    seconds = [path.name.split(".")[3] for path in sorted(tmp_path.iterdir())]
    assert seconds == ["1700000000", "1700000001"]  # the names are in the order of the files
    assert sorted(tmp_path.iterdir()) == [first.path, second.path]
    assert points(tmp_path) == {"a": [(1, 1)], "b": [(1, 2)]}


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"could not write .*nowhere/events\.out\.tfevents"):
        EventFile(tmp_path / "nowhere")


def test_a_file_takes_the_place_of_the_one_of_its_name_alone(tmp_path):
    folder = tmp_path / "new"
    for name, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        file = replaced(folder, name)
        file.add(scalars({name: value}), step=1)
        file.close()
    assert points(folder) == {"a": [(1, 3)], "b": [(1, 2)]}
    assert len(list(folder.iterdir())) == 2


def test_a_link_to_a_folder_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "new").symlink_to("elsewhere")
    with pytest.raises(LinkError, match="is a link"):
        replaced(tmp_path / "new", "a")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("events.out.tfevents.1700000000.host.1.2.lightkeras", True),
        ("events.out.tfevents.1700000000.host.1.2.v2", False),
        ("../events.out.tfevents.1700000000.host.lightkeras", False),
    ],
)
def test_files_of_other_writers_are_told_apart_by_their_names(name, ours):
    assert is_ours(name) is ours
