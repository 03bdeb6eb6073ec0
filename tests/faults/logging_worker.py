"""Trains one run with MLflow and W&B in a process of its own, to be killed; started by `test_loggers.py`.

python logging_worker.py RUN_DIR URI [POINT:CALL]

It begins the run or resumes it. With `sent:2` it kills itself, by SIGKILL, at the second call of that point.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightkeras as lk
from lightkeras.runs.loggers import mlflow, remote, wandb
from lightkeras.training import saver


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **named: die()


def after(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **named: (function(*arguments, **named), die())


# Point: owner and name of the function to replace, and how.
POINTS: dict[str, tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    "row": (remote.RemoteLogger, "log_steps", after),  # logged, and in no checkpoint
    "saving": (saver.Saver, "_write", before),  # its checkpoint is not written
    "saved": (remote.RemoteLogger, "saved", before),  # its checkpoint is written, and nothing is sent
    "mlflow": (mlflow._MLflowRun, "send", after),  # MLflow has it, W&B perhaps not
    "wandb": (wandb._WandBRun, "send", after),  # W&B was given it, and has not written it
    "end": (remote.RemoteLogger, "log_artifacts", before),  # all checkpoints are written
}


def arm(point: str, call: int) -> None:
    owner, name, make = POINTS[point]
    function, calls = getattr(owner, name), 0

    @functools.wraps(function)
    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return (make(function) if calls == call else function)(*arguments, **named)

    setattr(owner, name, counted)


def main(run_dir: str, uri: str, kill: str = "") -> None:
    if kill:
        point, call = kill.split(":")
        arm(point, int(call))
    runner = lk.Runner(
        max_epochs=4,
        run_dir=run_dir,
        validate_every="4 steps",
        checkpoints=lk.Checkpoints(every_steps=7),
        steps_per_call=3,
        progress=False,
        pictures=False,
        export=False,
        loggers=[lk.loggers.MLflow(uri, "moons"), lk.loggers.WandB("moons", mode="offline")],
    )
    runner.fit(lk.testing.TwoMoons(), resume=True)


if __name__ == "__main__":
    os.chdir(Path(sys.argv[1]).parent)
    main(*sys.argv[1:])
