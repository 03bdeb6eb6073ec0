"""What a run does otherwise where several processes share it: one of them writes, and all must do the same.

What they exchange between two calls of the compiled step is in `agreement.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from lightkeras import hparams
from lightkeras.data import ArrayFeed, Feed, StreamFeed
from lightkeras.engine import current_world, over_devices
from lightkeras.engine.launchers import launched
from lightkeras.runs.directory import RunDirectory
from lightkeras.system import display, environment, messages
from lightkeras.system.value_names import within
from lightkeras.task import Task
from lightkeras.training.fit import Fit
from lightkeras.training.freezing import layers_within
from lightkeras.training.settings import Settings

_SAME = "Start every process with the same command, code, packages and data."


@contextlib.contextmanager
def in_world(settings: Settings) -> Iterator[None]:
    """Context in which a task is built and trained, on the devices of the settings and with the other processes.

    Processes that do not write the run print only errors.

    Raises:
        ValueError: There are no such devices, or variables of a launcher are wrong.
        WorldError: Another process did not come.
    """
    with current_world().watched(), quiet(), over_devices(settings.devices):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context in which a process that does not write the run shows nothing but errors."""
    if current_world().is_writer:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with display.muted(), messages.unannounced():
            yield


def quiet_command() -> contextlib.AbstractContextManager[None]:
    """`quiet` for a command, which may not need a backend."""
    return contextlib.nullcontext() if launched() is None else quiet()


def agreed_path(path: Path) -> Path:
    """The path that the process that writes has: the name of a new run directory is random."""
    found = current_world().first("run directory", str(path))
    return path if current_world().is_writer else Path(found)


def check_alone(what: str) -> None:
    """Refuses what a process does by itself where there are several.

    Raises:
        ValueError: There are.
    """
    if current_world().processes > 1:
        raise ValueError(
            f"{what} is done by one process, and there are {current_world().processes}: start it without a launcher."
        )


def settings_of(settings: Settings) -> Settings:
    """The settings, without what only the process that writes does."""
    if current_world().is_writer:
        return settings
    return dataclasses.replace(
        settings, loggers=(), progress=False, pictures=False, export=False, profile=False, draw_every=None
    )


def directory_of(directory: RunDirectory) -> RunDirectory:
    """The directory that this process writes to: a temporary one, unless it is the process that writes."""
    if current_world().is_writer:
        return directory
    name = f"lightkeras-rank-{current_world().rank}-{secrets.token_hex(4)}"
    return RunDirectory(Path(tempfile.gettempdir()) / name)


@contextlib.contextmanager
def cleared(fit: Fit) -> Iterator[None]:
    """Removes the directory of a process that does not write the run on exit."""
    try:
        yield
    finally:
        if not fit.world.is_writer:
            shutil.rmtree(fit.directory.path, ignore_errors=True)


def check_start(task: Task, settings: Settings) -> None:
    """Checks that all processes would begin alike, before models are built: an error names the setting that differs.

    Raises:
        ValueError: They differ.
    """
    if current_world().processes > 1:
        current_world().check_same("settings", start_of(task, settings.record()), _SAME)


def check(fit: Fit) -> None:
    """Checks that all processes of a run have the same data, and warns of layers that see only a part of a batch.

    Raises:
        ValueError: They differ.
    """
    if fit.world.processes == 1:
        return
    feeds = {"train": fit.train_stepper, **{within("validation", n): s for n, s in fit.validation_steppers.items()}}
    data = {
        name: {
            "fingerprint": None
            if isinstance(stepper.feed, ArrayFeed) and stepper.feed.is_large
            else stepper.feed.fingerprint(),
            "batch_size": stepper.feed.batch_size,
            "batches": stepper.steps,
        }
        for name, stepper in feeds.items()
    }
    variables = {f"{v.path} ({key})": f"{v.dtype}{list(v.shape)}" for key, v in fit.task.variables().items()}
    fit.world.check_same("data and variables", {"data": data, "variables": variables}, _SAME)
    for by_parts, what in (
        (True, "each process reads its part of every batch."),
        (False, "every process reads all batches of a stream, and takes its part of each."),
    ):
        streams = [name for name, stepper in feeds.items() if reads_parts(stepper.feed) is by_parts]
        if streams:
            messages.announce(f"{' and '.join(streams)}: {what}", once=True)
    separate = separate_normalizations(fit.task) if fit.world.layers_see_parts else []
    if separate and fit.settings.preflight:
        warnings.warn(
            f"{', '.join(separate[:3])}{' and others' * (len(separate) > 3)} normalize the part of a batch that each "
            f"of {fit.world.processes} processes has: the numbers differ from those of one process. Set "
            "`layer.synchronized = True` of each.",
            UserWarning,
            stacklevel=2,
        )


def reads_parts(feed: Feed) -> bool | None:
    """Whether a process reads only its part of every batch of a stream; `None` for arrays in memory."""
    return feed.open_parts is not None if isinstance(feed, StreamFeed) else None


def start_of(task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same in all processes before a task is built, for `World.check_same`."""
    left_out = ("run_dir", "loggers", "progress", "pictures", "export", "profile", "draw_every", "features")
    return {
        "task": type(task).__name__,
        "hparams": hparams.to_dict(task.hp),
        "runner": {name: value for name, value in settings.items() if name not in left_out},
        "backend": keras.backend.backend(),
        "versions": environment.versions(),
    }


def separate_normalizations(task: Task) -> list[str]:
    """Paths of the batch normalizations that see only their process's part of a batch."""
    outer = {path: found for path, found in task.tracked().items() if isinstance(found, keras.Layer)}
    return [
        path
        for path, layer in layers_within(outer)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and not layer.synchronized
    ]
