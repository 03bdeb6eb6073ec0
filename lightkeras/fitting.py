"""One fit: its parts, what it has reached, and what it writes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lightkeras import checkpoint, files, schedule
from lightkeras.callbacks import CallbackBridge
from lightkeras.engine.base import StepLogs
from lightkeras.loggers import CsvLogger, Logger, TensorBoardLogger
from lightkeras.passes import Pass
from lightkeras.progress import ProgressBar
from lightkeras.results import Best, FitResult
from lightkeras.run_directory import RunDirectory
from lightkeras.task import Task


@dataclasses.dataclass
class Fit:
    """One fit. What it decides, it decides by `schedule`; what it writes, it writes by the loggers and `checkpoint`."""

    task: Task
    learner: Pass
    watcher: Pass | None
    names: list[str]
    monitor: str | None
    progress: schedule.Progress
    optimizers: list[tuple[keras.optimizers.Optimizer, list[keras.Variable]]]
    bridge: CallbackBridge
    directory: RunDirectory
    facts: dict[str, Any]
    bar: ProgressBar

    step: int = 0
    epochs: int = 0
    best: Best | None = None
    stop_reason: str | None = None
    diverged: bool = False
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    _loggers: list[Logger] = dataclasses.field(default_factory=list)

    @property
    def state_bytes(self) -> int:
        """Size of the run state."""
        return sum(math.prod(v.shape) * 4 for v in self.task.variables().values())

    @contextlib.contextmanager
    def opened(self, config: Mapping[str, Any]) -> Iterator[None]:
        """With the loggers open and the bar shown."""
        folder = self.directory.path
        with contextlib.ExitStack() as stack:
            for logger in (
                CsvLogger(self.directory.metrics_file),
                TensorBoardLogger(folder, self.facts["hparams"], config),
            ):
                stack.push(functools.partial(self._close, logger))
                logger.open(self.names)
                self._loggers.append(logger)
            stack.enter_context(self.bar)
            yield

    def _close(self, logger: Logger, kind: type[BaseException] | None, *_: object) -> None:
        logger.close(failed=kind is not None or self.diverged)

    def log_steps(self, epoch: int, logs: StepLogs) -> None:
        """Takes in the logs of a call."""
        values = {f"train/{name}": column.tolist() for name, column in logs.values.items()}
        for logger in self._loggers:
            logger.log_steps(epoch + 1, self.step + 1, values)
        broken = _first_not_finite(logs)
        if broken is not None:
            name, position, value = broken
            self.diverged = True
            self.stop_reason = f"train/{name} became {value} at step {self.step + position + 1}"
        self.step += logs.steps
        self.bar.advance(epoch + 1, logs.steps, self.learner.seconds, self.learner.means())

    def add_epoch(self, epoch: int, values: Mapping[str, float]) -> bool:
        """Takes in the values of an epoch. Returns whether it is the best so far."""
        self.epochs = epoch + 1
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)
        for logger in self._loggers:
            logger.log_epoch(self.epochs, self.step, values)
            logger.flush()
        if self.monitor is None:
            return True
        self.progress = self.progress.after(values[self.monitor])
        if self.progress.waited == 0:
            self.best = Best(self.epochs, self.step, values[self.monitor], dict(values))
        return self.progress.waited == 0

    def save(self, improved: bool) -> None:
        """Saves the run state as `last`, and as `best` if it is; removes what neither names."""
        folder = self.directory.checkpoints
        state = {
            "epoch": self.epochs,
            "best": None if self.best is None else dataclasses.asdict(self.best),
            "progress": dataclasses.asdict(self.progress),
            "history": self.history,
        }
        path = checkpoint.save(folder, self.step, self.task.variables(), state)
        checkpoint.point(folder, "last", path)
        if improved or not (folder / "best").exists():
            checkpoint.point(folder, "best", path)
        checkpoint.prune(folder)

    def end_train(self) -> None:
        """Tells optimizers and callbacks that training is over, as Keras does."""
        for optimizer, learned in self.optimizers:
            optimizer.finalize_variable_values(learned)
        last = {name: values[-1] for name, values in self.history.items()}
        self.bridge.end_train(last)

    def export_best_model(self) -> None:
        """Writes `model.keras` with the best weights; the task keeps those it has."""
        model = self.task.model_to_export()
        folder = self.directory.checkpoints
        if model is None or not (folder / "best").exists():
            return
        variables = self.task.variables()
        now = checkpoint.read_variables(variables)
        try:
            checkpoint.write_variables(variables, checkpoint.load(checkpoint.find(folder, "best")).arrays)
            _export(model, self.directory.model_file)
        finally:
            checkpoint.write_variables(variables, now)

    def result(self, wall_s: float, if_none: str) -> FitResult:
        return FitResult(
            run_dir=self.directory.path,
            epochs=self.epochs,
            steps=self.step,
            stop_reason=self.stop_reason or if_none,
            monitor=self.monitor,
            best=self.best,
            history={name: tuple(values) for name, values in self.history.items()},
            wall_s=wall_s,
            diverged=self.diverged,
        )


def _first_not_finite(logs: StepLogs) -> tuple[str, int, float] | None:
    """Name, position and value of the first loss that is not finite; of any value where no loss is logged."""
    names = [name for name in logs.values if name == "loss"] or list(logs.values)
    for name in names:
        wrong = np.flatnonzero(~np.isfinite(logs.values[name]))
        if len(wrong):
            return name, int(wrong[0]), float(logs.values[name][wrong[0]])
    return None


def _export(model: keras.Model, path: Path) -> None:
    """Saves a model atomically. An optimizer that was only lent to it for callbacks stays out."""
    beside = path.with_name(f".{secrets.token_hex(4)}.part.keras")
    lent = None if model.compiled else vars(model).get("optimizer")
    try:
        if not model.compiled:
            model.optimizer = None
        with files.explained(path):
            model.save(beside)
            files.sync(beside)
            files.move_synced(beside, path)
    finally:
        if not model.compiled:
            model.optimizer = lent
        beside.unlink(missing_ok=True)
