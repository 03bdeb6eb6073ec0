"""Settings of a run, checked when they are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightkeras.encoders.features import FeatureCache
from lightkeras.engine.launchers import launched
from lightkeras.runs.loggers import Logger
from lightkeras.system.messages import check_whole
from lightkeras.training import decisions
from lightkeras.training.saver import Checkpoints

DEFAULT_EPOCHS = 10
"""Maximum number of epochs of a run that sets none of `max_epochs`, `max_steps` and `max_time`."""

LOG_GRADIENTS = ("norm", "histogram")
COMPILE = ("auto", "on", "off")

KerasCallback = Any
"""A `keras.callbacks.Callback`. Flags evaluate the annotations of settings, and need no Keras."""


@dataclasses.dataclass(frozen=True)
class LimitBatches:
    """Maximum number of batches of each split; `None` for no limit.

    Args:
        train: Train batches per epoch: the first ones of each epoch's order; of a stream without a known length, those
            after the last epoch's.
        validation: Batches per validation.
        test: Batches per test.

    Raises:
        ValueError: A number is below 1.

    Examples:
        ```python
        import lightkeras as lk

        runner = lk.Runner(max_epochs=2, limit_batches=lk.LimitBatches(train=5, validation=2))
        print(runner.fit(lk.testing.TwoMoons()).steps)  # 10
        ```
    """

    train: int | None = None
    validation: int | None = None
    test: int | None = None

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            check_whole("LimitBatches", name, getattr(self, name), 1, optional=True)


@dataclasses.dataclass(frozen=True)
class Stopping:
    """When a run stops early, beside `monitor`, `mode` and `patience` of the runner.

    Args:
        min_delta: Least change of the monitored value that counts as an improvement for `patience`, compared with the
            last one that did. The best epoch is the one with the best value all the same.
        min_epochs: Finished epochs before which neither `patience` nor `stop_at` ends the run.
        stop_at: Monitored value at which the run ends: it is reached if the best value is as good; `None` for none.

    Raises:
        ValueError: `min_delta` is negative, `min_epochs` is below 0, or a number is not finite.

    Examples:
        ```python
        import lightkeras as lk

        stopping = lk.Stopping(min_epochs=2, stop_at=0.8)
        runner = lk.Runner(max_epochs=20, monitor="val/accuracy", stopping=stopping)
        print(runner.fit(lk.testing.TwoMoons()).stop_reason)
        ```
    """

    min_delta: float = 0.0
    min_epochs: int = 0
    stop_at: float | None = None

    def __post_init__(self) -> None:
        check_whole("Stopping", "min_epochs", self.min_epochs, 0)
        if not 0 <= self.min_delta < float("inf"):
            raise ValueError(f"Stopping(min_delta={self.min_delta!r}): expected a number of at least 0.")
        if self.stop_at is not None and not abs(self.stop_at) < float("inf"):
            raise ValueError(f"Stopping(stop_at={self.stop_at!r}): expected a finite number or None.")


@dataclasses.dataclass(frozen=True)
class Endings:
    """Settings that end training; see `Runner`.

    Raises:
        ValueError: A setting is out of its range.
    """

    max_epochs: int | None = None
    max_steps: int | None = None
    max_time: float | None = None
    monitor: str | None = None
    mode: str | None = None
    patience: int | None = 3
    stopping: Stopping = dataclasses.field(default_factory=Stopping)
    validate_every: int | str = 1

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_whole(owner, "max_epochs", self.max_epochs, 1, optional=True)
        check_whole(owner, "max_steps", self.max_steps, 1, optional=True)
        check_whole(owner, "patience", self.patience, 1, optional=True)
        if self.max_time is not None and not 0 < self.max_time < float("inf"):
            raise ValueError(f"{owner}(max_time={self.max_time!r}): expected a number of seconds above 0.")
        if self.mode not in (None, "min", "max"):
            raise ValueError(f"{owner}(mode={self.mode!r}): expected 'min', 'max' or None.")
        try:
            decisions.parse_every(self.validate_every)
        except ValueError as error:
            raise ValueError(f"{owner}(validate_every=...): {error}") from None

    @property
    def epoch_limit(self) -> int | None:
        """Maximum number of epochs; `None` if `max_steps` or `max_time` alone limits the run."""
        limits = (self.max_epochs, self.max_steps, self.max_time)
        return DEFAULT_EPOCHS if limits == (None, None, None) else self.max_epochs

    @property
    def validation(self) -> decisions.Every:
        """How often to validate."""
        return decisions.parse_every(self.validate_every)


@dataclasses.dataclass(frozen=True)
class Settings(Endings):
    """Settings of a run; see `Runner`.

    Raises:
        ValueError: A setting is out of its range.
        TypeError: A setting has another type, such as a dict for `stopping`, or a logger is not a `Logger`.
    """

    limit_batches: LimitBatches = dataclasses.field(default_factory=LimitBatches)
    skip_broken: int = 0
    checkpoints: Checkpoints = dataclasses.field(default_factory=Checkpoints)
    features: FeatureCache = dataclasses.field(default_factory=FeatureCache)
    seed: int = 0
    steps_per_call: int | None = None
    run_dir: str | Path | None = None
    callbacks: Sequence[KerasCallback] = ()
    loggers: Sequence[Logger] = ()
    progress: bool = True
    draw_every: int | None = None
    pictures: bool = True
    export: bool = True
    preflight: bool = True
    profile: bool = False
    log_gradients: str | None = None
    devices: int | str | None = None
    eager: bool = False
    compile: str = "auto"
    overfit_batches: int | None = None
    smoke: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        if self.log_gradients not in (None, *LOG_GRADIENTS):
            raise ValueError(f"{owner}(log_gradients={self.log_gradients!r}): expected 'norm', 'histogram' or None.")
        if self.compile not in COMPILE:
            raise ValueError(f"{owner}(compile={self.compile!r}): expected 'auto', 'on' or 'off'.")
        if self.devices is not None and self.devices != "all":
            if isinstance(self.devices, str):
                raise ValueError(f"{owner}(devices={self.devices!r}): expected a number, 'all' or None.")
            check_whole(owner, "devices", self.devices, 1)
        for field in dataclasses.fields(self):
            kind, value = field.default_factory, getattr(self, field.name)
            if isinstance(kind, type) and not isinstance(value, kind):
                raise TypeError(f"{owner}({field.name}={value!r}): expected an object lk.{kind.__name__}(...).")
        for name, values in {"callbacks": self.callbacks, "loggers": self.loggers}.items():
            if not isinstance(values, Sequence):
                raise TypeError(
                    f"{owner}({name}=...): expected a list, got {type(values).__name__}. Give {name}=[...]."
                )
        for logger in self.loggers:
            if not isinstance(logger, Logger):
                raise TypeError(
                    f"{owner}(loggers=...): expected loggers such as lk.loggers.MLflow(), got {logger!r}. A logger "
                    "extends lk.loggers.Logger; Keras callbacks are given as callbacks=[...]."
                )
        check_whole(owner, "seed", self.seed, 0)
        check_whole(owner, "skip_broken", self.skip_broken, 0)
        check_whole(owner, "steps_per_call", self.steps_per_call, 1, optional=True)
        check_whole(owner, "draw_every", self.draw_every, 1, optional=True)
        check_whole(owner, "overfit_batches", self.overfit_batches, 1, optional=True)

    def check_keeps_runs(self, user: str) -> None:
        """Refuses `smoke`, which keeps no run, and several processes, for what reads the runs that it starts.

        Raises:
            ValueError: `smoke` is set, or a launcher started several processes; the message begins with `user`.
        """
        if (launch := launched()) is not None:
            raise ValueError(
                f"{user} is started once, and {launch.variable} tells of {launch.processes} processes: start it "
                "without a launcher."
            )
        if self.smoke:
            raise ValueError(
                f"{user} needs the runs that it starts, and smoke=True keeps none: try one run first, by "
                "Runner(smoke=True).fit(task)."
            )

    def record(self) -> dict[str, Any]:
        """The settings as plain data."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        settings["max_epochs"] = self.epoch_limit
        settings["run_dir"] = None if self.run_dir is None else str(self.run_dir)
        settings |= {name: dataclasses.asdict(settings[name]) for name in GROUPS}
        settings["loggers"] = [str(logger) for logger in self.loggers]
        settings["callbacks"] = [type(callback).__name__ for callback in self.callbacks]
        return settings


GROUPS: dict[str, type] = {
    "stopping": Stopping,
    "limit_batches": LimitBatches,
    "checkpoints": Checkpoints,
    "features": FeatureCache,
}
"""Settings of a runner that are groups of settings, each with its class."""
