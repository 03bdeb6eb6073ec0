"""Checks decoded JSON against the types that a dataclass declares.

    @dataclasses.dataclass
    class Meta:
        format: int
        arrays: list[Array]              # another dataclass
        note: str | None = None          # may be missing, because it has a default

    problem = find_problem(data, Meta)   # "arrays[0].dtype: expected text, got 5"

Keys that are not declared are allowed: a later version may write more.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}

LARGEST = 2**63 - 1
"""Largest whole number: NumPy and the file formats have no larger one."""


def find_problem(data: Any, kind: Any, path: str = "") -> str | None:
    """Returns the first difference of JSON values from a type, as a sentence that names the key.

    Args:
        data: Decoded JSON.
        kind: A dataclass, or a type of numbers, texts, `None`, `list[...]`, `tuple[...]`, `dict[str, ...]`, `Literal`,
            `Any` and unions of them. `Annotated[type, function]` calls the function with a value of the right type; it
            returns a description of what is expected instead, or `None`.
        path: Key of the data, for the sentence.
    """
    if kind is Any:
        return None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        problem = find_problem(data, arguments[0], path)
        if problem is None and (expected := arguments[1](data)) is not None:
            return _difference(path, expected, data)
        return problem
    if origin in (typing.Union, types.UnionType):
        problems = [find_problem(data, option, path) for option in arguments]
        if None in problems:
            return None
        structures = [problem for option, problem in zip(arguments, problems, strict=True) if _has_shape(data, option)]
        return structures[0] if structures else _difference(path, _described(kind), data)
    if dataclasses.is_dataclass(kind):
        return _of_fields(data, typing.cast(type, kind), path)
    if origin is typing.Literal:
        known = any(type(data) is type(value) and data == value for value in arguments)
        return None if known else _difference(path, _described(kind), data)
    if origin is list:
        return _of_items(data, [arguments[0]] * len(data) if isinstance(data, list) else [], path, "a list")
    if origin is tuple:
        expected = f"a list of {len(arguments)}"
        if not isinstance(data, list) or len(data) != len(arguments):
            return _difference(path, expected, data)
        return _of_items(data, list(arguments), path, expected)
    if origin is dict:
        if not isinstance(data, Mapping):
            return _difference(path, "an object", data)
        found = (find_problem(value, arguments[1], f"{path}.{key}" if path else key) for key, value in data.items())
        return next((problem for problem in found if problem is not None), None)
    return None if _is_plain(data, kind) else _difference(path, _described(kind), data)


def matches(pattern: str) -> Callable[[str], str | None]:
    """Returns a check for `Annotated`: the whole text matches a regular expression."""
    compiled = re.compile(pattern)
    return lambda text: None if compiled.fullmatch(text) else f"text of the form {pattern}"


def at_least(least: float) -> Callable[[float], str | None]:
    """Returns a check for `Annotated`: the number is not smaller."""
    return lambda number: None if number >= least else f"a number of at least {least}"


Count = Annotated[int, at_least(0)]
"""A whole number of at least 0."""


@functools.cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Types of the fields by key, and whether they must be there."""
    hints = typing.get_type_hints(kind, include_extras=True)
    missing = dataclasses.MISSING
    return {
        field.metadata.get("key", field.name): (
            hints[field.name],
            field.default is missing and field.default_factory is missing,
        )
        for field in dataclasses.fields(kind)
    }


def _of_fields(data: Any, kind: type, path: str) -> str | None:
    if not isinstance(data, Mapping):
        return _difference(path, "an object", data)
    for key, (hint, required) in _fields(kind).items():
        below = f"{path}.{key}" if path else key
        if key not in data:
            if required:
                return f"{below} is missing"
            continue
        if (problem := find_problem(data[key], hint, below)) is not None:
            return problem
    return None


def _of_items(data: Any, kinds: list[Any], path: str, expected: str) -> str | None:
    if not isinstance(data, list):
        return _difference(path, expected, data)
    found = (find_problem(item, kind, f"{path}[{n}]") for n, (item, kind) in enumerate(zip(data, kinds, strict=True)))
    return next((problem for problem in found if problem is not None), None)


def _is_plain(data: Any, kind: Any) -> bool:
    if kind is float and isinstance(data, float):
        return True
    if kind in (int, float):
        return isinstance(data, int) and not isinstance(data, bool) and abs(data) <= LARGEST
    if kind is None:
        return data is None
    return isinstance(data, kind)


def _has_shape(data: Any, kind: Any) -> bool:
    """Whether a value is of the kind of container that a type describes, so that its own problem says more."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _is_plain(data, typing.get_args(kind)[0])
    if dataclasses.is_dataclass(kind) or origin is dict:
        return isinstance(data, Mapping)
    return origin in (list, tuple) and isinstance(data, list)


def _described(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _described(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_described, arguments)))
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if dataclasses.is_dataclass(kind) or origin is dict:
        return "an object"
    if origin in (list, tuple):
        return "a list"
    return _WORDS.get(type(None) if kind is None else kind, getattr(kind, "__name__", str(kind)))


def _difference(path: str, expected: str, data: Any) -> str:
    if isinstance(data, Mapping):
        got = "object"
    elif isinstance(data, list):
        got = "list"
    else:
        text = repr(data)
        got = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{path + ': ' if path else ''}expected {expected}, got {got}"
