"""Fixtures for commands that are called in this process."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory of a program `moons.py`, which is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["moons.py"])
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR", raising=False)
    return tmp_path
