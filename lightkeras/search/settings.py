"""Settings of what a search tries, checked when they are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightkeras.data.lookup import Lookup
from lightkeras.runner import Runner
from lightkeras.search.space import Bounds, Space, check_oracle, make_space, warn_of_unreached_ends
from lightkeras.system.messages import check_whole, did_you_mean
from lightkeras.task import Task

ORACLES = ("random", "bayesian", "hyperband", "grid")


@dataclasses.dataclass(frozen=True)
class TrialSettings:
    """What the trials of a search are, checked; see `Tuner`, also for the errors."""

    task: type[Task]
    objective: str | None = None
    mode: str | None = None
    oracle: str = "random"
    trials: int | None = 10
    seed: int = 0
    run_dir: str | Path | None = None
    runner: Runner = dataclasses.field(default_factory=Runner)
    lookup: Lookup | None = None
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    space: Mapping[str, Bounds] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (isinstance(self.task, type) and issubclass(self.task, Task)):
            raise TypeError(f"Tuner(task={self.task!r}): expected a class derived from lightkeras.Task.")
        if self.oracle not in ORACLES:
            raise ValueError(f"Tuner(oracle={self.oracle!r}) is not known. {did_you_mean(self.oracle, ORACLES)}")
        if self.mode not in (None, "min", "max"):
            raise ValueError(f"Tuner(mode={self.mode!r}): expected 'min', 'max' or None.")
        if self.trials is None and self.oracle in ("random", "bayesian"):
            raise ValueError(f"Tuner(oracle={self.oracle!r}, trials=None) would never end: give a number of trials.")
        check_whole("Tuner", "trials", self.trials, 1, optional=True)
        check_whole("Tuner", "seed", self.seed, 0)
        if self.runner.callbacks:
            raise ValueError(
                "Tuner(runner=...): the runner has callbacks, which would carry their state from trial to trial. "
                "Make them inside the task instead, or leave them out."
            )
        space = self.made_space()
        check_oracle(self.oracle, space)
        warn_of_unreached_ends(space, list(self.space))

    def made_space(self) -> Space:
        """Returns the searched hyperparameters; a ValueError if there are none or a range does not fit."""
        bounds = {name: Bounds(**part) if isinstance(part, Mapping) else part for name, part in self.space.items()}
        return make_space(self.task.HParams, self.fixed, bounds)
