"""Profiler: times the calls of a fit, traces one of them with the backend's profiler, and writes `profile.json`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import final

from lightkeras.engine.base import StepLogs
from lightkeras.runs.directory import RunDirectory
from lightkeras.system import files
from lightkeras.system.value_names import within
from lightkeras.training.freezing import TracedSteps
from lightkeras.training.recorder import Recorder
from lightkeras.training.stepper import bound_engine


@final
class Profiler:
    """Times the calls of a fit, and lets the backend's profiler trace one if `traces`."""

    def __init__(self, traced: TracedSteps, recorder: Recorder, directory: RunDirectory, traces: bool) -> None:
        self._task, self._train, self._validation = traced.task, traced.train_stepper, traced.validation_steppers
        self.ledger, self._directory, self._bar, self._traces = recorder.ledger, directory, recorder.bar, traces
        self._calls = self._steps = 0
        self._compiled, self._compiled_to_validate = 0, dict.fromkeys(self._validation, 0)

    def begin(self) -> None:
        """Counts from here: the preflight compiled before, which is part of the start."""
        self._compiled = len(self._train.calls.compiled)
        self._compiled_to_validate = {name: len(found.calls.compiled) for name, found in self._validation.items()}

    @contextlib.contextmanager
    def one_call(self) -> Iterator[None]:
        """Times a compiled call. The second call is traced: the first compiles, and a whole run would be too large."""
        self._calls += 1
        with self.ledger.part("trace"), contextlib.ExitStack() as stack:
            if self._traces and self._calls == 2:
                try:
                    stack.enter_context(bound_engine(self._task).traced(self._directory.profile))
                except RuntimeError as error:  # for example, a callback is profiling already
                    self._bar.print_line(f"No trace was written: {error}")
            with self.ledger.part("compute"):
                yield

    def count_call(self, logs: StepLogs, seconds: float) -> None:
        """Moves the time that a call of `seconds` waited for data, or all of it if it compiled, to those parts."""
        self._steps += logs.steps
        self.ledger.move(logs.waited, "compute", "data")
        if len(self._train.calls.compiled) > self._compiled:
            self._compiled = len(self._train.calls.compiled)
            self.ledger.move(seconds - logs.waited, "compute", "compilation")

    def count_validation(self) -> None:
        """Moves the time of compilations in the last validation to that part."""
        for name, stepper in self._validation.items():
            compiled = stepper.calls.compiled[self._compiled_to_validate[name] :]
            self._compiled_to_validate[name] += len(compiled)
            self.ledger.move(sum(found.seconds for found in compiled), "validation", "compilation")

    def write(self) -> None:
        """Writes `profile.json`: the time by part, and every compilation with its cause."""
        held_out = {within("validation", name): stepper for name, stepper in self._validation.items()}
        steppers = {"train": self._train, **held_out}
        compilations = [
            {"step": name, "form": found.form, "seconds": round(found.seconds, 6), "cause": found.cause}
            for name, stepper in steppers.items()
            for found in stepper.calls.compiled
        ]
        trace = str(self._directory.profile) if self._directory.profile.exists() else None
        summary = self.ledger.summary(self._steps)
        files.write_json(self._directory.profile_file, {**summary, "compilations": compilations, "trace": trace})
