"""Saves and restores the state of Keras callbacks as plain data.

Keras's callbacks cannot be saved: they keep settings and state in the same attributes. An attribute counts as state if
its value is plain and has changed since the fit began: `wait` does, `patience` does not. A callback can define
`state_dict` and `load_state_dict` instead.
"""

from __future__ import annotations

import functools
import os
import re
import types
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import keras
import numpy as np

from lightkeras.system.messages import printable
from lightkeras.system.plain_values import Encoder, NotPlainError, decode, fingerprint
from lightkeras.system.variables import CheckpointError

_Arrays = Mapping[str, np.ndarray]

# Attributes that `CallbackList` sets.
_SET_BY_KERAS = {"model", "_model", "params", "validation_data"}


@functools.cache
def _not_state() -> list[tuple[type[keras.callbacks.Callback], set[str]]]:
    """Attributes of Keras's own callbacks that change but must not be restored.

    Keras flips the sign of `min_delta` once for each object; times, traces and writers belong to a process; CSVLogger
    decides on appending when it opens its file.
    """
    return [
        (keras.callbacks.EarlyStopping, {"min_delta", "monitor_op"}),
        (keras.callbacks.ModelCheckpoint, {"min_delta", "monitor_op"}),
        (keras.callbacks.ReduceLROnPlateau, {"min_delta", "monitor_op"}),
        (keras.callbacks.CSVLogger, {"append", "append_header", "csv_file", "writer"}),
        (keras.callbacks.ProgbarLogger, {"progbar"}),
        (
            keras.callbacks.TensorBoard,
            {
                *("_batch_start_time", "_epoch_start_time", "_previous_epoch_iterations", "_train_accumulated_time"),
                *("_is_tracing", "_profiler_started", "_batch_trace_context"),
                *("_writers", "_prev_summary_state", "_summary_module"),
            },
        ),
    ]


# An attribute that says where a callback writes or sends is a setting of the user's code: a run directory, which may
# come from somebody else, must not change it.
_PLACE = re.compile(r"(^|_)(path|filepath|dir|dirname|directory|file|filename|folder|root|url|uri|host|address)$")

_PATH = re.compile(r"^[/~]|(^|/)\.\.?(/|$)|://|/.*\.\w+$")  # not of `val/loss`

_NEVER_STATE = (
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    type,
    Path,
)


@runtime_checkable
class HasState(Protocol):
    """A callback that defines its own state; no other attribute is saved."""

    def state_dict(self) -> Any:
        """Returns the state, a plain value."""

    def load_state_dict(self, state: Any) -> None:
        """Restores the result of `state_dict`, after `on_train_begin` (and `on_epoch_begin`, inside an epoch)."""


