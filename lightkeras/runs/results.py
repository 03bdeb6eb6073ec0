"""Results of runs and searches: frozen dataclasses of plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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


@dataclasses.dataclass(frozen=True)
class FitResult:
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


@dataclasses.dataclass(frozen=True)
class EvalResult:
    """Means over one split.

    Args:
        split: `"validation"` or `"test"`.
        metrics: Values by plain name: `{"loss": 0.35, "accuracy": 0.86}`.
        examples: Number of examples.
        wall_s: Seconds it took.
    """

    split: str
    metrics: Mapping[str, float]
    examples: int
    wall_s: float

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]


@dataclasses.dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Args:
        name: Name, which is also that of its run directory in `trials/`.
        hparams: All hyperparameters by name.
        objective: The best value of the objective; `None` if the trial failed.
        status: `"completed"`, `"pruned"` or `"failed"`.
        reason: Why it stopped.
        run_dir: Its run directory.
        inactive: Hyperparameters that have no meaning beside the others; they have their defaults.
        epochs: Epochs finished.
        wall_s: Seconds it took.
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


@dataclasses.dataclass(frozen=True)
class SearchResult:
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

    @property
    def best_dir(self) -> Path:
        """Run directory of the best trial or of the refit, ready to test, predict and export."""
        return self.run_dir / "best"


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """Result of a learning-rate range test.

    Args:
        rates: Learning rate of each step, in rising order.
        losses: Loss of each step, before its update; the last may not be finite.
        smoothed: The losses, averaged over neighbouring steps: the suggestion is computed from them.
        suggestion: The rate at which the loss fell fastest; `None` if it did not fall.
        reason: Why that is the suggestion, or why there is none, and where the test ended.
        figure: Path of the figure; `None` if the runner has no run directory.
        wall_s: Seconds from the call to the return.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    reason: str
    figure: Path | None
    wall_s: float


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


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """Result of a search for the largest batch that fits into memory.

    Args:
        tried: The sizes, in rising order. The last may be one that does not fit.
        suggestion: The largest that fits; `None` if none does.
        reason: Why the search ended there.
        wall_s: Seconds from the call to the return.
    """

    tried: tuple[BatchSize, ...]
    suggestion: int | None
    reason: str
    wall_s: float
