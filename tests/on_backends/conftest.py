"""Runs the tests of the parts that use an engine on another backend: Keras has one in a process.

Each backend has a file of its own here, because tests that run side by side are distributed by file.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = [
    "test_runner.py",
    "test_task.py",
    "scenarios/test_as_keras_fit.py",
    "scenarios/test_frames.py",
    "scenarios/test_resume.py",
    "scenarios/test_skip_broken.py",
    "scenarios/test_sources.py",
    "encoders/test_features.py",
    "training/test_evaluation.py",
    "training/test_pictures.py",
    "training/test_freezing.py",
    "training/test_layer_losses.py",
    "training/test_metric_values.py",
    "training/preflight/test_trial.py",
    "engine/test_every_engine.py",
    "engine/test_every_source.py",
    "engine/test_replacing.py",
    "engine/test_layer_calls.py",
    "engine/test_optimizer_state.py",
    "training/test_prediction.py",
    "training/test_step_errors.py",
    "scenarios/test_batch_sizes.py",
    "encoders/test_keras_model.py",
    "data/test_class_weights.py",
    "scenarios/test_validation_sets.py",
    "scenarios/test_trying.py",
    "training/test_initial_weights.py",
    "optimizers/test_schedules.py",
    "optimizers/test_fused.py",
    "engine/test_fused_adam.py",
    "exports/formats/test_torch_program.py",
    "exports/formats/test_weights.py",
    "exports/test_evaluation.py",
]


@pytest.fixture
def assert_passes() -> Callable[..., None]:
    """Asserts that the tests pass on a backend, in one process; skips if that is not installed."""

    def passes(backend: str, marked: str = "not long") -> None:
        if importlib.util.find_spec(backend) is None:
            pytest.skip(f"{backend} is not installed")
        files = [str(TESTS / name) for name in [f"engine/{backend}", *FILES]]
        # The inner pytest is not a worker of the outer pytest-xdist.
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, *files],
            cwd=TESTS.parent,
            env=ours | {"KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}"

    return passes