@final
class CallbackStates:
    """Saves and restores the state of callbacks.

    Create it before `on_train_begin`, when the callbacks have their model: their attributes are settings until then.
    Call `begin` after `on_train_begin`. Callbacks are matched by class name and, within a class, by their order.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        self._callbacks = list(callbacks)
        self._used = [_USED.get(id(callback)) is callback for callback in self._callbacks]
        self._at_first = [_marks(callback) for callback in self._callbacks]
        self._at_begin = self._at_first
        # A restored attribute stays state, also if its value equals the one at the beginning of the fit.
        self._restored: list[set[str]] = [set() for _ in self._callbacks]

    def begin(self) -> None:
        """Records the attributes after `on_train_begin`."""
        self._at_begin = [_marks(callback) for callback in self._callbacks]
        _USED.update({id(callback): callback for callback in self._callbacks})

    def save(self) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """Returns the current state: JSON values, one record per callback, and the arrays they refer to.

        Raises:
            TypeError: A callback's `state_dict` returned a value that is not plain.
        """
        encoder = Encoder()
        records = [self._record(number, encoder) for number in range(len(self._callbacks))]
        return records, encoder.arrays

    def prepare_resume(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Prepares callbacks that write files to append to them; call it before `on_train_begin`."""
        for number, record in self._matched(records):
            callback = self._callbacks[number]
            if isinstance(callback, keras.callbacks.CSVLogger) and record.get("file") is not None:
                _truncate_file(callback, record["file"])

    def restore(self, records: Sequence[Mapping[str, Any]], arrays: _Arrays) -> None:
        """Restores a result of `save`, after `on_train_begin` (and `on_epoch_begin`, inside an epoch).

        Warns of callbacks without a saved state, of saved states without a callback, and of callbacks whose settings
        an earlier fit may have changed.
        """
        matched = self._matched(records)
        for number, record in matched:
            callback = self._callbacks[number]
            if self._used[number]:
                _warn_of_leftovers(callback, record.get("unchanged", {}))
            if isinstance(callback, HasState):
                callback.load_state_dict(_decoded(record["state"], arrays))
                continue
            for name, data in record.get("attributes", {}).items():
                value = _decoded(data, arrays)
                if _may_be_state(callback, name, value):
                    setattr(callback, name, value)
                    self._restored[number].add(name)
        known = {number for number, _ in matched}
        new = [type(callback).__name__ for number, callback in enumerate(self._callbacks) if number not in known]
        taken = [id(record) for _, record in matched]
        gone = [printable(record["class"]) for record in records if id(record) not in taken]
        if new or gone:
            warnings.warn(
                "The callbacks differ from those that the run was saved with: "
                + "; ".join(
                    [f"{', '.join(new)} starts without a saved state"] * bool(new)
                    + [f"the state of {', '.join(gone)} is dropped"] * bool(gone)
                )
                + ". Give the same callbacks in the same order to resume exactly.",
                stacklevel=2,
            )

    def not_saved(self) -> dict[str, list[str]]:
        """Attributes that changed since the fit began but are not plain, so that a resumed run loses them.

        Returns:
            Names of attributes by the class name of the callback.
        """
        found: dict[str, list[str]] = {}
        for number, callback in enumerate(self._callbacks):
            marks = _marks(callback)
            names = [name for name in self._changed(number, marks) if not marks[name].startswith(_PLAIN)]
            if names:
                known = found.setdefault(type(callback).__name__, [])
                known.extend(name for name in names if name not in known)
        return found

    def _record(self, number: int, encoder: Encoder) -> dict[str, Any]:
        callback = self._callbacks[number]
        record: dict[str, Any] = {"class": type(callback).__name__}
        if isinstance(callback, HasState):
            try:
                record["state"] = encoder.encode(callback.state_dict(), f"{number}/state")
            except NotPlainError as error:
                raise TypeError(
                    f"{record['class']}.state_dict() returned a value that cannot be saved: {error}. Expected None, "
                    "numbers, strings, bytes, arrays, and lists, tuples, sets and dictionaries of those."
                ) from error
            return record
        plain = {name: mark for name, mark in _marks(callback).items() if mark.startswith(_PLAIN)}
        changed = self._changed(number, plain)
        record["attributes"] = {name: encoder.encode(vars(callback)[name], f"{number}/{name}") for name in changed}
        record["unchanged"] = {name: mark for name, mark in plain.items() if name not in changed}
        if isinstance(callback, keras.callbacks.CSVLogger):
            record["file"] = _file_of(callback)
        if isinstance(callback, keras.callbacks.TensorBoard):
            for writer in callback._writers.values():
                writer.flush()  # a resumed run does not write earlier events again
        return record

    def _changed(self, number: int, marks: Mapping[str, str]) -> list[str]:
        first, begin, restored = self._at_first[number], self._at_begin[number], self._restored[number]
        values = vars(self._callbacks[number])
        return [
            name
            for name, mark in marks.items()
            if (mark != first.get(name) or mark != begin.get(name) or name in restored)
            and not _names_a_place(name, values.get(name))
        ]

    def _matched(self, records: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
        """Numbers of the callbacks that have a record, each with its record."""
        left = list(records)
        found = []
        for number, callback in enumerate(self._callbacks):
            kind = (type(callback).__name__, isinstance(callback, HasState))
            record = next((record for record in left if (record["class"], "state" in record) == kind), None)
            if record is not None:
                left.remove(record)
                found.append((number, record))
        return found


# Callbacks used by a fit of this process, by id because they need not be hashable.
_USED: weakref.WeakValueDictionary[int, keras.callbacks.Callback] = weakref.WeakValueDictionary()

_PLAIN, _OTHER = "plain ", "other "


def _marks(callback: keras.callbacks.Callback) -> dict[str, str]:
    """Fingerprints of the attributes of a callback that may be state, by name."""
    if isinstance(callback, HasState):
        return {}
    not_state = set().union(_SET_BY_KERAS, *(names for kind, names in _not_state() if isinstance(callback, kind)))
    found = {}
    for name, value in vars(callback).items():
        if name not in not_state and not _is_restored_elsewhere(value, callback.model):
            mark = _mark(value)
            if mark is not None:
                found[name] = mark
    return found


def _may_be_state(callback: keras.callbacks.Callback, name: str, value: Any) -> bool:
    """Whether a saved attribute may be set: not a method, a place, or what Keras sets itself."""
    not_state = set().union(_SET_BY_KERAS, *(names for kind, names in _not_state() if isinstance(callback, kind)))
    now, of_class = vars(callback).get(name), getattr(type(callback), name, None)
    if name in not_state or name.startswith("__") or callable(now) or callable(of_class):
        return False
    if isinstance(of_class, property):
        return False
    return not _names_a_place(name, value) and not _names_a_place(name, now)


def _names_a_place(name: str, value: Any) -> bool:
    """Whether an attribute holds a path or an address: by its name, or because a text in it looks like one."""
    if isinstance(value, (str, bytes, os.PathLike)):
        return bool(_PLACE.search(name) or _PATH.search(os.fsdecode(value)))
    if isinstance(value, Mapping):
        return any(_names_a_place(name, part) for part in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(_names_a_place(name, part) for part in value)
    return False


def _decoded(data: Any, arrays: _Arrays) -> Any:
    try:
        return decode(data, arrays)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _mark(value: Any) -> str | None:
    """A fingerprint of a value; `None` for functions, classes and modules, which have no state."""
    try:
        return _PLAIN + fingerprint(value)
    except NotPlainError:
        return None if isinstance(value, _NEVER_STATE) else f"{_OTHER}{id(value)} {_inside(value)}"


def _inside(value: Any) -> str:
    """A fingerprint of the visible state of an object that is not plain."""
    seen: list[Any] = [type(value).__qualname__]
    if isinstance(value, (keras.Variable, keras.metrics.Metric, keras.Layer, keras.optimizers.Optimizer)):
        variables = [value] if isinstance(value, keras.Variable) else value.variables
        seen += [fingerprint(np.asarray(keras.ops.convert_to_numpy(variable))) for variable in variables]
    elif isinstance(value, Mapping):
        seen += [part for pair in value.items() for part in map(_short, pair)]
    elif isinstance(value, (Sequence, set, frozenset)) or type(value).__module__ == "collections":
        seen += map(_short, value)
    else:
        seen += [(name, _short(part)) for name, part in getattr(value, "__dict__", {}).items()]
    return repr(seen)


def _short(value: Any) -> str:
    try:
        return fingerprint(value)
    except NotPlainError:
        return str(id(value))


def _warn_of_leftovers(callback: keras.callbacks.Callback, unchanged: Mapping[str, str]) -> None:
    """Warns if the settings of a reused callback differ from the saved run's: its earlier fit may have changed them."""
    marks = _marks(callback)
    names = [name for name, mark in unchanged.items() if marks.get(name) != mark]
    if names:
        warnings.warn(
            f"{type(callback).__name__} was used in an earlier fit, and its {', '.join(names)} changed since the run "
            "was saved. The run resumes with the current values: give a fresh callback to resume exactly.",
            stacklevel=3,
        )


def _is_restored_elsewhere(value: Any, model: keras.Model | None) -> bool:
    """Whether a value is the model or a part of it, whose variables the run state holds."""
    if model is None or not isinstance(value, (keras.Variable, keras.Layer, keras.optimizers.Optimizer)):
        return False
    known = {id(variable) for variable in model.variables}
    known |= {id(variable) for variable in getattr(getattr(model, "optimizer", None), "variables", [])}
    own = [value] if isinstance(value, keras.Variable) else value.variables
    return all(id(variable) in known for variable in own)


def _file_of(callback: keras.callbacks.CSVLogger) -> dict[str, Any]:
    """The file of a CSVLogger, up to the last row it wrote."""
    if callback.csv_file is not None and not callback.csv_file.closed:
        callback.csv_file.flush()
    path = Path(callback.filename)
    return {"name": callback.filename, "size": path.stat().st_size if path.exists() else 0}


def _truncate_file(callback: keras.callbacks.CSVLogger, file: Mapping[str, Any]) -> None:
    """Removes the rows that will be written again, and sets the callback to append."""
    path, moved = Path(callback.filename), callback.filename != file["name"]
    if moved and (callback.append or not path.exists()):
        return  # another file, which the callback opens with its own settings
    size = path.stat().st_size if path.exists() else 0
    if size < file["size"]:
        warnings.warn(
            f"{path} of CSVLogger ends at byte {size}, but the run was saved when it held {file['size']} bytes: "
            f"its rows from byte {size} on are lost. The run resumes without them.",
            stacklevel=4,
        )
    elif path.exists():
        os.truncate(path, file["size"])  # the user's file, which may be a link
    callback.append = True
