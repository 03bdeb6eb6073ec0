"""Setup: everything before the loop. The task and its data are built, checked and traced; a run is begun or resumed.

ready = get_ready(settings, task, train, validation, ...)   # task built, data prepared, run directory found
fit = make_fit(settings, ready, ledger)                     # steps traced and checked; nothing is written
resumed, restart = begin(fit, config_of(settings, fit), ready)   # config.json is written
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from lightkeras import hparams
from lightkeras.data import ArrayFeed, DataModule, Feed
from lightkeras.data.arrays import as_feed, holds_arrays
from lightkeras.encoders import hub, saved_state
from lightkeras.encoders.base import Encoder, batches_of
from lightkeras.encoders.features import encode_feed
from lightkeras.engine.base import Step, Trace
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
from lightkeras.training.freezing import TracedSteps
from lightkeras.training.pictures import SplitPictures, has_pictures
from lightkeras.training.preflight.splits import check_feed
from lightkeras.training.progress_bar import ProgressBar
from lightkeras.training.settings import Settings
from lightkeras.training.stepper import Stepper, bound_engine
from lightkeras.training.timing import TimeLedger
from lightkeras.training.tracing import check_monitor, epoch_names, trace_evaluate, trace_train


@dataclasses.dataclass(frozen=True)
class Ready:
    """A task with its data, before its steps are traced.

    Args:
        task: The task, built.
        data: Its prepared data module; `None` if data was given to the runner.
        train: The train split.
        validation: The validation split; `None` without one.
        directory: The run directory, which need not exist.
        resume: Whether to resume the run in it.
        accept_changes: Whether to resume although data or hyperparameters changed.
        wanted: The checkpoint to resume from; `None` for the newest that is not damaged.
    """

    task: Task
    data: DataModule | None
    train: Feed
    validation: Feed | None
    directory: RunDirectory
    resume: bool = False
    accept_changes: bool = False
    wanted: Path | None = None


def get_ready(
    settings: Settings,
    task: Task,
    train: Any,
    validation: Any,
    batch_size: int,
    resume: bool | str | Path = False,
    accept_changes: bool = False,
) -> Ready:
    """Finds the run directory, builds the task and prepares its data; see `Runner.fit` for the arguments."""
    directory, wanted = place(settings, task, resume, accept_changes)
    learn = learn_from(train, batch_size, directory if resume else None)
    data = build_task(task, settings.seed, given=train is not None, fit_encoder=learn)
    feeds = feeds_of(data, train, validation, batch_size)
    return Ready(task, data, *feeds, directory, bool(resume), accept_changes, wanted)


def train_split(settings: Settings, task: Task, train: Any, batch_size: int) -> Feed:
    """Builds the task, and returns its train split, encoded if there is an encoder; see `Runner.fit`."""
    data = build_task(task, settings.seed, given=train is not None, fit_encoder=learn_from(train, batch_size))
    feed, _ = feeds_of(data, train, None, batch_size)
    return encode_feed(feed, task.frozen(), settings.features)


def build_task(
    task: Task, seed: int, given: bool, fit_encoder: Callable[[Encoder], None] | None = None
) -> DataModule | None:
    """Builds the task, and prepares its data module unless data was given.

    Args:
        task: The task.
        seed: Seed of its initial weights.
        given: Whether data was given to the runner.
        fit_encoder: As in `Task.set_up`.

    Returns:
        The data module; `None` if data was given.

    Raises:
        ValueError: There is no data.
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
    """Returns the function that fits an encoder, for `Task.set_up`: from the train split, or from the files of a run.

    Args:
        train: The train split that was given; `None` takes the task's data module.
        batch_size: Examples per batch of arrays.
        directory: A run that is resumed, or whose weights are loaded, because its encoder belongs to them; `None` for
            no run.
    """
    if directory is not None and directory.config_file.exists():
        return saved_state.reader(directory.encoder_file)
    return None if train is None else lambda encoder: encoder.fit(batches_of(as_feed(train, batch_size)))


def place(
    settings: Settings, task: Task, resume: bool | str | Path, accept_changes: bool
) -> tuple[RunDirectory, Path | None]:
    """Returns the run directory, and the checkpoint to resume from if `resume` names one.

    Raises:
        ValueError: The arguments name no run, or two different ones.
        FileNotFoundError: There is no run at the path.
        FileExistsError: The directory holds a run, and `resume` was not given.
        RunLockedError: Another process uses the directory.
    """
    if accept_changes and not resume:
        raise ValueError("accept_changes=True (--accept_changes) needs resume=True (--resume).")
    directory, wanted = _place(settings, task, resume)
    check_free(directory.lock_file)  # before everything is compiled
    if resume and directory.config_file.exists():
        read_run(directory)
    else:
        directory.check_unused()
    return directory, wanted


