"""A machine on which nothing was downloaded, and experiments run on it as a person runs them: real processes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import forked

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"

# Variables of the caller's environment that would change which data is found or what is printed.
SET_BY_HAND = (
    "LIGHTKERAS_CACHE_DIR",
    "LIGHTKERAS_DATA_DIR",
    "KERAS_BACKEND",
    "KERAS_HOME",
    "TFHUB_CACHE_DIR",
    "TF_CPP_MIN_LOG_LEVEL",
    "FORCE_COLOR",
    "TTY_COMPATIBLE",
    "COLUMNS",
    "COV_CORE_SOURCE",
)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run that came to its end, for all tests that only look at it.

    Args:
        run_dir: Its run directory.
        process: The process, with what it printed: `process.stdout` and `process.stderr`.
    """

    run_dir: Path
    process: subprocess.CompletedProcess[str]

    @property
    def result(self) -> dict[str, Any]:
        """Contents of `result.json`, read on each access."""
        return read_json(self.run_dir / "result.json")

    @property
    def printed(self) -> str:
        """Its standard output."""
        return self.process.stdout


class Experiment(Protocol):
    """Runs `python experiments/NAME.py ARGS` in a process of its own to its end."""

    def __call__(self, name: str, *args: str | Path, timeout: float = ..., **environment: str) -> Finished: ...


@dataclasses.dataclass(frozen=True)
class Machine:
    """A home folder in which nothing was downloaded; caches and run directories of its processes are in it."""

    home: Path

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in SET_BY_HAND}
        # Matplotlib's font cache is shared, because building it in each new home takes seconds.
        fonts = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matplotlib"
        kept.setdefault("MPLCONFIGDIR", str(fonts))
        folders = {"HOME": "", "XDG_CACHE_HOME": "cache", "TFDS_DATA_DIR": "tfds"}
        return kept | {name: str(self.home / folder) for name, folder in folders.items()} | more

    def python(
        self, *args: str | Path, stdin: str = "", timeout: float = 1800, own_imports: bool = False, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs Python in the home folder, to its end.

        Args:
            args: Arguments of Python, the program first.
            stdin: What the program reads on its standard input.
            timeout: Seconds after which it is killed.
            own_imports: Whether the process imports Keras and its backend itself, instead of being forked from one that
                has imported them.
            more: Variables of its environment.
        """
        environment = self.environment(**more)
        if not own_imports:
            return forked.run(args, cwd=self.home, env=environment, stdin=stdin, timeout=timeout)
        return subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=self.home,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def run(
        self, experiment: str, *args: str | Path, stdin: str = "", own_imports: bool = False, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs `python experiments/EXPERIMENT.py ARGS`, whatever its exit status."""
        return self.python(EXPERIMENTS / f"{experiment}.py", *args, stdin=stdin, own_imports=own_imports, **more)

    def finish(self, experiment: str, *args: str | Path, timeout: float = 1800, **more: str) -> Finished:
        """Runs `python experiments/EXPERIMENT.py ARGS --run_dir NEW`, which must end with status 0."""
        run_dir = Path(tempfile.mkdtemp(prefix=f"{experiment}-", dir=self.home)) / "run"
        process = self.run(experiment, *args, "--run_dir", run_dir, timeout=timeout, **more)
        assert process.returncode == 0, f"{process.stdout[-5_000:]}\n{process.stderr[-20_000:]}"
        return Finished(run_dir, process)


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def load(name: str) -> ModuleType:
    """`experiments/NAME.py` as a module of this process, for tests of what is in it. It runs nothing."""
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    assert spec is not None, name
    assert spec.loader is not None, name
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # `dataclasses` looks annotations up there
    spec.loader.exec_module(module)
    return module
