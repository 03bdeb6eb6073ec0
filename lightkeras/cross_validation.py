"""Cross-validation: one task on several folds of its data, each a run, and the mean and spread of their values."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from lightkeras.data.arrays import ArrayData, holds_arrays
from lightkeras.data.folds import Fold
from lightkeras.data.module import DataModule
from lightkeras.experiment import Experiment
from lightkeras.runner import Runner
from lightkeras.runs import report
from lightkeras.runs.directory import RunDirectory, run_path, snake_case
from lightkeras.runs.results import FitResult, short
from lightkeras.system import display, random_states
from lightkeras.system.messages import check_whole
from lightkeras.system.tables import Table, Tabular
from lightkeras.task import Task


@dataclasses.dataclass(frozen=True, repr=False)
class CrossValidation(Tabular):
    """Result of a cross-validation.

    Args:
        run_dir: The directory above the runs `fold_1`, `fold_2` and so on.
        folds: The result of each fold.
        mean: Mean over the folds of each value of their best epochs, such as `{"val/loss": 0.4}`: what every fold has.
        std: Standard deviation of these values over the folds (with `n - 1`).
        wall_s: Seconds from the call to the return.

    Example: `lk.cross_validate`.
    """

    run_dir: Path
    folds: tuple[FitResult, ...]
    mean: Mapping[str, float]
    std: Mapping[str, float]
    wall_s: float

    def table(self) -> Table:
        """The values of each fold, their mean and their standard deviation."""
        rows = [
            [f"fold {number}", *(short(values.get(name)) for name in self.mean), str(fold.epochs)]
            for number, (fold, values) in enumerate(zip(self.folds, map(_values_of, self.folds), strict=True), 1)
        ]
        rows.append(["mean", *map(short, self.mean.values()), ""])
        rows.append(["std", *map(short, self.std.values()), ""])
        lines = {"took": f"{self.wall_s:.1f} s", "run_dir": str(self.run_dir)}
        return Table(["", *self.mean, "epochs"], rows, lines, marked=[len(self.folds)])


def cross_validate(
    task: type[Task] | Callable[[], Task],
    data: Any = None,
    *,
    folds: int = 5,
    stratified: bool = False,
    shuffle: bool = True,
    runner: Runner | None = None,
    batch_size: int = 32,
    resume: bool = False,
) -> CrossValidation:
    """Fits a task once for each fold: on all other examples, validated on the fold (k-fold cross-validation).

    Each fold is a run in `run_dir/fold_1`, `fold_2` and so on, with new weights from the runner's seed; an encoder is
    fitted to the fold's train part alone. `run_dir/result.json` and `report.html` have the mean and the spread. The
    values are those of each run's best epoch: with early stopping they are a little too good, because the fold also
    chose the epoch; set the runner's `patience=None` and compare the last epochs to avoid that.

    Args:
        task: The task's class, or a function that returns a new task with a new model, such as
            `lambda: MyTask(MyTask.HParams(units=64))`.
        data: Arrays such as `(x, y)`. `None` takes the task's data module: its train split, joined with its validation
            split. The test split stays out.
        folds: Number of folds, at least 2.
        stratified: Whether each fold gets the same share of each class, by the labels `y` (integers or texts).
        shuffle: Whether the folds are drawn at random, by the runner's seed; `False` cuts the examples in their order.
        runner: Settings of the runs; `None` for `Runner()`. Without a `run_dir` a new one is made below `runs/`.
        batch_size: Examples per batch of arrays given here.
        resume: Whether to resume in `run_dir`: finished folds are read, the others are resumed or begun.

    Returns:
        The results of the folds, their mean and their standard deviation.

    Raises:
        ValueError: There are more folds than examples (of a class), or the task and its data are invalid.
        TypeError: `task` returns no new task, or its data module streams its batches.
        FileExistsError: The directory is not empty, and `resume` is false.
        ChangedRunError: The directory holds other folds, or another task.
        Interrupted: SIGTERM or SIGINT (Ctrl-C) was received; the state was saved.

    Examples:
        ```python
        import lightkeras as lk

        x, y = lk.testing.two_moons(300)
        runner = lk.Runner(max_epochs=2)
        result = lk.cross_validate(lk.testing.TwoMoons, (x, y), folds=3, stratified=True, runner=runner)
        print(result.mean["val/accuracy"], result.std["val/accuracy"])
        ```
    """
    began, runner = time.perf_counter(), Runner() if runner is None else runner
    check_whole("cross_validate", "folds", folds, 2)
    runner.check_keeps_runs("A cross-validation")
    if resume and runner.run_dir is None:
        raise ValueError("resume=True needs the run_dir of the cross-validation: runner=Runner(run_dir=...).")
    if runner.callbacks:
        raise ValueError(
            "cross_validate(runner=...): the runner has callbacks, which would carry their state from fold to fold. "
            "Make them in the task's build_callbacks instead."
        )
    first = _new_task(task, runner.seed, ())
    module = first.build_data() if data is None else _module(data, batch_size, runner.seed)
    if module is None:
        raise ValueError(
            f"There is no data: {type(first).__name__}.build_data returns None. Give arrays to cross_validate, or "
            "return a DataModule."
        )
    run_dir = run_path(runner.run_dir, f"{snake_case(type(first).__name__)}_folds")
    cut = functools.partial(Fold, folds=folds, stratified=stratified, shuffle=shuffle, seed=runner.seed)
    results: list[FitResult] = []

    def cross_validate(task_of_first: Task, settings: Runner) -> dict[str, Any]:
        made, models = task_of_first, list[keras.Model]()
        for number in range(folds):
            if number:
                made = _new_task(task, runner.seed, models)
            models += _models_of(made)
            made.take_data(cut(module, number))  # one module for all folds: it is read once
            shown.message(f"fold {number + 1} of {folds}")
            directory = RunDirectory(run_dir / f"fold_{number + 1}")
            below = dataclasses.replace(settings, run_dir=directory.path)
            results.append(below.fit(made, resume=directory.config_file.exists()))
        return {"folds": folds, **_spread(results)}

    with display.showing(runner.progress) as shown:
        cut(module, 0).prepare(first.lookup)  # what cannot be cut is refused before anything is written
        Experiment(cross_validate, first, dataclasses.replace(runner, run_dir=run_dir)).run(resume)
        if runner.pictures:
            report.write(run_dir)
    spread = _spread(results)
    return CrossValidation(run_dir, tuple(results), spread["mean"], spread["std"], time.perf_counter() - began)


def _module(data: Any, batch_size: int, seed: int) -> DataModule:
    if isinstance(data, DataModule):
        return data
    if not holds_arrays(data):
        raise TypeError(f"cross_validate takes arrays such as (x, y) or a DataModule, got {type(data).__name__}.")
    return ArrayData(data, batch_size=batch_size, seed=seed)


def _new_task(make: type[Task] | Callable[[], Task], seed: int, earlier: list[keras.Model] | tuple[()]) -> Task:
    """A task for a fold, whose models are none of the earlier folds'.

    Raises:
        TypeError: It is not a task, or has a model that was trained.
    """
    if isinstance(make, Task) or not callable(make):
        raise TypeError(
            f"cross_validate(task={type(make).__name__}(...)): each fold begins with new weights, so it takes the "
            "class of a task or a function that returns a new one: lambda: MyTask(...)."
        )
    random_states.seed(seed)  # a function may make the model itself
    made = make()
    if not isinstance(made, Task):
        raise TypeError(f"cross_validate: expected task() to return a lightkeras.Task, got {type(made).__name__}.")
    known = {id(model) for model in earlier}
    if any(id(model) in known for model in _models_of(made)):
        raise TypeError(
            "cross_validate: task() returned a task with the model of an earlier fold, which has been trained. Make "
            "the model inside the function."
        )
    return made


def _models_of(task: Task) -> list[keras.Model]:
    return [value for value in vars(task).values() if isinstance(value, keras.Model)]


def _values_of(fold: FitResult) -> dict[str, float]:
    """The values of the best epoch that cross-validation is about."""
    best = {} if fold.best is None else fold.best.logs
    return {name: value for name, value in best.items() if name.startswith("val/") or name == fold.monitor}


def _spread(results: list[FitResult]) -> dict[str, dict[str, float]]:
    found = [_values_of(fold) for fold in results]
    names = [name for name in found[0] if all(name in values for values in found)]
    columns = {name: [values[name] for values in found] for name in names}
    return {
        "mean": {name: statistics.fmean(values) for name, values in columns.items()},
        "std": {name: statistics.stdev(values) for name, values in columns.items()},
    }