def _place(settings: Settings, task: Task, resume: bool | str | Path) -> tuple[RunDirectory, Path | None]:
    if isinstance(resume, bool):
        if resume and settings.run_dir is None:
            raise ValueError("resume=True needs run_dir, or give the run directory as resume=PATH.")
        return directory_of(settings, task), None
    directory, wanted = run_and_checkpoint(Path(resume))
    read_run(directory)  # raises where there is no run
    if settings.run_dir is not None and Path(settings.run_dir).resolve() != directory.path.resolve():
        raise ValueError(f"resume={str(resume)!r} is not in run_dir={str(settings.run_dir)!r}: give one of the two.")
    return directory, wanted


def begin(fit: Fit, config: Mapping[str, Any], ready: Ready) -> tuple[Checkpoint | None, bool, Callable[[], None]]:
    """Writes the configuration of a run that begins, and finds the checkpoint of one that resumes.

    Args:
        fit: The fit.
        config: Its configuration.
        ready: Result of `get_ready`.

    Returns:
        The checkpoint to resume from, or `None`; whether a run without a checkpoint restarts; and a function that
        writes the configuration of a resumed run, to be called when its state is restored: until then it may be
        refused, and must stay as it was.

    Raises:
        FileExistsError: The run directory holds another run.
        ValueError: `config.json` or `result.json` is damaged.
        ChangedRunError: Data or hyperparameters changed, and `accept_changes` is false.
        CheckpointError: All checkpoints are damaged.
    """
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
    kept: dict[str, Any] = {name: before[name] for name in ("started", "argv") if name in before}
    bar.print_line(f"Resuming after step {step:,}." if found else "The run has no checkpoint: starting again.")
    return found, found is None, lambda: fit.directory.write_config({**config, **kept, "resumed": resumed})


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
    changes = compare_configs(before, config)
    check_changes(changes, ready.accept_changes)
    found = choose_checkpoint(fit.directory, ready.wanted)
    if found is not None:
        fit.check(found)
    return before, changes, found


def make_fit(settings: Settings, ready: Ready, ledger: TimeLedger | None = None) -> Fit:
    """Traces, checks and compiles the steps; writes nothing.

    Args:
        settings: Settings of the runner.
        ready: Result of `get_ready`.
        ledger: Counts the time; `None` for a new one.

    Raises:
        ValueError: The settings, the data or the task are invalid.
    """
    task, train, validation = ready.task, ready.train, ready.validation
    check_feed(task, train, "train")
    train = encode_feed(train, task.frozen(), settings.features)
    engine = bound_engine(task)
    trace = trace_train(task, engine, train)
    limits, seed = settings.limit_batches, settings.seed
    train_stepper = stepper_over(train, task, task.run_train_step, trace, limits.train, seed)
    names = epoch_names(task, trace, "train")
    validation_stepper = None
    if validation is not None:
        check_feed(task, validation, "validation")
        validation = encode_feed(validation, task.frozen(), settings.features)
        evaluation = trace_evaluate(task, engine, validation, train)
        names += epoch_names(task, evaluation, "val")
        validation_stepper = stepper_over(validation, task, task.run_evaluate_step, evaluation, limits.validation, seed)
    monitor, mode = _monitor(settings, names)
    traced = TracedSteps(task, trace, train_stepper, validation_stepper, names)
    model = task.model_of_callbacks(traced.optimizers[0][0])
    callbacks = [*settings.callbacks, *task.build_callbacks()]
    bridge = CallbackBridge(callbacks, model, settings.max_epochs, train_stepper.steps)
    bridge.check_monitors(names)
    fit = Fit(
        task=task,
        settings=settings,
        train_stepper=train_stepper,
        validation_stepper=validation_stepper,
        traced=traced,
        names=names,
        monitor=monitor,
        mode=mode,
        bridge=bridge,
        directory=ready.directory,
        facts=_facts(task, ready.data, train),
        bar=ProgressBar(settings.max_epochs, train_stepper.steps, settings.progress),
        drawing=_drawing(settings, task, train, validation),
        ledger=ledger,
    )
    _warn_of_settings(settings, fit)
    check_directory(ready.directory, needed_bytes=5 * fit.state_bytes)
    if settings.preflight:
        preflight.run(task, engine, trace, train_stepper, validation_stepper)
    return fit


