"""Finding data sets that TFDS prepared."""

import socket
from pathlib import Path

import pytest

from lightkeras.data.datasets import tfds_folders
from lightkeras.data.lookup import Lookup


@pytest.fixture
def nobody(monkeypatch, tmp_path) -> str:
    """A web address where nobody listens, and no data in TFDS's own folder."""
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{opened.getsockname()[1]}"


def test_the_newest_version_is_chosen_by_number(tmp_path):
    for name in ("1.2.0", "1.10.0", "0.99.99", "incomplete.AB12_3.0.0", "2.0", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "9.0.0").write_text("a file is no version")
    assert tfds_folders.newest_version(tmp_path) == tmp_path / "1.10.0"


def test_a_folder_without_versions_has_no_newest_one(tmp_path):
    assert tfds_folders.newest_version(tmp_path) is None
    assert tfds_folders.newest_version(tmp_path / "gone") is None


def test_the_default_folder_is_the_one_of_tfds(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert tfds_folders.default_folder() == tmp_path
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", "/home/someone")
    assert tfds_folders.default_folder() == Path("/home/someone/tensorflow_datasets")


def test_the_only_configuration_need_not_be_named(tmp_path, nobody):
    (tmp_path / "glue" / "cola" / "1.0.0").mkdir(parents=True)
    tried: list[str] = []
    assert (
        tfds_folders.find("glue", Lookup("real", str(tmp_path)), nobody, tried) == tmp_path / "glue" / "cola" / "1.0.0"
    )
    assert tried == []


def test_of_several_configurations_one_has_to_be_named(tmp_path, nobody):
    for name in ("cola", "mrpc"):
        (tmp_path / "glue" / name / "1.0.0").mkdir(parents=True)
    lookup = Lookup("real", str(tmp_path))
    with pytest.raises(ValueError, match=r"several configurations: name one of them, glue/cola, glue/mrpc\."):
        tfds_folders.find("glue", lookup, nobody, [])
    assert tfds_folders.find("glue/mrpc", lookup, nobody, []) == tmp_path / "glue" / "mrpc" / "1.0.0"


def test_a_version_that_is_named_is_the_one_that_is_found(tmp_path, nobody):
    for version in ("3.0.1", "4.0.0"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
    lookup, tried = Lookup("real", str(tmp_path)), []
    assert tfds_folders.find("mnist:3.0.1", lookup, nobody, tried) == tmp_path / "mnist" / "3.0.1"
    assert tfds_folders.find("mnist:2.0.0", lookup, nobody, tried) is None
    assert tried == [
        f"no version 2.0.0 in {tmp_path / 'mnist'}",
        f"no version 2.0.0 in {tmp_path / 'tfds' / 'mnist'}",
        f"{nobody} does not answer",
    ]
