"""Results of runs and searches: frozen dataclasses of plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightkeras.system.tables import Table, Tabular, of_splits
from lightkeras.system.value_names import parted, validation_sets

_BEST_TRIALS = 5


@dataclasses.dataclass(frozen=True)
class Best:
    """The best epoch so far, by the monitored value.

    Args:
        epoch: Epoch, counted from 1.
        step: Train steps done when it was measured.
        value: The monitored value.
        logs: Every epoch value of that epoch, such as `{"train/loss": 0.3, "val/loss": 0.4}`.
    """

    epoch: int
    step: int
    value: float
    logs: Mapping[str, float]


@dataclasses.dataclass(frozen=True, repr=False)
class FitResult(Tabular):
    """Result of a fit.

    Args:
        run_dir: The run directory.
        epochs: Epochs finished.
        steps: Train steps done.
        stop_reason: Why it stopped, in a sentence.
        monitor: Name of the monitored value; `None` if no value was monitored.
        best: The best epoch; `None` if no value was monitored.
        history: Values per epoch, by name: `{"train/loss": (0.5, 0.4), "val/loss": (0.6, 0.5)}`.
        wall_s: Seconds from the call to the return.
        diverged: Whether it stopped on a value that was not finite.
        interrupted: The signal that stopped it, such as `"SIGTERM"`; `None` if none did.
        skipped: Steps, from 1, whose batch was skipped because the step was not finite.

    Example: `lk.Runner.fit`.
    """

    run_dir: Path
    epochs: int
    steps: int
    stop_reason: str
    monitor: str | None
    best: Best | None
    history: Mapping[str, tuple[float, ...]]
    wall_s: float
    diverged: bool = False
    interrupted: str | None = None
    skipped: tuple[int, ...] = ()

    def table(self) -> Table:
        """The values of the best epoch, when that was, and why the run stopped."""
        return of_splits(self.splits(), {**self.lines(), "run_dir": str(self.run_dir)}, self.plain_monitor)

    def splits(self) -> dict[str, dict[str, float]]:
        """The values of the best epoch by split and plain name: `{"train": {"loss": 0.3}, "val": {"loss": 0.4}}`.

        Several validation sets are splits of their own, such as `"val/clean"`.
        """
        logs = {} if self.best is None else self.best.logs
        splits, sets = dict[str, dict[str, float]](), validation_sets(logs)
        for name, value in logs.items():
            split, plain = parted(name, sets)
            splits.setdefault(split, {})[plain] = value
        return splits

    @property
    def plain_monitor(self) -> str | None:
        """Name of the monitored value without its split; `None` if no value was monitored."""
        return None if self.monitor is None else parted(self.monitor, validation_sets(self.history))[1]

    def lines(self) -> dict[str, str]:
        """When the best epoch was, and why the run stopped, by label."""
        best, done = self.best, f"{counted(self.epochs, 'epoch')}, {counted(self.steps, 'step')}"
        lines = {}
        if best is not None:
            inside = f"step {best.step:,}, in epoch {best.epoch}"
            at = f"epoch {best.epoch} of {self.epochs}" if best.epoch <= self.epochs else inside
            lines["best"] = f"{at}, by {self.monitor}"
        return {**lines, "stopped": f"{self.stop_reason} ({done}, {self.wall_s:.1f} s)"}

    def summary(self) -> dict[str, Any]:
        """The `fit` part of `result.json`."""
        best: dict[str, Any] | None = None
        if self.best is not None:
            best = {"step": self.best.step, "epoch": self.best.epoch, **self.best.logs}
        return {
            "epochs": self.epochs,
            "steps": self.steps,
            "stop_reason": self.stop_reason,
            "diverged": self.diverged,
            "interrupted": self.interrupted,
            "skipped": len(self.skipped),
            "monitor": self.monitor,
            "wall_s": round(self.wall_s, 3),
            "best": best,
        }


@dataclasses.dataclass(frozen=True, repr=False)
class EvalResult(Tabular):
    """Means over one split.

    Args:
        split: `"validation"` or `"test"`.
        metrics: Values by plain name, `{"loss": 0.35, "accuracy": 0.86}`; of several sets `{"clean/loss": 0.35, ...}`.
        examples: Number of examples, of all sets.
        wall_s: Seconds it took.

    Example: `lk.Runner.evaluate`.
    """

    split: str
    metrics: Mapping[str, float]
    examples: int
    wall_s: float

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]

    def table(self) -> Table:
        """The values, and over how many examples they are means."""
        lines = {"examples": f"{self.examples:,}, {self.wall_s:.1f} s"}
        return of_splits({self.split: self.metrics}, lines)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Args:
        name: Name, which is also that of its run directory in `trials/`.
        hparams: All hyperparameters by name.
        objective: The best value of the objective, or its mean over folds; `None` if the trial failed.
        status: `"completed"`, `"pruned"` or `"failed"`.
        reason: Why it stopped.
        run_dir: Its run directory.
        inactive: Hyperparameters that have no meaning beside the others; they have their defaults.
        epochs: Epochs finished.
        wall_s: Seconds it took.
        spread: Standard deviation of the objective over the folds (with `n - 1`); `None` without folds.
    """

    name: str
    hparams: Mapping[str, Any]
    objective: float | None
    status: str
    reason: str
    run_dir: Path
    inactive: tuple[str, ...] = ()
    epochs: int = 0
    wall_s: float = 0.0
    spread: float | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class SearchResult(Tabular):
    """Result of a search.

    Args:
        run_dir: The directory of the search.
        objective: Name of the value that was optimized.
        mode: Whether it is better low (`"min"`) or high (`"max"`).
        trials: All trials, in the order in which they were chosen.
        best: The best completed trial: by the mean over other seeds if there are any, else by its own value. `None` if
            none was completed.
        wall_s: Seconds that the search took, over all its resumes.
        repeats: Values of the objective with other seeds, by the trial's name.
        refit: Run directory of the fit on train and validation together; `None` if there is none.
        stop_reason: Why there were no more trials, such as `"trials=10 reached"`.

    Example: `lk.Tuner.search`.
    """

    run_dir: Path
    objective: str
    mode: str
    trials: tuple[Trial, ...]
    best: Trial | None
    wall_s: float
    repeats: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    refit: Path | None = None
    stop_reason: str = ""

    def table(self) -> Table:
        """The best trials, and why the search stopped."""
        return dataclasses.replace(self.ranked(), lines={**self.lines(), "run_dir": str(self.run_dir)})

    def ranked(self, count: int = _BEST_TRIALS) -> Table:
        """A table of the best `count` completed trials with their hyperparameters, the best first."""
        completed = [trial for trial in self.trials if trial.status == "completed" and trial.objective is not None]
        completed.sort(key=lambda trial: trial.objective or 0.0, reverse=self.mode == "max")
        if self.best in completed:  # by the mean over other seeds it may be another than the first
            completed.remove(self.best)
            completed.insert(0, self.best)
        return ranked_trials(completed[:count], self.objective)

    def lines(self) -> dict[str, str]:
        """How many trials there were, and why the search stopped, by label."""
        statuses = [trial.status for trial in self.trials]
        found = [f"{statuses.count(status)} {status}" for status in ("completed", "pruned", "failed")]
        return {"trials": f"{', '.join(found)}, {self.wall_s:.1f} s", "stopped": self.stop_reason}

    @property
    def best_dir(self) -> Path:
        """Run directory of the best trial or of the refit, ready to test, predict and export."""
        return self.run_dir / "best"


