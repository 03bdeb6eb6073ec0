"""The versions of `tox -e oldest` are the lower bounds of setup.cfg."""

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.any_backend


def test_the_oldest_versions_are_the_lower_bounds():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    # Not those of the site, of benchmarks and of torch: one environment for torch is enough.
    extras = [
        text for name, text in config["options.extras_require"].items() if name not in ("docs", "benchmark", "torch")
    ]
    bounds = {
        f"{found[1]}=={found[2]}.*"
        for line in "\n".join([config["options"]["install_requires"], *extras]).splitlines()
        if (found := re.match(r"([\w.\-]+)(?:\[[^]]*])?>=([\d.]+)(?!.*sys_platform)", line))
    }
    pinned = (ROOT / "tests/compat/oldest.txt").read_text(encoding="utf-8").split("\n# What one of them needs")[0]
    assert set(pinned.splitlines()[1:]) == bounds
    assert "keras==3.10.*" in bounds
