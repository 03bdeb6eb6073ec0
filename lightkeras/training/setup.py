"""Setup: everything before the loop that writes nothing.

ready = get_ready(settings, task, train, validation, ...)   # run directory found, task built, data prepared
fit = make_fit(settings, ready, ledger)                     # steps traced, compiled and checked
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lightkeras import hparams
from lightkeras.data import ArrayFeed, DataModule, Feed
from lightkeras.data.arrays import as_feed, holds_arrays, is_one_array, train_of
from lightkeras.data.first_batches import first_batches
from lightkeras.data.held_out import UNNAMED, held_out_of, named_feeds
from lightkeras.encoders import saved_state
from lightkeras.encoders.base import Encoder, batches_of
from lightkeras.encoders.features import encode_feed
from lightkeras.engine import current_world
from lightkeras.engine.base import Engine, Step, Trace
from lightkeras.runs import checkpoint
from lightkeras.runs.directory import RunDirectory, check_directory, run_path, snake_case
from lightkeras.runs.resume import read_run, run_and_checkpoint
from lightkeras.system import environment
from lightkeras.system.display import phase
from lightkeras.system.locks import check_free
from lightkeras.system.value_names import within
from lightkeras.task import SupervisedTask, Task, use_class_weight
from lightkeras.training import averaging, preflight, several_processes, space
from lightkeras.training.fit import Fit
from lightkeras.training.freezing import TracedSteps, forget_rates
from lightkeras.training.initial_weights import load_initial
from lightkeras.training.metric_values import not_updated
from lightkeras.training.pictures import has_pictures
from lightkeras.training.preflight.splits import check_feed
from lightkeras.training.settings import Settings
from lightkeras.training.stepper import Stepper, bound_engine, steps_of
from lightkeras.training.timing import TimeLedger
from lightkeras.training.tracing import check_set_name, epoch_names, trace_evaluate, trace_train


@dataclasses.dataclass(frozen=True)
class Ready:
    """A task with its data, before its steps are traced.

    Args:
        task: The task, built.
        data: Its prepared data module; `None` if data was given to the runner.
        train: The train split.
        validation: The validation sets by name, see `held_out.named_feeds`.
        directory: The run directory, which need not exist.
        resume: Whether to resume the run in it.
        accept_changes: Whether to resume although data or hyperparameters changed.
        wanted: The checkpoint to resume from; `None` for the newest that is not damaged.
        init_from: Where the first weights come from, see `initial_weights`; `None` keeps those of the task.
    """

    task: Task
    data: DataModule | None
    train: Feed
    validation: Mapping[str, Feed]
    directory: RunDirectory
    resume: bool = False
    accept_changes: bool = False
    wanted: Path | None = None
    init_from: Path | None = None


def get_ready(
    settings: Settings,
    task: Task,
    train: Any,
    validation: Any,
    batch_size: int,
    class_weight: Mapping[int, float] | None = None,
    init_from: str | Path | None = None,
    resume: bool | str | Path = False,
    accept_changes: bool = False,
) -> Ready:
    """Finds the run directory, builds the task and prepares its data; see `Runner.fit` for the arguments."""
    use_class_weight(task, class_weight)
    if current_world().is_writer:
        directory, wanted = place(settings, task, resume, accept_changes)
    else:  # it takes those of the process that writes
        directory, wanted = directory_of(settings, task), None
    directory = RunDirectory(several_processes.agreed_path(directory.path))
    learn = learn_from(train, batch_size, directory if resume else None)
    check_labels_given(task, train, validation)
    _check_is_task(task)
    several_processes.check_start(task, settings)
    data = build_task(task, settings.seed, given=train is not None, fit_encoder=learn)
    with phase("reading data"):
        feeds = feeds_of(data, train, validation, batch_size)
    first = None if init_from is None else Path(init_from)
    return Ready(task, data, *feeds, directory, bool(resume), accept_changes, wanted, first)


def train_split(settings: Settings, task: Task, train: Any, batch_size: int) -> Feed:
    """Builds the task, and returns its train split, encoded if there is an encoder; see `Runner.fit`."""
    data = build_task(task, settings.seed, given=train is not None, fit_encoder=learn_from(train, batch_size))
    feed, _ = feeds_of(data, train, None, batch_size)
    return encode_feed(feed, task.frozen(), settings.features)


def _check_is_task(task: Any) -> None:
    if isinstance(task, Task):
        return
    found, advice = type(task).__name__, "Derive its class from lk.Task."
    if isinstance(task, type):
        found, advice = f"the class {task.__name__}", f"Construct it: {task.__name__}()."
    elif isinstance(task, keras.Model):
        advice = "Make a task of the model: lk.SupervisedTask(model, loss=..., optimizer=..., metrics=[...])."
    raise TypeError(f"Expected a lightkeras.Task, got {found}. {advice}")


def build_task(
    task: Task, seed: int, given: bool, fit_encoder: Callable[[Encoder], None] | None = None
) -> DataModule | None:
    """Builds the task, and prepares its data module unless data was `given`; see `Task.set_up`.

    Returns:
        The data module; `None` if data was given.

    Raises:
        TypeError: `task` is not a task.
        ValueError: There is no data.
    """
    _check_is_task(task)
    with phase("building the task"):
        task.set_up(seed, fit_encoder)
    data = task.data
    if data is None and not given:
        raise ValueError(
            f"There is no data: {type(task).__name__}.build_data returns None. "
            "Give the data to the runner, or return a DataModule."
        )
    if data is not None and not given:
        with phase("reading data"):
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


def check_labels_given(task: Task, train: Any, validation: Any) -> None:
    """Refuses labels in the place of the validation data, as in Keras's `fit(x, y)`.

    Raises:
        ValueError: Both are single arrays of as many examples, which cannot be two splits.
    """
    if not is_one_array(train) or not is_one_array(validation):
        return
    x, y = np.shape(train), np.shape(validation)
    if len(x) and x[:1] == y[:1] and (x != y or isinstance(task, SupervisedTask)):
        raise ValueError(
            f"Received an array {list(x)} for train and an array {list(y)} for validation: labels are no split. Give x "
            "and y as one tuple: fit(task, (x, y)), and with validation data fit(task, (x, y), (x_val, y_val))."
        )


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
    if resume is True and settings.run_dir is None:
        raise ValueError("resume=True needs run_dir, or give the run directory as resume=PATH.")
    if isinstance(resume, bool):
        directory, wanted = directory_of(settings, task), None
    else:
        directory, wanted = run_and_checkpoint(Path(resume))
        read_run(directory)  # raises where there is no run
        if settings.run_dir is not None and Path(settings.run_dir).resolve() != directory.path.resolve():
            run_dir = str(settings.run_dir)
            raise ValueError(f"resume={str(resume)!r} is not in run_dir={run_dir!r}: give one of the two.")
    check_free(directory.lock_file)  # before everything is compiled
    if resume and directory.config_file.exists():
        read_run(directory)
    else:
        directory.check_unused()
    return directory, wanted


def make_fit(settings: Settings, ready: Ready, ledger: TimeLedger | None = None) -> Fit:
    """Traces, checks and compiles the steps; writes nothing.

    Raises:
        ValueError: The settings, the data or the task are invalid.
    """
    task, train = ready.task, ready.train
    check_feed(task, train, "train", settings.limit_batches.train)
    few = settings.overfit_batches
    train = encode_feed(train if few is None else first_batches(train, few), task.frozen(), settings.features)
    engine = engine_for(settings, task)
    task.logs_gradient_norms = settings.log_gradients is not None
    forget_rates(task)  # of callbacks of an earlier fit
    with phase("tracing the train step"):
        trace = trace_train(task, engine, train)
    limits, seed = settings.limit_batches, settings.seed
    train_stepper = stepper_over(train, task, task.run_train_step, trace, limits.train, seed, continues=True)
    names = epoch_names(task, trace, "train")
    held_out = {}
    for name, given in ready.validation.items() if few is None else [(UNNAMED, train)]:
        check_feed(task, given, within("validation", name), limits.validation)
        validation = given if given is train else encode_feed(given, task.frozen(), settings.features)
        with phase("tracing the validation step"):
            evaluation = trace_evaluate(task, engine, validation, train, name)
        check_set_name(name, evaluation.names)
        names += epoch_names(task, evaluation, within("val", name))
        held_out[name] = stepper_over(validation, task, task.run_evaluate_step, evaluation, limits.validation, seed)
    traced = TracedSteps(task, trace, train_stepper, held_out, names)
    mine, directory = several_processes.settings_of(settings), several_processes.directory_of(ready.directory)
    fit = Fit(mine, traced, directory, _facts(ready, train), ledger or TimeLedger())
    several_processes.check(fit)
    averaging.check(fit.bridge.averaging, task, fit.monitor)
    if ready.init_from is not None and not (ready.resume and checkpoint.newest_first(ready.directory.checkpoints)):
        with phase("loading the initial weights"):
            load_initial(task, ready.init_from)
    engine.share(task.variables())
    _warn_of_settings(fit)
    if fit.world.is_writer:
        check_directory(ready.directory, *space.disk_needed(task, ready.directory, settings.checkpoints.keep))
    if settings.preflight:
        with phase("compiling and checking the steps"):
            preflight.run(traced, settings.skip_broken > 0, fit.bridge.has_callbacks, overfits=few is not None)
        streams = {name: stepper.first_batch for name, stepper in {"train": train_stepper, **held_out}.items()}
        fit.world.check_same("first batches", streams, "Every process must read the same batches in the same order.")
    return fit


def _warn_of_settings(fit: Fit) -> None:
    """Prints the settings and logs that will have no effect."""
    task, bar, draw_every = fit.task, fit.recorder.bar, fit.settings.draw_every
    for name, value in task.numbers_logged().items() if fit.train_stepper.program.compiled else ():
        bar.print_line(
            f"log({name!r}) was given the number {value:g} and not a tensor: the step is compiled, so every step logs "
            "the number of the first. Log a tensor or a keras.Variable for a value that changes."
        )
    if (line := space.memory_warning(task)) is not None:
        bar.print_line(line)
    if draw_every is not None and not has_pictures(task):
        bar.print_line(f"draw_every={draw_every}: {type(task).__name__} has no `draw`, so nothing is drawn.")


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


def feeds_of(data: DataModule | None, train: Any, validation: Any, batch_size: int) -> tuple[Feed, Mapping[str, Feed]]:
    """The train split and the validation sets that were given, else those of the data module."""
    feed = as_feed(train, batch_size, shuffle=holds_arrays(train)) if data is None else train_of(data, batch_size)
    if validation is None and data is not None:
        return feed, held_out_of(data, "validation", batch_size)
    return feed, named_feeds(validation, batch_size, feed.spec)


def engine_for(settings: Settings, task: Task) -> Engine:
    """The engine of a task, which makes programs from now on as the settings `eager` and `compile` tell.

    Raises:
        ValueError: They contradict each other, or the backend.
    """
    engine = bound_engine(task)
    if engine.world is not current_world():  # joined since an earlier fit of the task
        engine.enter(current_world())
    engine.eager = settings.eager
    engine.check_devices(task.variables())
    if settings.eager and engine.world.processes > 1:
        raise ValueError(
            "eager=True is for breakpoints, where the other processes would wait: start one process for it."
        )
    if settings.eager and settings.compile == "on":
        raise ValueError("eager=True calls steps uncompiled, and compile='on' compiles them: give one of the two.")
    if settings.compile == "off" and engine.compiles:
        raise ValueError(
            f"compile='off': {engine.backend} compiles all steps. Runner(eager=True) calls them uncompiled; slow."
        )
    engine.compile = settings.compile
    return engine


def stepper_over(
    feed: Feed, task: Task, step: Step, trace: Trace, limit: int | None, seed: int, continues: bool = False
) -> Stepper:
    """Compiles a step for a split; see `Stepper` for the arguments."""
    engine = bound_engine(task)
    program = engine.program(step, trace.names, steps_of(feed, limit))
    stepper = Stepper(task, engine, feed, program, limit, seed, continues)
    stepper.left_out = not_updated(task, trace)
    return stepper


def _facts(ready: Ready, train: Feed) -> dict[str, Any]:
    """Entries that `config.json` and `result.json` share."""
    given = "arrays" if isinstance(train, ArrayFeed) else "stream"
    return {
        "task": type(ready.task).__name__,
        "source": given if ready.data is None else ready.data.source,
        "backend": keras.backend.backend(),
        "hparams": hparams.to_dict(ready.task.hp),
        "versions": environment.versions(),
    }
