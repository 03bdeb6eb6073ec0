"""Functions that see the gradients of each `minimize` of a step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

Watch = Callable[[Any, Any, Sequence[Any], Sequence[Any]], None]
"""Called in each `minimize` with its optimizer, the loss, the variables and their gradients, before the update."""


@final
class GradientWatches:
    """The watches of one engine; `place` returns the function that is being traced, another object inside a branch."""

    def __init__(self, place: Callable[[], object]) -> None:
        self._place = place
        self._added: list[tuple[Watch, object]] = []  # each with the place of its step

    @contextlib.contextmanager
    def added(self, watch: Watch) -> Iterator[None]:
        """Calls `watch` in each `minimize` of the step that runs inside, with no gradients while models are built."""
        self._added.append((watch, self._place()))
        try:
            yield
        finally:
            self._added.pop()

    def call(self, *found: Any) -> None:
        """Calls the watches; a ValueError if the `minimize` is in a branch, which its values cannot leave."""
        for watch, place in self._added:
            if self._place() is not place:
                raise ValueError(
                    "log_gradients: a minimize is called inside a branch, such as keras.ops.cond, so that not every "
                    "step has its gradients. Call minimize outside of the branch, or set log_gradients=None."
                )
            watch(*found)
