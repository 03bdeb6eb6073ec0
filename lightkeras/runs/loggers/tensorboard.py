"""TensorBoardLogger: the event files of a run.

Tags:

    train/<name>           at every train step
    val/<name>             at every epoch and every validation inside an epoch, on the axis of train steps
    epoch/<split>/<name>   means over each epoch, on an axis of epochs
    run/<name>             learning rates, speed and memory, at epochs and every 10 s
    weights/, gradients/   histograms of each variable, at epochs, if the run logs them
    <split>/<picture>      figures of the task, at the train step of their weights
    (any other)            texts and images of `Task.log_text` and `Task.log_image`
    config                 the configuration, as text

and in `hparams/` what the HParams tab lists, see `hparams_run`.

A resumed run writes a new file: a TensorBoard that has read the old file past the checkpoint would not read what is
written before that position. The new file's name sorts after all others, because TensorBoard reads files in the order
of their names. It begins with `SessionLog.START`, at which TensorBoard drops the points of later steps; the first file
needs one too, because the first start that a reader sees drops nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

from tensorboard.compat.proto import event_pb2

from lightkeras.runs.loggers.base import Logger, Run
from lightkeras.runs.loggers.event_file import SUFFIX, EventFile, is_ours, remove, replaced
from lightkeras.runs.loggers.histogram import Histogram
from lightkeras.runs.loggers.hparams_run import HParamsRun
from lightkeras.runs.loggers.summaries import (
    config_summary,
    histograms_summary,
    images_summary,
    scalars,
    text_summary,
    train_beside_validation,
)
from lightkeras.runs.loggers.tfrecord import whole_records
from lightkeras.system import files

MACHINE = "machine"
"""Folder of the event files with speed and memory."""


@final
class TensorBoardLogger(Logger):
    """Writes event files that TensorBoard reads, with the hyperparameters and the configuration as text."""

    def __init__(self) -> None:
        self._folder = Path()
        self._listed: HParamsRun | None = None
        self._earlier: dict[str, int] = {}
        self._file: EventFile | None = None
        self._machine: EventFile | None = None
        self._opened_at = 0
        self._written: Path | None = None

    def open(self, run: Run) -> None:
        self._folder = run.directory
        known = {name: size for name, size in (run.position or {}).items() if is_ours(name)}
        # Made first: its name must sort after all others, also after those removed next.
        self._file = EventFile(self._folder, run.step)
        self._written = self._file.path
        self._earlier = {}
        if run.position is not None:
            self._remove_all_but({*known, self._file.path.name})
            self._earlier = {name: kept for name, size in known.items() if (kept := self._cut(name, size)) is not None}
        first = min(known, default=None)
        if first is None or self._earlier.get(first) != known[first]:  # the first file begins with the configuration
            self._file.add(config_summary(run.config))
            self._file.add(train_beside_validation(run.names))
        self._file.flush()
        self._opened_at = run.step
        if self._listed is None:  # opened again, it keeps the values of the best epoch
            self._listed = HParamsRun(self._folder, run.hparams)
        self._listed.open()

    def log_steps(self, epoch: int, first_step: int, values: Mapping[str, Sequence[float]]) -> None:
        # One event object is reused for all steps: making one costs more than setting its numbers.
        event = event_pb2.Event(wall_time=time.time(), summary=scalars(dict.fromkeys(values, 0.0)))
        shown = list(event.summary.value)

        def of_each_step() -> Iterator[event_pb2.Event]:
            for step, row in enumerate(zip(*values.values(), strict=True), first_step):
                event.step = step
                for place, value in zip(shown, row, strict=True):
                    place.simple_value = value
                yield event

        self._opened().write(of_each_step())

    def log_validation(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._opened().add(scalars(values), step)

    def log_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        validation = {name: value for name, value in values.items() if name.startswith("val/")}
        if validation:
            self._opened().add(scalars(validation), step)
        self._opened().add(scalars({f"epoch/{name}": value for name, value in values.items()}), epoch)

    def log_best(self, step: int, values: Mapping[str, float], again: bool = False) -> None:
        if not again:
            self._opened().add(scalars({f"best/{name}": value for name, value in values.items()}), step)
        if self._listed is not None:
            self._listed.log_best(step, values)

    def log_images(self, step: int, images: Mapping[str, bytes]) -> None:
        if images:
            self._opened().add(images_summary(images), step)

    def log_text(self, step: int, name: str, text: str) -> None:
        self._opened().add(text_summary(name, text), step)

    def log_diagnostics(self, step: int, values: Mapping[str, float]) -> None:
        self._opened().add(scalars(values), step)

    def log_measurements(self, step: int, values: Mapping[str, float]) -> None:
        # Apart from the points of the run, which are the same however often it was resumed.
        if self._machine is None:
            folder = self._folder / MACHINE
            with files.explained(folder):
                files.make_folder(folder)
            self._machine = EventFile(folder, self._opened_at)
        self._machine.add(scalars(values), step)

    def log_histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        self._opened().add(histograms_summary(histograms), step)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()
        if self._machine is not None:
            self._machine.flush()
        if self._listed is not None:
            self._listed.flush()

    def position(self) -> dict[str, int]:
        file = self._opened()
        file.flush()
        return {**self._earlier, file.path.name: file.size}

    def sync(self) -> None:
        if self._written is not None:  # by path: the logging thread may close the file meanwhile
            with files.explained(self._written):
                files.sync(self._written)
                files.sync(self._folder)  # for the name of a new file

    def close(self, failed: bool = False) -> None:
        with contextlib.ExitStack() as stack:  # each, also on a full disk
            if self._listed is not None:
                stack.callback(self._listed.close, failed)
            for file in filter(None, (self._machine, self._file)):
                stack.callback(file.close)
            self._machine = self._file = None

    def _opened(self) -> EventFile:
        if self._file is None:
            raise RuntimeError("TensorBoardLogger: open(run) must be called before the first value.")
        return self._file

    def _remove_all_but(self, names: set[str]) -> None:
        """Removes event files of this logger that are newer than the checkpoint that the run resumes from."""
        found = sorted(self._folder.glob(f"events.out.tfevents.*{SUFFIX}"))
        remove(path for path in found if path.name not in names)

    def _cut(self, name: str, size: int) -> int | None:
        """Removes the content after a position. Returns the remaining bytes; `None` if the file is missing."""
        path = self._folder / name
        found = os.lstat(path).st_size if files.is_file(path) else None
        kept = None if found is None else whole_records(path, size)
        if kept != size:
            problem = "is missing" if found is None else f"ends at byte {found}" if found < size else "was changed"
            warnings.warn(
                f"{path} {problem}, but the run was saved when it "
                f"held {size} bytes: its points from byte {kept or 0} on are lost. Resuming without them.",
                stacklevel=3,
            )
        if kept is not None:
            files.truncate(path, kept)
        return kept


def write_images(folder: Path, split: str, step: int, images: Mapping[str, bytes]) -> None:
    """Writes images by tag to an event file of their own, in the place of the earlier one of the same split."""
    if images:
        file = replaced(folder, split)
        file.add(images_summary(images), step)
        file.close()
    else:
        remove(sorted(folder.glob(f"events.out.tfevents.*.{split}{SUFFIX}")))
