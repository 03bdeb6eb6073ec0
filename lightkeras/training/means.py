"""Means of logged values over the steps of an epoch, weighted by examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np

from lightkeras.engine.base import StepLogs


@final
class Means:
    """Sums the logs of steps when a mean is read: a callback may look at each step, and most look at none."""

    def __init__(self) -> None:
        self._examples = 0
        self._sums: dict[str, float] = {}
        self._added: list[StepLogs] = []  # not summed yet

    def add(self, logs: StepLogs) -> None:
        """Adds the logs of one call of at least one step."""
        self._added.append(logs)

    def values(self) -> dict[str, float]:
        """The means so far."""
        self._sum()
        return {name: total / self._examples for name, total in self._sums.items()}

    @property
    def examples(self) -> int:
        """Number of examples so far."""
        self._sum()
        return self._examples

    def state(self) -> dict[str, Any]:
        """The sums so far, as JSON values."""
        self._sum()
        return {"examples": self._examples, "sums": dict(self._sums)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a result of `state`, in the place of everything that was added."""
        self._examples, self._sums, self._added = state["examples"], dict(state["sums"]), []

    def _sum(self) -> None:
        if not self._added:
            return
        added, self._added = StepLogs.joined(self._added), []
        self._examples += int(added.examples.sum())
        if added.values:
            # Step by step in float64: the bits must not depend on how many steps a call runs, which timing sets.
            before = [[self._sums.get(name, 0.0) for name in added.values]]
            columns = np.stack(list(added.values.values()), axis=1).astype(np.float64)
            terms = np.concatenate([before, columns * added.examples[:, None]])
            self._sums = dict(zip(added.values, np.add.accumulate(terms)[-1].tolist(), strict=True))
