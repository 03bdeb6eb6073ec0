"""The fixture `check_task` for pytest: `pytest_plugins = ["lightkeras.pytest_plugin"]` in the top `conftest.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def check_task(tmp_path: Path) -> Callable[..., None]:
    """`lightkeras.testing.check_task`, with its runs in pytest's folder of the test, which is kept if it fails."""

    def check(make_task: Any, *data: Any, **settings: Any) -> None:
        from lightkeras import testing  # not before a test needs it: it imports Keras

        testing.check_task(make_task, *data, **{"run_dir": tmp_path / "check_task", **settings})

    return check
