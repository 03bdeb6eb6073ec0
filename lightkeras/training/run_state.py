"""RunState: progress and results of a run, as a checkpoint stores them.

    state = RunState(Patience("min"))
    json = state.to_json()                     # entries of `state.json`
    state.restore(json)

A new counter is one more field: it is saved and restored, and has its default where an older checkpoint lacks it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from lightkeras.runs.results import Best
from lightkeras.training.decisions import Patience


@dataclasses.dataclass
class RunState:
    """Counters and records of a run.

    Args:
        patience: State of early stopping.
        step: Train steps done.
        epochs: Epochs finished.
        batches_done: Batches done in the current epoch; 0 between two epochs.
        validations: Validations done.
        validated: Step of the last validation, and its values by name; `None` before the first.
        best: The best epoch so far; `None` before the first, and without a monitored value.
        history: Values of every finished epoch, by name.
        skipped: Steps whose batch was skipped because it broke the run.
        drawn: Steps at which pictures were logged.
        opened_to_draw: Streams of the validation split that were opened to draw pictures.
        not_finite: The monitored value if it is not finite, which ends training. Not saved.
        stop_reason: Why training ends; `None` while it continues. Not saved.
        diverged: Whether training ended because a value was not finite. Not saved.
    """

    patience: Patience = dataclasses.field(metadata={"key": "progress"})
    step: int = 0
    epochs: int = 0
    batches_done: int = dataclasses.field(default=0, metadata={"key": "done"})
    validations: int = 0
    validated: tuple[int, Mapping[str, float]] | None = None
    best: Best | None = None
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    skipped: list[int] = dataclasses.field(default_factory=list)
    drawn: list[int] = dataclasses.field(default_factory=list)
    opened_to_draw: int = 0
    not_finite: float | None = dataclasses.field(default=None, metadata={"key": None})
    stop_reason: str | None = dataclasses.field(default=None, metadata={"key": None})
    diverged: bool = dataclasses.field(default=False, metadata={"key": None})

    @property
    def position(self) -> tuple[int, int, int]:
        """Steps, epochs and validations: the same only where nothing happened in between."""
        return self.step, self.epochs, self.validations

    @property
    def validated_now(self) -> bool:
        """Whether the current weights were validated."""
        return self.validated is not None and self.validated[0] == self.step

    def to_json(self) -> dict[str, Any]:
        """The fields that are saved, as JSON values. They are copies: training continues while they are written."""
        return {key: _plain(getattr(self, name)) for name, key in _keys().items()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restores the fields from the result of `to_json`, also after a round trip through a JSON file."""
        for name, key in _keys().items():
            if key in saved:
                setattr(self, name, _READERS.get(name, _plain)(saved[key]))


def _keys() -> dict[str, str]:
    """Names of the saved fields, with their keys in `state.json`: two differ, for existing checkpoints."""
    fields = dataclasses.fields(RunState)
    keys = {field.name: field.metadata.get("key", field.name) for field in fields}
    return {name: key for name, key in keys.items() if key is not None}


def _plain(value: Any) -> Any:
    """A copy of dataclasses, dicts, lists and tuples; dataclasses become dicts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, (list, tuple)) else value


_READERS: dict[str, Callable[[Any], Any]] = {
    "patience": lambda saved: Patience(**saved),
    "best": lambda saved: None if saved is None else Best(**saved),
    "validated": lambda saved: None if saved is None else (saved[0], dict(saved[1])),
}