def ranked_trials(trials: Sequence[Trial], objective: str) -> Table:
    """Returns a table of trials in their order, with the hyperparameters in which they differ from one another."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.hparams))
    varied = [name for name in names if len({str(trial.hparams.get(name)) for trial in trials}) > 1]
    shown = varied or names
    spread = ["std"] * any(trial.spread is not None for trial in trials)
    rows = [
        [
            trial.name,
            short(trial.objective),
            *(short(trial.spread) for _ in spread),
            *("" if name in trial.inactive else short(trial.hparams.get(name)) for name in shown),
            str(trial.epochs),
        ]
        for trial in trials
    ]
    return Table(["trial", objective, *spread, *shown, "epochs"], rows, marked=[0])


def counted(number: int, noun: str) -> str:
    """Returns `"1 epoch"` or `"1,200 epochs"`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short(value: Any) -> str:
    """Returns a value for a table: a float with 4 digits."""
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


@dataclasses.dataclass(frozen=True, repr=False)
class LearningRates(Tabular):
    """Result of a learning-rate range test.

    Args:
        rates: Learning rate of each step, in rising order.
        losses: Loss of each step, before its update; the last may not be finite.
        smoothed: The losses, averaged over neighbouring steps: the suggestion is computed from them.
        suggestion: The rate at which the loss fell fastest; `None` if it did not fall.
        reason: Why that is the suggestion, or why there is none, and where the test ended.
        figure: Path of the figure; `None` if the runner has no run directory.
        wall_s: Seconds from the call to the return.

    Example: `lk.Runner.find_learning_rate`.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    reason: str
    figure: Path | None
    wall_s: float

    def table(self) -> Table:
        """The suggestion and its reason."""
        found = "none" if self.suggestion is None else f"{self.suggestion:.2g}"
        lines = {"suggestion": found, "reason": self.reason, "took": f"{self.wall_s:.1f} s"}
        return Table([], [], lines if self.figure is None else {**lines, "figure": str(self.figure)})


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """One batch size of a search.

    Args:
        size: Examples per batch.
        fits: Whether train steps of it fit into the memory.
        memory_bytes: Most memory of the host that its steps took on top of what the process held
            before the search. Where `fits` is false because it was not tried, what it would take; `None`
            where the steps ran out of memory.
        seconds_per_step: Time of one train step; `None` if none was finished.
        examples_per_second: The same, as examples; `None` if no step was finished.
    """

    size: int
    fits: bool
    memory_bytes: int | None = None
    seconds_per_step: float | None = None
    examples_per_second: float | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class BatchSizes(Tabular):
    """Result of a search for the largest batch that fits into memory.

    Args:
        tried: The sizes, in rising order. The last may be one that does not fit.
        suggestion: The largest that fits; `None` if none does.
        reason: Why the search ended there.
        wall_s: Seconds from the call to the return.

    Example: `lk.Runner.find_batch_size`.
    """

    tried: tuple[BatchSize, ...]
    suggestion: int | None
    reason: str
    wall_s: float

    def table(self) -> Table:
        """The sizes with their speed, and the suggestion with its reason."""
        rows = [
            [
                str(tried.size),
                "yes" if tried.fits else "no",
                "" if tried.seconds_per_step is None else f"{1000 * tried.seconds_per_step:,.2f}",
                "" if tried.examples_per_second is None else f"{tried.examples_per_second:,.0f}",
                "" if tried.memory_bytes is None else f"{tried.memory_bytes / 1e6:,.0f}",
            ]
            for tried in self.tried
        ]
        found = "none" if self.suggestion is None else str(self.suggestion)
        lines = {"suggestion": found, "reason": self.reason, "took": f"{self.wall_s:.1f} s"}
        return Table(["batch size", "fits", "ms per step", "examples per s", "memory, MB"], rows, lines)
