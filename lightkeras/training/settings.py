"""Settings of a run, checked when they are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from lightkeras.encoders.features import FeatureCache
from lightkeras.system.messages import check_whole
from lightkeras.training import decisions
from lightkeras.training.saver import Checkpoints


@dataclasses.dataclass(frozen=True)
class LimitBatches:
    """Most batches of each split that are used, in every epoch; `None` for all of them.

    Args:
        train: Train batches per epoch: the first of each epoch's order.
        validation: Batches per validation.
        test: Batches per test.

    Raises:
        ValueError: A number below 1.
    """

    train: int | None = None
    validation: int | None = None
    test: int | None = None

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            check_whole("LimitBatches", name, getattr(self, name), 1, optional=True)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Args:
        max_epochs: Most epochs of training.
        max_steps: Most train steps, over all epochs; `None` for no limit.
        max_time: Seconds after which training ends, counted from this call; `None` for no limit.
        monitor: Epoch value that decides which epoch is best and when to stop. `None` means
            `val/loss` where there is validation data, else `train/loss`.
        mode: Whether the monitored value is better low (`"min"`) or high (`"max"`); `None` tells it
            from the name.
        patience: Validations (epochs, for a value of the train split) without a better value before
            training stops; `None` never stops early.
        validate_every: How often to validate: epochs, as in `2` or `"2 epochs"`, or train steps, as in
            `"500 steps"`.
        limit_batches: Most batches of each split.
        skip_broken: Batches that may be skipped because a loss or a variable would not be finite after them;
            0 stops at the first.
        checkpoints: When to save, and what to keep.
        features: Where features of a frozen part are kept.
        seed: Seed of the initial weights, of the order of examples and of dropout.
        steps_per_call: Train steps per compiled call; `None` fills about 75 ms. Results do not depend on it.
        run_dir: The run directory; `None` makes one under `runs/`.
        callbacks: Keras callbacks.
        progress: Whether to show a progress bar (on a terminal only).
        draw_every: Epochs after which the pictures of the task are drawn during training, with the weights as they
            are then; `None` draws them at the end alone.
        pictures: Whether to draw at all: the curves, the pictures of the task, and `report.html`.
        export: Whether to write `model.keras`, with the best weights, when a run has come to its end.
        preflight: Whether to try everything on one batch before the first epoch; see `lightkeras.training.preflight`
            for what is checked all the same.
        profile: Whether to write where the time of a fit went to `profile.json`, and the backend's own trace of
            its second call to `profile/`.

    Raises:
        ValueError: A setting out of its range.
    """

    max_epochs: int = 10
    max_steps: int | None = None
    max_time: float | None = None
    monitor: str | None = None
    mode: str | None = None
    patience: int | None = 3
    validate_every: int | str = 1
    limit_batches: LimitBatches = dataclasses.field(default_factory=LimitBatches)
    skip_broken: int = 0
    checkpoints: Checkpoints = dataclasses.field(default_factory=Checkpoints)
    features: FeatureCache = dataclasses.field(default_factory=FeatureCache)
    seed: int = 0
    steps_per_call: int | None = None
    run_dir: str | Path | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    progress: bool = True
    draw_every: int | None = None
    pictures: bool = True
    export: bool = True
    preflight: bool = True
    profile: bool = False

    def __post_init__(self) -> None:
        for name, least in {"max_epochs": 1, "seed": 0, "skip_broken": 0}.items():
            check_whole(type(self).__name__, name, getattr(self, name), least)
        for name in ("max_steps", "patience", "steps_per_call", "draw_every"):
            check_whole(type(self).__name__, name, getattr(self, name), 1, optional=True)
        if self.max_time is not None and not 0 < self.max_time < float("inf"):
            raise ValueError(
                f"{type(self).__name__}(max_time={self.max_time!r}): expected a number of seconds above 0."
            )
        if self.mode not in (None, "min", "max"):
            raise ValueError(f"{type(self).__name__}(mode={self.mode!r}): expected 'min', 'max' or None.")
        try:
            decisions.parse_every(self.validate_every)
        except ValueError as error:
            raise ValueError(f"{type(self).__name__}(validate_every=...): {error}") from None

    @property
    def validation(self) -> decisions.Every:
        """How often to validate."""
        return decisions.parse_every(self.validate_every)

    def record(self) -> dict[str, Any]:
        """The settings as plain data."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        settings["run_dir"] = None if self.run_dir is None else str(self.run_dir)
        settings["limit_batches"] = dataclasses.asdict(self.limit_batches)
        settings["checkpoints"] = dataclasses.asdict(self.checkpoints)
        settings["features"] = dataclasses.asdict(self.features)
        settings["callbacks"] = [type(callback).__name__ for callback in self.callbacks]
        return settings
