"""Configuration of a run: what `config.json` records, and whether a run that is resumed is still the same."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightkeras.data.class_weights import recorded
from lightkeras.data.feed import ArrayFeed
from lightkeras.encoders import saved_state
from lightkeras.runs import checkpoint, formats
from lightkeras.runs.checkpoint import Checkpoint
from lightkeras.runs.loggers.csv import header_of, merged_header, warn_if_changed
from lightkeras.runs.resume import (
    Changes,
    changed_fingerprints,
    check_changes,
    choose_checkpoint,
    code_of,
    compare_configs,
    held_out_record,
    read_run,
    with_fingerprints,
)
from lightkeras.system import environment, files
from lightkeras.system.value_names import within
from lightkeras.task import class_weight_of
from lightkeras.training.fit import Fit
from lightkeras.training.initial_weights import parts_of
from lightkeras.training.model_summary import are_alike, models_of
from lightkeras.training.setup import Ready
from lightkeras.training.stepper import Stepper, is_reordered


def config_of(fit: Fit, init_from: Path | None = None, complete: bool = True) -> dict[str, Any]:
    """The entries of `config.json`; unless `complete`, without the fingerprints of large arrays, see `completed`."""
    from lightkeras.encoders import hub  # its layers extend those of Keras: imports Keras

    encoder, data = fit.task.frozen(), fit.task.data
    classes = [] if data is None else [str(name) for name in data.class_names]
    return {
        **fit.facts,
        "runner": {**fit.settings.record(), "run_dir": str(fit.directory.path)},
        **({"processes": fit.world.processes} if fit.world.processes > 1 else {}),
        "data": {**_data_of(fit, complete), **({"class_names": classes} if classes else {})},
        "monitor": {"name": fit.monitor, "mode": fit.state.patience.mode},
        "code": code_of(type(fit.task)),
        "lookup": fit.task.lookup.record(),
        "modules": hub.modules_in(parts_of(fit.task)),
        "models": models_of(fit.task),
        **({} if encoder is None else {"encoder": encoder.record()}),
        **({} if class_weight_of(fit.task) is None else {"class_weight": recorded(class_weight_of(fit.task))}),
        "machine": environment.machine(),
        **({} if init_from is None else {"init_from": str(init_from)}),
        "seed": fit.settings.seed,
        "argv": sys.argv,
        "started": environment.now("milliseconds"),  # runs are listed in this order
    }


def _data_of(fit: Fit, complete: bool) -> dict[str, Any]:
    held_out = {name: _held_out(stepper, complete) for name, stepper in fit.validation_steppers.items()}
    return {
        "source": fit.facts["source"],
        "fingerprint": _fingerprint(fit.train_stepper, complete),
        "batch_size": fit.train_stepper.feed.batch_size,
        "batches": fit.train_stepper.steps,
        "validation": held_out_record(held_out),
    }


def _held_out(stepper: Stepper, complete: bool) -> dict[str, Any]:
    """The record of a validation set. Its batch size may change: the examples that are used may not."""
    feed, steps = stepper.feed, stepper.steps
    used = {"batches": steps}
    if isinstance(feed, ArrayFeed):
        used = {"examples": min(feed.examples, (steps or 0) * feed.batch_size)}
    return {"fingerprint": _fingerprint(stepper, complete), **used}


def _fingerprint(stepper: Stepper, complete: bool) -> str | None:
    return stepper.fingerprint() if complete or not _is_large(stepper) else None


def _is_large(stepper: Stepper) -> bool:
    return isinstance(stepper.feed, ArrayFeed) and stepper.feed.is_large


@contextlib.contextmanager
def completed(fit: Fit, config: Mapping[str, Any], ready: Ready) -> Iterator[None]:
    """Adds the fingerprints of large arrays to `config.json` while a new run trains, at the latest at its end.

    A gigabyte takes a second. If the run is killed before, its data cannot be compared by a resume.
    """
    if (
        ready.resume
        or not fit.world.is_writer
        or not any(map(_is_large, (fit.train_stepper, *fit.validation_steppers.values())))
    ):
        yield
        return

    def complete() -> None:
        fit.directory.write_config({**config, "data": {**config["data"], **_data_of(fit, complete=True)}})

    with concurrent.futures.ThreadPoolExecutor(1, "lightkeras-fingerprint") as thread:
        done = thread.submit(complete)
        yield
        done.result()


def begin(fit: Fit, config: Mapping[str, Any], ready: Ready) -> tuple[Checkpoint | None, bool, Callable[[], None]]:
    """Writes `config.json` of a run that begins, and finds the checkpoint of one that resumes.

    Of several processes, one does both, and the others read the checkpoint that it found.

    Returns:
        The checkpoint to resume from, or `None`; whether a run without a checkpoint restarts; and a function that
        writes the `config.json` of a resumed run, to be called when its state is restored: until then it may be
        refused, and must stay as it was.

    Raises:
        FileExistsError: The run directory holds another run.
        ValueError: `config.json` or `result.json` is damaged.
        ChangedRunError: Data or hyperparameters changed, and `accept_changes` is false.
        CheckpointError: All checkpoints are damaged.
    """
    if not fit.world.is_writer:
        return _followed(fit), False, lambda: None
    begun = _begin(fit, config, ready)
    found = begun[0]
    fit.world.first("checkpoint", None if found is None else [str(found.path.absolute()), found.state])
    return begun


def _followed(fit: Fit) -> Checkpoint | None:
    """The checkpoint that the process that writes resumes from.

    Raises:
        FileNotFoundError: This process cannot read the run directory.
    """
    found = fit.world.first("checkpoint", None)
    if found is None:
        return None
    path, state = Path(found[0]), found[1]
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist on {fit.world.name}: every process reads the checkpoint that the run resumes from. "
            "Give a run_dir on a file system that all hosts share."
        )
    return dataclasses.replace(checkpoint.load(path, formats.RunState), state=state)


def _begin(fit: Fit, config: Mapping[str, Any], ready: Ready) -> tuple[Checkpoint | None, bool, Callable[[], None]]:
    """See `begin`."""
    bar = fit.recorder.bar
    if not ready.resume or not fit.directory.config_file.exists():
        if ready.resume:
            bar.print_line(f"{fit.directory.path} holds no run: starting a new one.")
        fit.directory.check_unused()
        saved_state.write(fit.task.frozen(), fit.directory.encoder_file)  # before config.json, which makes it a run
        fit.directory.write_config(config)
        return None, False, lambda: None
    before, changes, found = compared(fit, config, ready)
    if ready.wanted is not None:  # before logs are cut: if the process is killed now, the run resumes from there
        checkpoint.point(fit.directory.checkpoints, "last", ready.wanted)
    step = 0 if found is None else found.state["step"]
    record = {"step": step, "at": config["started"], "argv": config["argv"], "changed": changes.lines}
    resumed = [*before.get("resumed", []), record]
    data = with_fingerprints(config["data"], before["data"])
    kept: dict[str, Any] = {name: before[name] for name in ("started", "argv", "init_from") if name in before}
    kept |= {"data": data, "resumed": resumed}
    if are_alike(before.get("models", {}), config["models"]):
        kept["models"] = before.get("models", {})
    bar.print_line(f"Resuming after step {step:,}." if found else "The run has no checkpoint: starting again.")
    return (
        found,
        found is None,
        lambda: fit.directory.write_config({**config, **kept}),
    )


def compared(fit: Fit, config: Mapping[str, Any], ready: Ready) -> tuple[dict[str, Any], Changes, Checkpoint | None]:
    """Compares a run with its saved configuration.

    Returns:
        The saved configuration, the changes, and the checkpoint to resume from; `None` if the run has no checkpoint.

    Raises:
        ChangedRunError: Data or hyperparameters changed, and `accept_changes` is false.
        CheckpointError: All checkpoints are damaged.
    """
    before = read_run(fit.directory)
    fit.directory.read_result()  # if it is damaged, raise before training
    changes = compare_configs(before, config, reordered=_reordered(fit, before, config))
    check_changes(changes, ready.accept_changes)
    found = choose_checkpoint(fit.directory, ready.wanted)
    if found is not None:
        _check(fit, found)
    return before, changes, found


def _check(fit: Fit, resumed: Checkpoint) -> None:
    """Checks that the run can be resumed from a checkpoint, before anything is written.

    Raises:
        CheckpointError: The checkpoint does not fit the task.
        ValueError: The run logs other values than its `metrics.csv` has.
    """
    fit.checkpointer.check(resumed)
    metrics = fit.directory.metrics_file
    size = resumed.state["logs"].get(metrics.name, 0)
    if size and files.is_file(metrics) and metrics.stat().st_size:
        merged_header(metrics, header_of(fit.recorder.names))
        if (checksum := resumed.state.get("checksums", {}).get(metrics.name)) is not None:
            warn_if_changed(metrics, size, checksum)


def _reordered(fit: Fit, before: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """The splits whose first batch changed because their source orders each epoch anew."""
    changed = changed_fingerprints(before, config)
    held_out = {within("validation", name): stepper for name, stepper in fit.validation_steppers.items()}
    return [
        name
        for name, stepper in {"train": fit.train_stepper, **held_out}.items()
        if name in changed and stepper.first_batch is not None and is_reordered(stepper)
    ]