def _monitor(settings: Settings, names: Sequence[str]) -> tuple[str | None, str]:
    """The monitored value, and whether lower (`"min"`) or higher (`"max"`) is better."""
    monitor = settings.monitor or next((name for name in ("val/loss", "train/loss") if name in names), None)
    if monitor is not None:
        check_monitor(monitor, names)
    if settings.checkpoints.keep_by is not None:
        check_monitor(settings.checkpoints.keep_by, names, "Checkpoints.keep_by")
    return monitor, settings.mode or (decisions.infer_mode(monitor) if monitor is not None else "min")


def _warn_of_settings(settings: Settings, fit: Fit) -> None:
    """Prints the settings and logs that will have no effect."""
    task, bar = fit.task, fit.recorder.bar
    for name, value in task.numbers_logged().items() if bound_engine(task).compiles else ():
        bar.print_line(
            f"log({name!r}) was given the number {value:g} and not a tensor: the step is compiled, so every step logs "
            "the number of the first. Log a tensor or a keras.Variable for a value that changes."
        )
    if settings.draw_every is not None and not has_pictures(task):
        bar.print_line(f"draw_every={settings.draw_every}: {type(task).__name__} has no `draw`, so nothing is drawn.")


def config_of(settings: Settings, fit: Fit) -> dict[str, Any]:
    """The entries of `config.json`."""
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
        "monitor": {"name": fit.monitor, "mode": fit.state.patience.mode},
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
    """Models, layers and the encoder: the objects that may contain a TF Hub module."""
    encoder = task.frozen()
    return [*task.tracked().values(), *([] if encoder is None else [encoder])]


def check_frozen(task: Task, config: Mapping[str, Any]) -> None:
    """Checks that a task has the TF Hub modules and the encoder of the run whose weights it loads.

    Raises:
        ValueError: A module or the encoder differs.
    """
    hub.check_modules(parts_of(task), config.get("modules", []))
    encoder, recorded = task.frozen(), config.get("encoder", {}).get("fingerprint")
    found = None if encoder is None else encoder.fingerprint
    if found != recorded:
        raise ValueError(
            f"The saved run used an encoder with the fingerprint {recorded or 'none'}, and this task's is "
            f"{found or 'none'}: its weights are for other features. Use the build_encoder of the saved run."
        )


def directory_of(settings: Settings, task: Task | None = None) -> RunDirectory:
    """The run directory of the settings, or a new one named after the task.

    Raises:
        ValueError: `run_dir` is `None`, and no task is given.
    """
    if settings.run_dir is not None:
        return RunDirectory(Path(settings.run_dir))
    if task is None:
        raise ValueError("Loading weights needs a run directory: give one, as in Runner(run_dir=result.run_dir).")
    return RunDirectory(run_path(None, snake_case(type(task).__name__)))


def feeds_of(data: DataModule | None, train: Any, validation: Any, batch_size: int) -> tuple[Feed, Feed | None]:
    """The train and validation splits that were given, else the splits of the data module."""
    watched = None if validation is None else as_feed(validation, batch_size)
    if data is None:
        return as_feed(train, batch_size, shuffle=holds_arrays(train)), watched
    return data.train(), data.validation() if validation is None else watched


def _drawing(settings: Settings, task: Task, train: Feed, validation: Feed | None) -> SplitPictures | None:
    if not settings.pictures:
        return None
    limits = settings.limit_batches
    if validation is None:
        return SplitPictures(task, train, "train", limits.train)
    return SplitPictures(task, validation, "validation", limits.validation)


def stepper_over(feed: Feed, task: Task, step: Step, trace: Trace, limit: int | None, seed: int) -> Stepper:
    """Compiles a step for a split."""
    engine = bound_engine(task)
    return Stepper(task, engine, feed, engine.program(step, trace.names), limit, seed)


def _facts(task: Task, data: DataModule | None, train: Feed) -> dict[str, Any]:
    """Entries that `config.json` and `result.json` share."""
    given = "arrays" if isinstance(train, ArrayFeed) else "stream"
    source = given if data is None else data.source
    return {
        "task": type(task).__name__,
        "source": source,
        "backend": keras.backend.backend(),
        "hparams": hparams.to_dict(task.hp),
        "versions": environment.versions(),
    }
