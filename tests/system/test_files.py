"""Atomic writes, with a failure injected at each call that a full or broken disk could fail."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lightkeras.system import files

NO_SPACE = "No space left on device"


class FailingCall:
    """Stands in for a system call and fails at one of its calls, as a full disk does."""

    def __init__(self, call, fail_at: int) -> None:
        self._call, self._fail_at, self.calls = call, fail_at, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self._fail_at:
            raise OSError(errno.ENOSPC, NO_SPACE)
        return self._call(*args, **kwargs)


# A real disk cannot be told to fail at the second fsync: the calls are replaced instead. A write of a
# file calls `fsync` twice: for its content, and for the folder that names it.
FAILURES = [("open", 1), ("fsync", 1), ("replace", 1), ("fsync", 2)]


def fail(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> FailingCall:
    if name == "open":
        failing = FailingCall(open, call)
        monkeypatch.setattr(files, "open", failing, raising=False)
    else:
        failing = FailingCall(getattr(os, name), call)
        monkeypatch.setattr(os, name, failing)
    return failing


def test_a_written_file_holds_the_bytes_and_nothing_is_left_beside_it(tmp_path):
    files.write_bytes(tmp_path / "a", b"one")
    files.write_bytes(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(("name", "call"), FAILURES)
def test_a_failed_write_leaves_a_whole_file_and_no_part(tmp_path, monkeypatch, name, call):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    failing = fail(monkeypatch, name, call)
    with pytest.raises(OSError, match=r"No space left on device. Existing files are unchanged") as caught:
        files.write_bytes(path, b"after")
    assert failing.calls == call
    assert caught.value.errno == errno.ENOSPC
    assert str(path) in str(caught.value)
    # Once it is renamed the new content is there, and only its name may not outlive a power cut.
    assert path.read_bytes() == (b"after" if (name, call) == ("fsync", 2) else b"before")
    assert os.listdir(tmp_path) == ["a"]


def test_a_write_that_is_interrupted_leaves_no_part(tmp_path, monkeypatch):
    def interrupted(descriptor: int) -> None:  # Ctrl-C between two calls cannot be timed
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(tmp_path / "a", b"after")
    assert os.listdir(tmp_path) == []


def test_the_content_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def kind(descriptor: int) -> str:
        return "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"

    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append(kind(descriptor)), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    files.write_bytes(tmp_path / "a", b"")
    assert calls == ["file", "replace", "folder"]


def test_a_write_into_a_folder_that_is_not_there_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"could not write .*/nowhere/a: No such file or directory"):
        files.write_bytes(tmp_path / "nowhere" / "a", b"")


def test_an_error_without_a_number_keeps_its_words(tmp_path):
    with pytest.raises(OSError, match=r"could not write x: the disk is gone"), files.explained(Path("x")):
        raise OSError("the disk is gone")


def test_json_is_readable_utf8_with_a_newline_at_its_end():
    assert files.json_bytes({"größe": [1, 2.5, True, None]}) == (
        '{\n  "größe": [\n    1,\n    2.5,\n    true,\n    null\n  ]\n}\n'.encode()
    )


def test_numbers_that_are_not_finite_become_null_wherever_they_stand(tmp_path):
    data = {"a": float("nan"), "b": [float("inf"), {"c": -float("inf")}], "d": (1.5, float("nan")), 7: 1e308}
    files.write_json(tmp_path / "a.json", data)
    assert files.read_json(tmp_path / "a.json") == {"a": None, "b": [None, {"c": None}], "d": [1.5, None], "7": 1e308}


def test_data_that_is_not_plain_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"not JSON serializable"):
        files.write_json(tmp_path / "a.json", {"a": object()})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"{'a': 1}", b"\xff\xfe{}"])
def test_json_that_is_damaged_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is damaged: "):
        files.read_json(tmp_path / "a.json")


def test_json_that_is_not_there_is_reported_as_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.json"):
        files.read_json(tmp_path / "a.json")
