"""Hyperparameters, declared once: type, default and range in one place.

The command line, the search space, TensorBoard's HParams tab and the run directory all read this
one declaration:

    @dataclasses.dataclass(frozen=True)
    class HParams:
        hidden_units: int = lk.Int(16, low=8, high=128, step=8)
        learning_rate: float = lk.Float(1e-3, low=1e-4, high=1e-2, log=True)
        kind: str = lk.Choice("wide", ["wide", "deep"])
        layers: int = lk.Int(2, low=2, high=6, when={"kind": "deep"})   # searched for deep models only
        batch_size: int = 512            # a plain field: settable, not searched
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar, Union

from lightkeras.system.messages import did_you_mean

Scalar = int | float | str | bool

_KEY = "lightkeras.range"
_WHEN = "lightkeras.when"

When = Mapping[str, Scalar | Sequence[Scalar]]
"""Conditions of a hyperparameter: names of other ones, each with the value or values at which this one is used."""


_ROUNDING = 1e-9  # of a step: (1 - 0) / (1 / 3) is not exactly 3


@dataclasses.dataclass(frozen=True)
class IntRange:
    """Whole numbers from `low` to `high` in steps of `step`; `high` is included if a step reaches it."""

    low: int
    high: int
    step: int
    log: bool

    @property
    def count(self) -> int:
        """Number of values."""
        return (self.high - self.low) // self.step + 1

    def value(self, index: int) -> int:
        """Returns the value with an index from 0."""
        return self.low + index * self.step

    def index(self, value: float) -> int:
        """Returns the index of the nearest value."""
        return min(max(round((value - self.low) / self.step), 0), self.count - 1)

    def holds(self, value: Any) -> bool:
        """Returns True if a number lies between the ends."""
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" + (", log scale" if self.log else f" in steps of {self.step}")


@dataclasses.dataclass(frozen=True)
class FloatRange:
    """Numbers from `low` to `high`; `step` is `None` where the range is continuous.

    `high` is included if the range is continuous or a step reaches it. Steps are counted in decimals: the third value
    of 0.1 to 0.5 in steps of 0.1 is 0.3, and not 0.30000000000000004.
    """

    low: float
    high: float
    step: float | None
    log: bool

    @property
    def count(self) -> int | None:
        """Number of values; `None` if the range is continuous."""
        if self.step is None:
            return None
        return int((_decimal(self.high) - _decimal(self.low)) / _decimal(self.step) + Decimal(_ROUNDING)) + 1

    def value(self, index: int) -> float:
        """Returns the value with an index from 0; only for a range with steps."""
        step = self.step or 0.0
        found = float(_decimal(self.low) + index * _decimal(step))
        return self.high if abs(found - self.high) <= _ROUNDING * step else found

    def index(self, value: float) -> int:
        """Returns the index of the nearest value; only for a range with steps."""
        return min(max(round((value - self.low) / (self.step or 1.0)), 0), (self.count or 1) - 1)

    def holds(self, value: Any) -> bool:
        """Returns True if a number lies between the ends."""
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        steps = f" in steps of {self.step:g}" if self.step is not None else ""
        return f"{self.low:g} to {self.high:g}{steps}" + (", log scale" if self.log else "")


@dataclasses.dataclass(frozen=True)
class Choices:
    """One of several values."""

    values: tuple[Scalar, ...]

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.values)

    def value(self, index: int) -> Scalar:
        """Returns the value with an index from 0."""
        return self.values[index]

    def index(self, value: Scalar) -> int:
        """Returns the index of a value. Raises `ValueError` if it is not one of them."""
        return self.values.index(value)

    def holds(self, value: Any) -> bool:
        """Returns True if a value is one of them."""
        return value in self.values

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.values))


Range = IntRange | FloatRange | Choices


def Int(  # noqa: N802
    default: int, *, low: int, high: int, step: int = 1, log: bool = False, when: When | None = None
) -> int:
    """Declares a whole-number hyperparameter.

    Args:
        default: Value if none is given.
        low: Smallest value a search tries.
        high: Largest value a search tries; with a warning where the steps end below it.
        step: Distance between the values a search tries; must be 1 with `log`.
        log: Whether a search draws on a logarithmic scale.
        when: Conditions on choices that are declared above it, such as `{"kind": "deep"}`: a search tries it only if
            each of them has the given value, or one of the given values; otherwise it has its default and is
            not used. `None` for no condition.

    Returns:
        A dataclass field (typed as the value it will hold).

    Raises:
        TypeError: A bound, step or default is not a whole number.
        ValueError: The range is empty, or the default lies outside it.

    Examples:
        ```python
        import lightkeras as lk

        import dataclasses


        @dataclasses.dataclass(frozen=True)
        class HParams:
            units: int = lk.Int(64, low=16, high=256, log=True)
        ```
    """
    for name, value in {"default": default, "low": low, "high": high, "step": step}.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"Int({name}={value!r}): expected a whole number.")
    if step < 1 or (log and step != 1):
        raise ValueError(f"Int(step={step}, log={log}): expected a step of at least 1, and exactly 1 with log=True.")
    _check_bounds("Int", default, low, high, log)
    found = IntRange(low, high, step, log)
    _warn_of_unreached_end("Int", found)
    field: int = dataclasses.field(default=default, metadata=_metadata(found, when))
    return field


def Float(  # noqa: N802
    default: float,
    *,
    low: float,
    high: float,
    step: float | None = None,
    log: bool = False,
    when: When | None = None,
) -> float:
    """Declares a real-number hyperparameter.

    Args:
        default: Value if none is given.
        low: Smallest value a search tries.
        high: Largest value a search tries; with a warning where the steps end below it.
        step: Distance between the values a search tries; `None` for any value in the range.
        log: Whether a search draws on a logarithmic scale; goes without `step`.
        when: As in `Int`.

    Returns:
        A dataclass field (typed as the value it will hold).

    Raises:
        TypeError: A bound, step or default is not a number.
        ValueError: The range is empty, or the default lies outside it.

    Examples:
        ```python
        import lightkeras as lk

        import dataclasses


        @dataclasses.dataclass(frozen=True)
        class HParams:
            learning_rate: float = lk.Float(1e-3, low=1e-5, high=1e-1, log=True)
        ```
    """
    for name, value in {"default": default, "low": low, "high": high, "step": step or 1.0}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"Float({name}={value!r}): expected a number.")
    if step is not None and (step <= 0 or log):
        raise ValueError(f"Float(step={step}, log={log}): expected a positive step, and none with log=True.")
    _check_bounds("Float", default, low, high, log)
    found = FloatRange(float(low), float(high), None if step is None else float(step), log)
    _warn_of_unreached_end("Float", found)
    field: float = dataclasses.field(default=float(default), metadata=_metadata(found, when))
    return field


ValueT = TypeVar("ValueT", int, float, str, bool)


def Choice(default: ValueT, values: Sequence[ValueT], *, when: When | None = None) -> ValueT:  # noqa: N802
    """Declares a hyperparameter that takes one of several values; any other value is refused.

    Args:
        default: Value if none is given.
        values: The valid values, all of one type: numbers, strings or booleans.
        when: As in `Int`.

    Returns:
        A dataclass field (typed as the value it will hold).

    Raises:
        ValueError: No value, values given twice, a number that is not finite, or a default that is not one of them.
        TypeError: Values of different types, or of a type that cannot be searched, such as a tuple.

    Examples:
        ```python
        import lightkeras as lk

        import dataclasses


        @dataclasses.dataclass(frozen=True)
        class HParams:
            activation: str = lk.Choice("relu", ["relu", "gelu", "tanh"])
        ```
    """
    for value in values:
        if not isinstance(value, Scalar):
            raise TypeError(
                f"Choice({list(values)!r}): {value!r} is a {type(value).__name__}, which a search cannot record; "
                "expected numbers, strings or booleans. Name each option with a string, and look the value up by its "
                "name in the task."
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"Choice({list(values)!r}): expected finite numbers.")
    if not values or len(set(values)) != len(values):
        raise ValueError(f"Choice({list(values)!r}): expected at least one value, and each once.")
    if len({type(value) for value in values}) > 1:
        raise TypeError(f"Choice({list(values)!r}): expected values of one type.")
    if default not in values:
        raise ValueError(f"Choice({default!r}): the default is not one of the values {list(values)!r}.")
    field: ValueT = dataclasses.field(default=default, metadata=_metadata(Choices(tuple(values)), when))
    return field


def Bool(default: bool, *, when: When | None = None) -> bool:  # noqa: N802
    """Declares a yes-or-no hyperparameter that a search tries both ways.

    Args:
        default: Value if none is given.
        when: As in `Int`.

    Raises:
        TypeError: The default is neither `True` nor `False`.

    Examples:
        ```python
        import lightkeras as lk

        import dataclasses


        @dataclasses.dataclass(frozen=True)
        class HParams:
            augment: bool = lk.Bool(True)
        ```
    """
    if not isinstance(default, bool):
        raise TypeError(f"Bool({default!r}): expected True or False.")
    return Choice(default, [False, True], when=when)


def _metadata(found: Range, when: When | None) -> dict[str, Any]:
    given = {name: (value,) if isinstance(value, Scalar) else tuple(value) for name, value in (when or {}).items()}
    for name, values in given.items():
        if not values:
            raise ValueError(f"when={{{name!r}: []}}: expected the value or the values at which it is used.")
    return {_KEY: found, _WHEN: given}


@dataclasses.dataclass(frozen=True)
class NoHParams:
    """The hyperparameters of a task that declares none."""


def search_space(declaration: type) -> dict[str, Range]:
    """The ranges of a declaration, by name, in the order of declaration; plain fields are left out."""
    return {field.name: field.metadata[_KEY] for field in _fields(declaration) if _KEY in field.metadata}


def conditions(declaration: type) -> dict[str, dict[str, tuple[Scalar, ...]]]:
    """The conditions of each hyperparameter with a range: choices by name, each with the values at which it is used.

    Raises:
        ValueError: A condition names no choice above it, or a value that the choice does not have.
    """
    space = search_space(declaration)
    found: dict[str, dict[str, tuple[Scalar, ...]]] = {}
    above: list[str] = []
    for name in space:
        needed = next(field for field in _fields(declaration) if field.name == name).metadata[_WHEN]
        for other, values in needed.items():
            choice = space.get(other)
            if other not in above or not isinstance(choice, Choices):
                known = [each for each in above if isinstance(space[each], Choices)]
                raise ValueError(
                    f"Hyperparameter {name}: when={{{other!r}: ...}} names no lk.Choice or lk.Bool that is declared "
                    f"above it. {did_you_mean(other, known) if known else 'There is none.'}"
                )
            if wrong := [value for value in values if not _is_one_of(value, choice.values)]:
                raise ValueError(
                    f"Hyperparameter {name}: when={{{other!r}: {wrong[0]!r}}} never holds: {other} is {choice}."
                )
        found[name] = dict(needed)
        above.append(name)
    return found


def inactive(hparams: Any) -> tuple[str, ...]:
    """Names of the hyperparameters whose conditions are not met, in the order of declaration."""
    found: list[str] = []
    for name, needed in conditions(type(hparams)).items():
        if any(other in found or getattr(hparams, other) not in values for other, values in needed.items()):
            found.append(name)
    return tuple(found)


def _is_one_of(value: Scalar, values: Sequence[Scalar]) -> bool:
    return any(type(value) is type(each) and value == each for each in values)


def check(hparams: Any) -> None:
    """Checks types and choices of a set of hyperparameters; raises a TypeError or a ValueError.

    A number outside the range of an `Int` or `Float` is warned of, because it may be meant: the range is that of a
    search.
    """
    hints = typing.get_type_hints(type(hparams))
    for field in _fields(type(hparams)):
        value, hint = getattr(hparams, field.name), hints[field.name]
        if not _has_type(value, hint):
            expected = getattr(hint, "__name__", str(hint))
            raise TypeError(f"Hyperparameter {field.name}={value!r}: expected {expected}, got {type(value).__name__}.")
        found = field.metadata.get(_KEY)
        if isinstance(found, Choices) and value not in found.values:
            raise ValueError(f"Hyperparameter {field.name}={value!r}: expected {found}.")
        if found is not None and value is not None and not found.holds(value):
            warnings.warn(
                f"Hyperparameter {field.name}={value!r} is outside its declared range, {found}.", stacklevel=3
            )
    conditions(type(hparams))


def active(hparams: Any) -> dict[str, Any]:
    """The values that have a meaning beside the others, by name."""
    unused = inactive(hparams)
    return {name: value for name, value in to_dict(hparams).items() if name not in unused}


def to_dict(hparams: Any) -> dict[str, Any]:
    """Values by name, ready for JSON."""
    return {field.name: getattr(hparams, field.name) for field in _fields(type(hparams))}


def from_dict(declaration: type, values: Mapping[str, Any]) -> Any:
    """Builds a set of hyperparameters; missing names take their defaults. Raises the errors of `check`.

    A name that is not declared is a ValueError.
    """
    names = [field.name for field in _fields(declaration)]
    for name in values:
        if name not in names:
            raise ValueError(f"Unknown hyperparameter {name!r}. {did_you_mean(name, names)}")
    hparams = declaration(**values)
    check(hparams)
    return hparams


def _fields(declaration: type) -> tuple[dataclasses.Field[Any], ...]:
    if not dataclasses.is_dataclass(declaration):
        raise TypeError(
            f"{declaration.__qualname__} is not a dataclass: put @dataclasses.dataclass(frozen=True) above it."
        )
    return dataclasses.fields(declaration)


def _check_bounds(kind: str, default: float, low: float, high: float, log: bool) -> None:
    if low > high:
        raise ValueError(f"{kind}(low={low}, high={high}): the range is empty; low must not exceed high.")
    if not low <= default <= high:
        raise ValueError(f"{kind}({default}): the default lies outside its range {low} to {high}.")
    if log and low <= 0:
        raise ValueError(f"{kind}(low={low}, log=True): a logarithmic range starts above zero.")


def unreached_end(found: Range) -> str | None:
    """Describes the end of a stepped range that no step reaches; `None` if there is none."""
    if isinstance(found, Choices) or found.count is None or (last := found.value(found.count - 1)) == found.high:
        return None
    return f"steps of {found.step} from {found.low} end at {last}, so a search never tries {found.high}"


def _warn_of_unreached_end(kind: str, found: IntRange | FloatRange) -> None:
    if (problem := unreached_end(found)) is not None:
        warnings.warn(
            f"{kind}(low={found.low}, high={found.high}, step={found.step}): {problem}. Set high to a value of the "
            "steps.",
            stacklevel=3,
        )


def _decimal(value: float) -> Decimal:
    """The decimal number that a float is written as."""
    return Decimal(repr(value))


def _has_type(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_has_type(value, option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)
