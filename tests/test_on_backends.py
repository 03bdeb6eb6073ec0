"""The tests of the parts that stand on an engine, on the other backends: Keras has one in a process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = [
    "test_runner.py",
    "test_task.py",
    "test_as_keras_fit.py",
    "test_resume.py",
    "test_skip_broken.py",
    "test_features.py",
    "test_drawing.py",
    "data/test_keras_encoder.py",
]


@pytest.mark.backends("tensorflow", reason="it starts the other backends itself")
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_tests_pass_on(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    files = [str(HERE / name) for name in [f"engine/test_{backend}.py", *FILES]]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=HERE.parent,
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}"
