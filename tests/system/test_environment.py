"""Versions and machine of a run."""

from __future__ import annotations

from lightkeras.system.environment import machine, versions


def test_versions_name_what_is_installed_and_skip_what_is_not(monkeypatch):
    monkeypatch.setattr("lightkeras.system.environment.PACKAGES", ("numpy", "no-such-package"))
    import numpy

    found = versions()
    assert set(found) == {"python", "numpy"}
    assert found["numpy"] == numpy.__version__


def test_the_machine_is_described():
    found = machine()
    assert found["cores"] >= 1
    assert found["processor"]
    assert found["system"]
