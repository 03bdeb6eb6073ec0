"""What comes before the loop: a task is made ready, checked and compiled; a run is begun or gone on with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from lightkeras import hparams
from lightkeras.data import ArrayFeed, DataModule, Feed
from lightkeras.data.arrays import as_feed, holds_arrays
from lightkeras.encoders import hub, saved_state
from lightkeras.encoders.base import Encoder, batches_of
from lightkeras.encoders.features import encode_feed
from lightkeras.engine.base import Engine, Step, Trace
from lightkeras.runs import checkpoint
from lightkeras.runs.checkpoint import Checkpoint
from lightkeras.runs.directory import RunDirectory, check_directory, run_path, snake_case
from lightkeras.runs.resume import (
    Changes,
    check_changes,
    choose_checkpoint,
    code_of,
    compare_configs,
    read_run,
    run_and_checkpoint,
)
from lightkeras.system import environment
from lightkeras.system.locks import check_free
from lightkeras.task import Task
from lightkeras.training import decisions, preflight
from lightkeras.training.callbacks import CallbackBridge
from lightkeras.training.fit import Fit
from lightkeras.training.pictures import Drawing, has_pictures
from lightkeras.training.progress_bar import ProgressBar
from lightkeras.training.settings import Settings
from lightkeras.training.stepper import Stepper, bound_engine


def make_ready(
    task: Task, seed: int, given: bool, fit_encoder: Callable[[Encoder], None] | None = None
) -> DataModule | None:
    """Sets up the task, and prepares its data unless some was given.

    Args:
        task: The task.
        seed: Seed of its initial weights.
        given: Whether data was given.
        fit_encoder: As in `Task.set_up`.
    """
    task.set_up(seed, fit_encoder)
    data = task.data
    if data is None and not given:
        raise ValueError(
            f"There is no data: {type(task).__name__}.build_data returns None. "
            "Give the data to the runner, or return a DataModule."
        )
    if data is not None and not given:
        data.prepare(task.lookup)
    return None if given else data


def learn_from(train: Any, batch_size: int, directory: RunDirectory | None = None) -> Callable[[Encoder], None] | None:
    """How an encoder comes to what it needs to know, for `Task.set_up`.

    Args:
        train: The train split, if one was given.
        batch_size: Examples per batch of arrays.
        directory: A run that is gone on with, or whose weights are taken: what its encoder learned belongs to its
            weights. `None` if there is none.
    """
    if directory is not None and directory.config_file.exists():
        return saved_state.reader(directory.encoder_file)
    return None if train is None else lambda encoder: encoder.fit(batches_of(as_feed(train, batch_size)))


def place(
    settings: Settings, task: Task, resume: bool | str | Path, accept_changes: bool
) -> tuple[RunDirectory, Path | None]:
    """The run directory, and the checkpoint to go on from if a certain one was asked for.

    Raises:
        ValueError: It does not say which run, or what is there is no run.
        FileNotFoundError: There is no run at the path.
        FileExistsError: The directory holds a run, and that is not to be gone on with.
        RunLockedError: Another process is at work there.
    """
    if accept_changes and not resume:
        raise ValueError("accept_changes=True (--accept_changes) belongs to a resume: give resume (--resume) as well.")
    directory, wanted = _place(settings, task, resume)
    check_free(directory.lock_file)  # now rather than after everything was compiled
    if resume and directory.config_file.exists():
        read_run(directory)
    else:
        directory.check_unused()
    return directory, wanted


def _place(settings: Settings, task: Task, resume: bool | str | Path) -> tuple[RunDirectory, Path | None]:
    if isinstance(resume, bool):
        if resume and settings.run_dir is None:
            raise ValueError("resume=True, but of which run? Give its run_dir, or the directory as resume=PATH.")
        return directory_of(settings, task), None
    directory, wanted = run_and_checkpoint(Path(resume))
    read_run(directory)  # raises where there is no run
    if settings.run_dir is not None and Path(settings.run_dir).resolve() != directory.path.resolve():
        raise ValueError(f"resume={str(resume)!r} is not in run_dir={str(settings.run_dir)!r}: give one of the two.")
    return directory, wanted


def begin(fit: Fit, config: Mapping[str, Any]) -> None:
    """Writes the configuration of a new run.

    Raises:
        FileExistsError: The run directory holds another one.
    """
    fit.directory.check_unused()
    saved_state.write(fit.task.frozen(), fit.directory.encoder_file)  # first: where there is a run, it is there
    fit.directory.write_config(config)


def go_on(
    fit: Fit, config: Mapping[str, Any], wanted: Path | None, accept_changes: bool
) -> tuple[Checkpoint | None, bool]:
    """Goes on with the run in the directory, if there is one.

    Args:
        fit: The fit.
        config: Its configuration.
        wanted: The checkpoint to go on from; `None` for the newest that is whole.
        accept_changes: Whether data and hyperparameters may differ.

    Returns:
        The checkpoint to go on from; and, where there is none, whether the run was begun before.

    Raises:
        ValueError: `config.json` or `result.json` is damaged.
        ChangedRunError: Data or hyperparameters differ, and that was not accepted.
        CheckpointError: No checkpoint is whole.
    """
    if not fit.directory.config_file.exists():
        fit.bar.say(f"{fit.directory.path} holds no run yet: it begins.")
        begin(fit, config)
        return None, False
    before, changes, found = compared(fit, config, wanted, accept_changes)
    if wanted is not None:  # before logs are cut: killed now, the run goes on from there
        checkpoint.point(fit.directory.checkpoints, "last", wanted)
    step = 0 if found is None else found.state["step"]
    record = {"step": step, "at": config["started"], "argv": config["argv"], "changed": changes.lines}
    resumed = [*before.get("resumed", []), record]
    fit.directory.write_config({**config, **{k: before[k] for k in ("started", "argv")}, "resumed": resumed})
    fit.bar.say(f"The run goes on after step {step:,}." if found else "The run was never saved: it begins again.")
    return found, found is None


def compared(
    fit: Fit, config: Mapping[str, Any], wanted: Path | None, accept_changes: bool
) -> tuple[dict[str, Any], Changes, Checkpoint | None]:
    """What a run was started with, what has changed since, and the checkpoint that it goes on from.

    Raises:
        ChangedRunError: Data or hyperparameters changed, and that was not accepted.
        CheckpointError: No checkpoint is whole.
    """
    before = read_run(fit.directory)
    fit.directory.read_result()  # what is added to at the end: told now rather than when all is trained
    changes = compare_configs(before, config)
    check_changes(changes, accept_changes)
    return before, changes, choose_checkpoint(fit.directory, wanted)


def make_fit(
    settings: Settings,
    task: Task,
    data: DataModule | None,
    directory: RunDirectory,
    train: Feed,
    validation: Feed | None,
) -> Fit:
    """Traces, checks and compiles; writes nothing."""
    preflight.check_feed(task, train, "train")
    train = encode_feed(train, task.frozen(), settings.features)
    engine = bound_engine(task)
    trace = preflight.trace_train(task, engine, train)
    train_stepper = pass_over(train, task, engine, task.run_train_step, trace, settings.limit_batches.train)
    names = preflight.epoch_names(task, trace, "train")
    validation_stepper = None
    if validation is not None:
        preflight.check_feed(task, validation, "validation")
        validation = encode_feed(validation, task.frozen(), settings.features)
        evaluation = preflight.trace_evaluate(task, engine, validation, train)
        names += preflight.epoch_names(task, evaluation, "val")
        limit = settings.limit_batches.validation
        validation_stepper = pass_over(validation, task, engine, task.run_evaluate_step, evaluation, limit)
    monitor = settings.monitor or next((name for name in ("val/loss", "train/loss") if name in names), None)
    if monitor is not None:
        preflight.check_monitor(monitor, names)
    if settings.checkpoints.keep_by is not None:
        preflight.check_monitor(settings.checkpoints.keep_by, names, "Checkpoints.keep_by")
    mode = settings.mode or (decisions.infer_mode(monitor) if monitor is not None else "min")
    optimizers = trace.optimizers()
    model = task.model_of_callbacks(optimizers[0][0])
    bridge = CallbackBridge(
        [*settings.callbacks, *task.build_callbacks()], model, settings.max_epochs, train_stepper.steps
    )
    bridge.check_monitors(names)
    fit = Fit(
        task=task,
        train_stepper=train_stepper,
        validation_stepper=validation_stepper,
        names=names,
        monitor=monitor,
        progress=decisions.Patience(mode),
        optimizers=optimizers,
        bridge=bridge,
        directory=directory,
        facts=_facts(task, data, train),
        bar=ProgressBar(settings.max_epochs, train_stepper.steps, settings.progress),
        engine=engine,
        drawing=_drawing(settings, task, engine, train, validation),
        seed=settings.seed,
        skip_broken=settings.skip_broken,
        checkpoints=settings.checkpoints,
        traces=settings.profile,
    )
    for name, value in task.numbers_logged().items() if engine.compiles else ():
        fit.bar.say(
            f"log({name!r}) was given the number {value:g} and no tensor: the step is compiled, and every step will "
            "log what the number is then. Log a tensor or a keras.Variable if it is to change."
        )
    if settings.draw_every is not None and not has_pictures(task):
        fit.bar.say(f"draw_every={settings.draw_every}: {type(task).__name__} defines no `draw`, so nothing is drawn.")
    check_directory(directory, needed_bytes=5 * fit.state_bytes)
    if settings.preflight:
        preflight.run(task, engine, trace, train_stepper, validation_stepper)
    return fit


def config_of(settings: Settings, fit: Fit) -> dict[str, Any]:
    """What `config.json` says of a run."""
    encoder = fit.task.frozen()
    return {
        **fit.facts,
        "runner": {**settings.record(), "run_dir": str(fit.directory.path)},
        "data": {
            "source": fit.facts["source"],
            "fingerprint": fit.train_stepper.feed.fingerprint(),
            "batch_size": fit.train_stepper.feed.batch_size,
            "batches": fit.train_stepper.steps,
        },
        "monitor": {"name": fit.monitor, "mode": fit.progress.mode},
        "code": code_of(type(fit.task)),
        "lookup": fit.task.lookup.record(),
        "modules": hub.modules_in(parts_of(fit.task)),
        **({} if encoder is None else {"encoder": encoder.record()}),
        "machine": environment.machine(),
        "seed": settings.seed,
        "argv": sys.argv,
        "started": environment.now(),
    }


def parts_of(task: Task) -> list[Any]:
    """All in which a module may be: models, layers and the encoder."""
    encoder = task.frozen()
    return [*task.tracked().values(), *([] if encoder is None else [encoder])]


def check_frozen(task: Task, config: Mapping[str, Any]) -> None:
    """Checks that a task has the frozen parts of the run whose weights it takes.

    Raises:
        ValueError: A module or the encoder is another one.
    """
    hub.check_modules(parts_of(task), config.get("modules", []))
    encoder, recorded = task.frozen(), config.get("encoder", {}).get("fingerprint")
    found = None if encoder is None else encoder.fingerprint
    if found != recorded:
        raise ValueError(
            f"The saved run used an encoder with the fingerprint {recorded or 'none'}, and this task's is "
            f"{found or 'none'}: its weights are for other features. Use the build_encoder that it was made with."
        )


def directory_of(settings: Settings, task: Task | None = None) -> RunDirectory:
    """The run directory that was given, or a new one for a task."""
    if settings.run_dir is not None:
        return RunDirectory(Path(settings.run_dir))
    if task is None:
        raise ValueError("There is no run directory to look in: give one, as in Runner(run_dir=result.run_dir).")
    return RunDirectory(run_path(None, snake_case(type(task).__name__)))


def feeds_of(data: DataModule | None, train: Any, validation: Any, batch_size: int) -> tuple[Feed, Feed | None]:
    """The train and validation splits: those given, else those of the data module."""
    watched = None if validation is None else as_feed(validation, batch_size)
    if data is None:
        return as_feed(train, batch_size, shuffle=holds_arrays(train)), watched
    return data.train(), data.validation() if validation is None else watched


def _drawing(settings: Settings, task: Task, engine: Engine, train: Feed, validation: Feed | None) -> Drawing | None:
    if not settings.pictures:
        return None
    limits = settings.limit_batches
    if validation is None:
        return Drawing(task, engine, train, "train", limits.train)
    return Drawing(task, engine, validation, "validation", limits.validation)


def pass_over(feed: Feed, task: Task, engine: Engine, step: Step, trace: Trace, limit: int | None) -> Stepper:
    """A compiled step over a split."""
    return Stepper(task, engine, feed, engine.program(step, trace.names), limit)


def _facts(task: Task, data: DataModule | None, train: Feed) -> dict[str, Any]:
    """What `config.json` and `result.json` both say."""
    given = "arrays" if isinstance(train, ArrayFeed) else "stream"
    source = given if data is None else data.source
    return {
        "task": type(task).__name__,
        "source": source,
        "backend": keras.backend.backend(),
        "hparams": hparams.to_dict(task.hp),
        "versions": environment.versions(),
    }
