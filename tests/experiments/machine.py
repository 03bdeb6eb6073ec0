"""A machine on which nothing was downloaded, and experiments run on it as a person runs them: real processes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"

# What the person who runs the tests may have set, and what would change what is found or said.
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

# Runs a file as the main program with each of some lists of arguments, one after the other.
EACH = """
import contextlib, io, json, runpy, sys, traceback
path, answers = sys.argv[1], []
for args in json.load(sys.stdin):
    out, err, status = io.StringIO(), io.StringIO(), 0
    sys.argv = [path, *args]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
    answers.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""


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
        """What is in `result.json`, read anew."""
        return read_json(self.run_dir / "result.json")

    @property
    def printed(self) -> str:
        """What it printed on standard output."""
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
        # Fonts are looked for once, not in each new home: seconds each time.
        fonts = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matplotlib"
        kept.setdefault("MPLCONFIGDIR", str(fonts))
        folders = {"HOME": "", "XDG_CACHE_HOME": "cache", "TFDS_DATA_DIR": "tfds"}
        return kept | {name: str(self.home / folder) for name, folder in folders.items()} | more

    def python(
        self, *args: str | Path, stdin: str = "", timeout: float = 1800, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs Python in the home folder, to its end; `more` are variables of its environment."""
        return subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=self.home,
            env=self.environment(**more),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def run(
        self, experiment: str, *args: str | Path, stdin: str = "", timeout: float = 1800, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs `python experiments/EXPERIMENT.py ARGS`, whatever comes of it."""
        return self.python(EXPERIMENTS / f"{experiment}.py", *args, stdin=stdin, timeout=timeout, **more)

    def run_each(
        self, experiment: str, commands: Iterable[Sequence[str]], timeout: float = 1800, **more: str
    ) -> list[subprocess.CompletedProcess[str]]:
        """Runs the experiment with each of some arguments in one process, one after the other, whatever comes of it.

        For mistakes and other commands that train nothing: most of the time of each would be that of a process that
        imports TensorFlow.
        """
        commands = [list(args) for args in commands]
        path = EXPERIMENTS / f"{experiment}.py"
        done = self.python("-c", EACH, path, stdin=json.dumps(commands), timeout=timeout, **more)
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        return [subprocess.CompletedProcess(args, *answer) for args, answer in zip(commands, answers, strict=True)]

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
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
