"""Shared checks and texts of error messages, and messages on standard error."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import numbers
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def did_you_mean(name: str, valid: Iterable[str], most: int | None = None) -> str:
    """A sentence such as `"Did you mean 'val/loss'? Valid names: train/loss, val/loss."`, to end an error.

    Of more valid names than `most`, only the three nearest are named.
    """
    names = sorted(valid)
    if not names:
        return "There are no valid names."
    if most is not None and len(names) > most:
        first, second, third = map(repr, difflib.get_close_matches(name, names, n=3, cutoff=0.0))
        return f"Did you mean {first}, {second} or {third}?"
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}Valid names: {', '.join(names)}."


def explain_unknown_keywords(owner: str, given: Iterable[str], valid: Iterable[str], known: Mapping[str, str]) -> None:
    """Raises a TypeError for unknown keyword arguments of a class or function, with one line for each.

    That is its sentence of `known`, by the names that a user of another library would try, or else the nearest valid
    name.
    """
    names = list(valid)
    unknown = [name for name in given if name not in names]
    if unknown:
        answers = [known.get(name) or did_you_mean(name, names) for name in unknown]
        lines = [
            f"{owner}({name}=...): there is no such setting. {answer}"
            for name, answer in zip(unknown, answers, strict=True)
        ]
        raise TypeError("\n".join(lines))


def explains_unknown_keywords(known: Mapping[str, str]) -> Callable[[type[T]], type[T]]:
    """Class decorator that lets a constructor answer unknown keyword arguments by `explain_unknown_keywords`.

    The signature of the constructor stays as it is: `inspect.signature` follows `functools.wraps`.
    """

    def decorated(cls: type[T]) -> type[T]:
        init: Callable[..., None] = vars(cls)["__init__"]
        _, *valid = inspect.signature(init).parameters

        @functools.wraps(init)
        def checked(self: T, *args: Any, **kwargs: Any) -> None:
            explain_unknown_keywords(type(self).__name__, kwargs, valid, known)
            init(self, *args, **kwargs)

        setattr(cls, "__init__", checked)  # noqa: B010  (mypy forbids the assignment)
        return cls

    return decorated


RAISED_BY_US = "_raised_by_lightkeras"
"""Attribute of an error that lightkeras raised and whose traceback was folded, which hides that."""


def raised_by_us(error: BaseException) -> bool:
    """Returns True if lightkeras raised the error, and not the user's code or a library."""
    frames = list(traceback.walk_tb(error.__traceback__))
    ours = bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).startswith("lightkeras.")
    return ours or bool(getattr(error, RAISED_BY_US, False))


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Returns text with its control characters as escapes such as `\\x1b`, except line ends and tabs.

    A run directory may come from somebody else: what is printed of it must not control the terminal.
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


_announced: set[str] = set()
_silent = False


def announce(line: str, once: bool = False) -> None:
    """Prints one line to standard error; with `once` only if this process has not printed it before.

    An experiment of several runs prepares its data for each run.
    """
    if _silent or (once and line in _announced):
        return
    _announced.add(line)
    print(f"lightkeras: {printable(line)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def unannounced() -> Iterator[None]:
    """Context in which `announce` prints nothing."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


def check_whole(
    owner: str,
    name: str,
    value: Any,
    least: int,
    *,
    most: int | None = None,
    optional: bool = False,
    numpy: bool = False,
) -> None:
    """Raises a ValueError unless an argument is a whole number from `least` to `most` (`None`: no limit).

    An empty `owner` is left out of the message; `optional` allows `None`. NumPy's integers are not valid where the
    value is written as JSON.
    """
    if optional and value is None:
        return
    is_whole = isinstance(value, numbers.Integral if numpy else int) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        argument = f"{owner}({name}={value!r})" if owner else f"{name}={value!r}"
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{argument}: expected a whole number {limits}{', or None' if optional else ''}.")
