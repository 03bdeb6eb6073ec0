"""Recorder: writes the values of a fit to its loggers, to the history and to the progress bar.

It can remove the rows after a step: a skipped batch was logged together with the steps before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from lightkeras.engine.base import StepLogs
from lightkeras.runs.loggers import Logger, Run
from lightkeras.runs.loggers.guarded import Guarded
from lightkeras.runs.loggers.histogram import Histogram
from lightkeras.training.progress_bar import ProgressBar
from lightkeras.training.run_state import RunState
from lightkeras.training.timing import TimeLedger, counted


@final
class Recorder:
    """Writes the values of a fit.

    Args:
        names: Names of all values of an epoch.
        state: The run state, whose counters give the step and epoch of a value.
        bar: The progress bar.
        ledger: Counts the time.
        keeps_rows: Whether to keep the rows since the last mark, for `log_again`.
    """

    def __init__(
        self, names: Sequence[str], state: RunState, bar: ProgressBar, ledger: TimeLedger, keeps_rows: bool = False
    ) -> None:
        self.names, self.bar, self.ledger = list(names), bar, ledger
        self.state, self._keeps_rows = state, keeps_rows
        self._loggers: list[Logger] = []  # that are open
        self._written: list[Logger] = []  # also those that were closed meanwhile
        self._added: list[Guarded] = []
        self._run = Run(Path())
        self._marked: dict[str, int] = {}  # positions of the loggers at the last mark
        self._since_mark: list[tuple[int, int, dict[str, list[float]]]] = []  # epoch, first step, values
        self._others: list[tuple[int, Callable[[Logger, int], None]]] = []  # since the mark too: step, what logs it

    @contextlib.contextmanager
    def opened(
        self,
        loggers: Sequence[Logger],
        run: Run,
        added: Sequence[Logger] = (),
        until: contextlib.ExitStack | None = None,
    ) -> Iterator[None]:
        """Opens the loggers and the progress bar, and closes them on exit.

        Args:
            loggers: The loggers, whose errors end the run.
            run: The run.
            added: Loggers of the user, whose errors are collected in `problems` once they are open.
            until: Where the loggers of the user are closed; `None` closes them on exit too.

        Raises:
            ValueError: Two loggers have a file of the same name.
        """
        self._run = run
        self._added = [Guarded(logger) for logger in added]
        with contextlib.ExitStack() as stack:
            for logger in loggers:
                self._open(logger, stack)
            for guarded in self._added:
                self._open(guarded, until or stack)
            self._check_names()
            stack.enter_context(self.bar)
            yield

    def _open(self, logger: Logger, stack: contextlib.ExitStack) -> None:
        stack.push(functools.partial(self._close, logger))
        with self.ledger.part("logging"):
            logger.open(self._run)
        self._loggers.append(logger)
        self._written.append(logger)

    def _check_names(self) -> None:
        owners: dict[str, str] = {}
        for logger in self._loggers:
            for name in logger.position():
                if name in owners:
                    raise ValueError(
                        f"Runner(loggers=[...]): {owners[name]} and {logger} both have a file {name!r} in the run "
                        "directory. Leave one of them out, or give it a file of another name."
                    )
                owners[name] = str(logger)

    @property
    def problems(self) -> dict[str, str]:
        """Errors of the loggers of the user, by the logger's name."""
        return {str(logger): logger.problem for logger in self._added if logger.problem is not None}

    def close_added(self, artifacts: Sequence[Path]) -> None:
        """Gives the loggers of the user the files of the finished run, and closes them."""
        for logger in self._added:
            logger.log_artifacts(artifacts)
            self._close(logger, None)

    @counted("logging")
    def log_steps(self, logs: StepLogs) -> None:
        """Logs the last train steps, which the run state counts."""
        values = {f"train/{name}": column.tolist() for name, column in logs.values.items()}
        first = self.state.step - logs.steps + 1
        for logger in self._loggers:
            logger.log_steps(self.state.epochs + 1, first, values)
        if self._keeps_rows:
            self._since_mark.append((self.state.epochs + 1, first, values))

    @counted("logging")
    def log_validation(self) -> None:
        """Logs the last validation, inside an epoch."""
        if self.state.validated is not None:
            for logger in self._loggers:
                logger.log_validation(self.state.epochs + 1, self.state.step, self.state.validated[1])
                logger.flush()

    @counted("logging")
    def log_epoch(self, values: Mapping[str, float]) -> None:
        """Logs the values of the last finished epoch, and adds them to the history."""
        for name in self.names:
            self.state.history.setdefault(name, []).append(values.get(name, math.nan))
        for logger in self._loggers:
            logger.log_epoch(self.state.epochs, self.state.step, values)
            logger.flush()

    def log_best(self, monitor: str | None, again: bool = False) -> None:
        """Logs the monitored value and the validation of the best epoch so far; `again` after a resume."""
        if (best := self.state.best) is not None:
            values = {name: value for name, value in best.logs.items() if name.startswith("val/") or name == monitor}
            self._log(lambda logger, _: logger.log_best(best.step, values, again))

    def log_images(self, images: Mapping[str, bytes], at: int | None = None) -> None:
        """Logs PNG images by tag; `at` is the train step of their weights, `None` for the current one."""
        self._log(lambda logger, step: logger.log_images(step if at is None else at, images))

    def log_text(self, name: str, text: str) -> None:
        """Logs a text in Markdown."""
        self._log(lambda logger, step: logger.log_text(step, name, text))

    def log_diagnostics(self, values: Mapping[str, float]) -> None:
        """Logs values of the training by tag."""
        self._log(lambda logger, step: logger.log_diagnostics(step, values))

    def log_measurements(self, values: Mapping[str, float]) -> None:
        """Logs values by tag that depend on the machine and on when they were taken."""
        self._log(lambda logger, step: logger.log_measurements(step, values))

    def log_histograms(self, histograms: Mapping[str, Histogram]) -> None:
        """Logs histograms by tag."""
        self._log(lambda logger, step: logger.log_histograms(step, histograms))

    @counted("logging")
    def _log(self, log: Callable[[Logger, int], None]) -> None:
        """Logs at the current step, and again if `log_again` removes it."""
        step = self.state.step
        for logger in self._loggers:
            log(logger, step)
            logger.flush()
        if self._keeps_rows:
            self._others.append((step, log))

    def mark(self) -> None:
        """Records the positions of the loggers; the state must be finite."""
        if self._keeps_rows:
            self._marked, self._since_mark, self._others = self.positions(), [], []

    def log_again(self, step: int, last: Mapping[str, float]) -> None:
        """Removes the rows from a step on, and logs that step with other values, by plain name."""
        values = {f"train/{name}": [value] for name, value in last.items()}
        rows = [(epoch, first, columns) for epoch, first, columns in self._since_mark if first < step]
        others = [(at, log) for at, log in self._others if at < step]
        first = rows[0][1] - 1 if rows else step - 1
        for logger in self._loggers:
            logger.rewind(dataclasses.replace(self._run, position=self._marked, step=first))
            for epoch, first, columns in rows:
                count = step - first
                logger.log_steps(epoch, first, {name: column[:count] for name, column in columns.items()})
            logger.log_steps(self.state.epochs + 1, step, values)
            for at, log in others:
                log(logger, at)
        self._since_mark, self._others = [*rows, (self.state.epochs + 1, step, values)], others

    def positions(self) -> dict[str, int]:
        """Sizes of the log files, by name: where a resume cuts them."""
        return {name: size for logger in self._loggers for name, size in logger.position().items()}

    def checksums(self) -> dict[str, int]:
        """CRC-32C of the log files up to their positions, by name."""
        return {name: value for logger in self._loggers for name, value in logger.checksums().items()}

    def sync(self) -> None:
        """Waits until everything logged is on the disk."""
        for logger in self._written:
            logger.sync()

    def saved(self, positions: Mapping[str, int]) -> None:
        """Tells the loggers that a checkpoint with these positions is on the disk."""
        for logger in self._written:
            logger.saved(positions)

    @counted("logging")
    def _close(
        self, logger: Logger, kind: type[BaseException] | None, error: BaseException | None = None, *_: Any
    ) -> None:
        if logger in self._loggers:
            self._loggers.remove(logger)
        try:
            logger.close(failed=kind is not None or self.state.diverged)
        except OSError as second:
            if error is None:
                raise
            error.add_note(str(second))  # the first error is the one to raise
