"""Batch hooks of Keras callbacks, and their logs, which are computed when a callback reads them."""

from __future__ import annotations

import functools
import math
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

import keras

Values = Callable[[], Mapping[str, float]]

_NOT_COMPUTED = ""  # a key, because code in C, such as `json.dumps`, does not ask an empty dict for its items


def defines(callback: keras.callbacks.Callback, hooks: Iterable[str]) -> bool:
    """Whether a callback defines a hook, in its class or as an attribute of its own."""
    base = keras.callbacks.Callback
    return any(hook in vars(callback) or getattr(type(callback), hook) is not getattr(base, hook) for hook in hooks)


@final
class BatchHooks:
    """Calls the hooks at the beginning and at the end of each batch.

    Keras's `CallbackList` converts all logs for each batch, and calls callbacks that define no such hook.

    Args:
        callbacks: The callbacks.
        hooks: Names of the hooks, which may include older names that these call; the last two begin and end a batch.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], hooks: Sequence[str]) -> None:
        self._callbacks = [callback for callback in callbacks if defines(callback, hooks)]
        self._begin, self._end = hooks[-2:]
        self._begun: int | None = None
        self._seconds = 0.0

    def begin(self, batch: int) -> None:
        """Calls the hooks at the beginning of a batch, once if it is called again because there was no batch."""
        if batch == self._begun:
            return
        began, logs = time.perf_counter(), dict[str, float]()
        self._begun = batch
        for callback in self._callbacks:
            getattr(callback, self._begin)(batch, logs=logs)
        self._seconds += time.perf_counter() - began

    def end(self, batch: int, means: Values, metrics: Values) -> None:
        """Calls the hooks at the end of a batch; for the values see `BatchLogs`."""
        began, logs = time.perf_counter(), BatchLogs(means, metrics)
        self._begun = None
        for callback in self._callbacks:
            getattr(callback, self._end)(batch, logs=logs)
        kept = weakref.ref(logs)
        del logs
        if (found := kept()) is not None:
            found.compute()  # a later batch has other values
        self._seconds += time.perf_counter() - began

    def take_seconds(self) -> float:
        """Returns the seconds in hooks since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


@final
class BatchLogs(dict[str, float]):
    """The values of an epoch after one of its batches, as the `dict` that callbacks expect.

    Most batch hooks read none of them, or the loss alone, and computing the metrics may take longer than a train step.
    So the means are computed when a value is read, and the metrics when one is read that is not a mean, or several.
    Keys are sorted, as in Keras.

    Args:
        means: Returns the means of the logged values by name.
        metrics: Returns the values of the stateful metrics by name.
    """

    def __init__(self, means: Values, metrics: Values) -> None:
        super().__init__({_NOT_COMPUTED: math.nan})
        self._means: Values | None = means
        self._metrics: Values | None = metrics

    def compute(self) -> None:
        """Computes all values, unless they are known."""
        if self._metrics is not None:
            self._compute_means()
            metrics, self._metrics = self._metrics, None
            found = sorted({**self, **metrics()}.items())
            super().clear()
            super().update(found)

    def __getitem__(self, name: str) -> float:
        self._look_up(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._look_up(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self._look_up(name)
        return super().__contains__(name)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        self.compute()
        return dict, (dict(self),)

    def _look_up(self, name: object) -> None:
        self._compute_means()
        if not super().__contains__(name):
            self.compute()

    def _compute_means(self) -> None:
        if self._means is not None:
            means, self._means = self._means, None
            found = means()
            super().clear()
            super().update(found)


def _computed_first(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    @functools.wraps(method)
    def called(self: BatchLogs, *args: Any, **kwargs: Any) -> Any:
        self.compute()
        return method(self, *args, **kwargs)

    return called


COMPUTED_FIRST = (
    *("__delitem__", "__eq__", "__ior__", "__iter__", "__len__", "__ne__", "__or__", "__repr__", "__reversed__"),
    *("__ror__", "__setitem__"),
    *("clear", "copy", "items", "keys", "pop", "popitem", "setdefault", "update", "values"),
)
"""Methods that all values are computed for."""

for _name in COMPUTED_FIRST:
    setattr(BatchLogs, _name, _computed_first(_name))
