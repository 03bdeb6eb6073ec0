"""Atomic writes, with a failure injected at each call that a full or broken disk could fail."""

from __future__ import annotations

import errno
import os
import socket
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


# ---------------------------------------------------------------------- the reader


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def make_link(path: Path) -> None:
    path.with_name("elsewhere").write_text("{}")
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("make", "kind"), [(make_pipe, "pipe"), (Path.mkdir, "folder"), (make_link, "link"), (make_socket, "socket")]
)
def test_what_is_not_a_file_is_refused_without_waiting_for_it(tmp_path, monkeypatch, make, kind):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = Path("a.json")
    make(path)
    with pytest.raises(files.DamagedFileError, match=rf"a\.json is a {kind}, expected a file"):
        files.read_json(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[" * 100_000, "it is nested too deeply"),
        ("[" * 500 + "]" * 500, "it is nested more than 200 levels deep"),
        ("9" * 5000, "a number has 5000 digits"),
        ("1e999", "a number is too large"),
        ("NaN", "NaN is not a number in JSON"),
        ('"\\ud800"', "surrogates not allowed"),
    ],
)
def test_json_that_no_file_of_ours_has_is_named(tmp_path, content, problem):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(files.DamagedFileError, match=rf"a\.json is damaged: .*{problem}"):
        files.read_json(tmp_path / "a.json")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert files.read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(files.DamagedFileError, match=r"a has 5 bytes, expected at most 4"):
        files.read_bytes(tmp_path / "a", 4)


# ---------------------------------------------------------------------- links, left-overs, caches


def test_a_write_replaces_a_link_and_leaves_its_target(tmp_path):
    (tmp_path / "thesis").write_text("years")
    (tmp_path / "a").symlink_to("thesis")
    files.write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "thesis").read_text() == "years"
    assert (tmp_path / "a").read_bytes() == b"new"
    (tmp_path / "b").symlink_to("thesis")
    with pytest.raises(OSError, match="could not write"):
        files.truncate(tmp_path / "b", 0)
    with pytest.raises(files.LinkError, match=r"b is a link \(to 'thesis'\)"):
        files.check_no_link(tmp_path / "b")
    assert (tmp_path / "thesis").read_text() == "years"


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path):
    ours = [
        ".config.json.0123abcd.part",
        ".0123abcd.part.keras",
        ".lightkeras.a_b3c4d5",
        ".step-00000001.0123abcd.part",
    ]
    others = ["notes.part", ".mine.part", ".config.json.0123abcd.part.bak", "config.json"]
    for name in (*ours[:-1], *others):
        (tmp_path / name).touch()
    (tmp_path / ours[-1]).mkdir()
    (tmp_path / ours[-1] / "state.json").touch()
    files.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_a_private_folder_is_only_for_its_user(tmp_path):
    files.private_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "a" / "b").chmod(0o777)
    files.private_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(PermissionError, match="is a link"):
        files.private_folder(tmp_path / "link")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_private_folder_of_another_user_is_refused(tmp_path):
    (tmp_path / "a").mkdir(mode=0o700)
    os.chown(tmp_path / "a", 12345, -1)
    with pytest.raises(PermissionError, match=r"belongs to the user 12345 and not to you \(0\)"):
        files.private_folder(tmp_path / "a")
