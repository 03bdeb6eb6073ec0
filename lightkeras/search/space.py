"""The hyperparameters that a search varies: the declared ranges without fixed ones, narrowed by `Bounds`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

from lightkeras import hparams
from lightkeras.hparams import Choices, FloatRange, IntRange, Range, Scalar
from lightkeras.system.messages import did_you_mean


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Narrows the declared range of one hyperparameter, for one search.

    Args:
        low: Smallest value; `None` for the declared one.
        high: Largest value; `None` for the declared one.
        step: Distance between values; `None` for the declared one.
        values: Values of a choice; `None` for all.

    Examples:
        >>> from lightkeras import Tuner
        >>> from lightkeras.testing import TwoMoons
        >>> tuner = Tuner(TwoMoons, space={"hidden_units": Bounds(high=16), "learning_rate": Bounds(low=1e-2)})
        >>> sorted(tuner.space)
        ['hidden_units', 'learning_rate']
    """

    low: float | None = None
    high: float | None = None
    step: float | None = None
    values: list[Scalar] | None = None


@final
@dataclasses.dataclass(frozen=True)
class Space:
    """The hyperparameters that a search varies.

    Args:
        declaration: The dataclass that declares the hyperparameters.
        ranges: Searched ranges by name, in the order of declaration.
        when: Conditions of each: the choices that it depends on, with the values for which it is used.
        fixed: Values of the others.
    """

    declaration: type
    ranges: Mapping[str, Range]
    when: Mapping[str, Mapping[str, tuple[Scalar, ...]]]
    fixed: Mapping[str, Any]

    def hparams(self, chosen: Mapping[str, Any]) -> Any:
        """Returns the hyperparameters of a trial: chosen and fixed ones, and defaults for the others."""
        return hparams.from_dict(self.declaration, {**self.fixed, **chosen})

    def count(self) -> int | None:
        """Returns the number of combinations; `None` if a range is continuous."""
        return self._count(list(self.ranges), {})

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Yields all combinations, without hyperparameters that are not used; the last one changes fastest.

        Only for a space without a continuous range.
        """
        return self._combinations(list(self.ranges), {})

    def _count(self, names: list[str], chosen: dict[str, Any]) -> int | None:
        if not names:
            return 1
        name, *rest = names
        count = self.ranges[name].count
        if not self._is_used(name, chosen):
            return self._count(rest, chosen)
        if any(name in self.when.get(other, {}) for other in rest):  # others depend on it
            parts = [self._count(rest, {**chosen, name: self.ranges[name].value(i)}) for i in range(count or 0)]
            return None if None in parts else sum(part or 0 for part in parts)
        below = self._count(rest, chosen)
        return None if count is None or below is None else count * below

    def _combinations(self, names: list[str], chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not names:
            yield chosen
            return
        name, *rest = names
        if not self._is_used(name, chosen):
            yield from self._combinations(rest, chosen)
            return
        found = self.ranges[name]
        for index in range(found.count or 0):
            yield from self._combinations(rest, {**chosen, name: found.value(index)})

    def _is_used(self, name: str, chosen: Mapping[str, Any]) -> bool:
        needed = self.when.get(name, {})
        return all(other in chosen and chosen[other] in values for other, values in needed.items())

    def record(self) -> dict[str, Any]:
        """Returns the space as plain data."""
        return {name: f"{found}{_when_text(self.when.get(name, {}))}" for name, found in self.ranges.items()} | {
            name: f"fixed to {value!r}" for name, value in self.fixed.items()
        }


def make_space(declaration: type, fixed: Mapping[str, Any], bounds: Mapping[str, Bounds]) -> Space:
    """Checks and returns the space of a search, with narrower ranges by name in `bounds`.

    Raises a ValueError for a name that is not declared or not searched, a range that is empty or wider than declared,
    or nothing to search, and a TypeError for a value of another type than declared.
    """
    hparams.from_dict(declaration, fixed)
    declared = hparams.search_space(declaration)
    for name in bounds:
        if name not in declared:
            raise ValueError(f"space: {name!r} has no declared range. {did_you_mean(name, declared)}")
        if name in fixed:
            raise ValueError(f"space: {name!r} is fixed to {fixed[name]!r} and narrowed: do one of the two.")
    ranges = {
        name: narrowed(name, found, bounds[name]) if name in bounds else found
        for name, found in declared.items()
        if name not in fixed
    }
    settled = dict(fixed) | {name: value for name, found in ranges.items() for value in _only(found)}
    when = hparams.conditions(declaration)
    left: dict[str, Range] = {}
    needs: dict[str, dict[str, tuple[Scalar, ...]]] = {}
    for name, found in ranges.items():
        needed = _needed(name, when, ranges, settled, left)
        if name not in settled and needed is not None:
            left[name], needs[name] = found, needed
    if not left:
        why = f"{declaration.__qualname__} declares no ranges"
        if declared:
            done = sorted(set(declared) & set(settled))
            others = "" if len(done) == len(declared) else ", and with these the others have no effect"
            why = f"of the ranges of {declaration.__qualname__}, {', '.join(done)} are fixed{others}"
        raise ValueError(
            f"There is nothing to search: {why}. Declare a hyperparameter in the task's HParams with lk.Int, "
            "lk.Float, lk.Choice or lk.Bool, or fix fewer."
        )
    return Space(declaration, left, needs, settled)


def check_oracle(kind: str, space: Space) -> None:
    """Checks that an oracle can handle the space.

    Raises:
        ValueError: A grid over a range that has no steps.
    """
    for name, found in space.ranges.items():
        if kind == "grid" and not isinstance(found, Choices) and _has_no_steps(found):
            remedy = "Fix it" if found.log else f"Give it a step (space={{{name!r}: {{'step': ...}}}}), fix it"
            raise ValueError(
                f"Tuner(oracle='grid') cannot try every value of {name}: {found}. {remedy}, or use another oracle."
            )


def warn_of_unreached_ends(space: Space, narrowed: Sequence[str]) -> None:
    """Warns of narrowed ranges whose upper end no step reaches."""
    for name in narrowed:
        if name in space.ranges and (problem := hparams.unreached_end(space.ranges[name])) is not None:
            warnings.warn(f"Tuner(space={{{name!r}: ...}}): {problem}.", stacklevel=5)


def narrowed(name: str, found: Range, bounds: Bounds) -> Range:
    """Narrows a declared range; a ValueError if the result is empty, or not inside the declared one."""
    if isinstance(found, Choices):
        if (bounds.low, bounds.high, bounds.step) != (None, None, None):
            raise ValueError(f"space: {name!r} is {found}: narrow it by values, not by low, high or step.")
        return _fewer(name, found, bounds.values)
    if bounds.values is not None:
        raise ValueError(f"space: {name!r} is {found}: narrow it by low, high or step, not by values.")
    low = found.low if bounds.low is None else bounds.low
    high = found.high if bounds.high is None else bounds.high
    step = found.step if bounds.step is None else bounds.step
    if low > high:
        raise ValueError(f"space: {name!r} from {low} to {high} is empty; low must not exceed high.")
    if low < found.low or high > found.high:
        raise ValueError(f"space: {name!r} from {low} to {high} is wider than the declared range: {found}.")
    if bounds.step is not None and (found.log or bounds.step <= 0):
        raise ValueError(f"space: {name!r} step={bounds.step}: expected a step above 0, and none on a log scale.")
    if isinstance(found, FloatRange):
        if bounds.step is None and found.step is not None and low != found.value(found.index(low)):
            raise ValueError(f"space: {name!r} from {low}: not a value of {found}. Give a step as well.")
        return FloatRange(float(low), float(high), None if step is None else float(step), found.log)
    if wrong := [value for value in (low, high, step) if value is not None and value != int(value)]:
        raise ValueError(f"space: {name!r} is {found}: expected whole numbers, got {wrong[0]}.")
    if not found.log and bounds.step is None and (low - found.low) % found.step:
        raise ValueError(f"space: {name!r} from {low}: not a value of {found}. Give a step as well.")
    return IntRange(int(low), int(high), int(step or 1), found.log)


def _fewer(name: str, found: Choices, values: Sequence[Scalar] | None) -> Choices:
    if values is None:
        return found
    if not values:
        raise ValueError(f"space: {name!r} has no values left; expected some of {list(found.values)!r}.")
    for value in values:
        if not any(type(value) is type(each) and value == each for each in found.values):
            raise ValueError(f"space: {name!r} cannot be {value!r}: it is {found}.")
    return Choices(tuple(value for value in found.values if value in values))


def _only(found: Range) -> tuple[Any, ...]:
    """The value of a range with only one; else empty."""
    if isinstance(found, Choices):
        return found.values if len(found.values) == 1 else ()
    return (found.low,) if found.low == found.high else ()


def _needed(
    name: str,
    when: Mapping[str, Mapping[str, tuple[Scalar, ...]]],
    ranges: Mapping[str, Range],
    settled: Mapping[str, Any],
    left: Mapping[str, Range],
) -> dict[str, tuple[Scalar, ...]] | None:
    """Returns the remaining conditions of a hyperparameter without settled choices; `None` if it is never used."""
    needed: dict[str, tuple[Scalar, ...]] = {}
    for other, values in when[name].items():
        if other in settled:
            parents = _needed(other, when, ranges, settled, left)
            if settled[other] not in values or parents is None:
                return None
            needed |= parents
            continue
        found = ranges[other]
        possible = tuple(value for value in values if isinstance(found, Choices) and value in found.values)
        if other not in left or not possible:
            return None
        needed[other] = possible
    return needed


def _has_no_steps(found: IntRange | FloatRange) -> bool:
    return found.log or found.step is None


def _when_text(needed: Mapping[str, tuple[Scalar, ...]]) -> str:
    return "".join(f", when {name} is {' or '.join(map(repr, values))}" for name, values in needed.items())
