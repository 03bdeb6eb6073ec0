"""Checks of decoded JSON against dataclasses."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest

from lightkeras.system.schema import Count, find_problem


@dataclasses.dataclass
class Part:
    name: str
    size: Count


@dataclasses.dataclass
class Whole:
    kind: Literal["a", "b"]
    parts: list[Part]
    place: tuple[int, str] | None = None
    values: dict[str, float | None] = dataclasses.field(default_factory=dict)
    class_: str = dataclasses.field(default="", metadata={"key": "class"})


GOOD: dict[str, Any] = {"kind": "a", "parts": [{"name": "x", "size": 1, "more": []}], "values": {"v": None, "w": 1}}


def test_what_fits_has_no_problem():
    assert find_problem(GOOD, Whole) is None
    assert find_problem({**GOOD, "place": [1, "x"], "class": "C"}, Whole) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": "c"}, "kind: expected one of 'a', 'b', got 'c'"),
        ({"parts": {}}, "parts: expected a list, got object"),
        ({"parts": [{"name": "x"}]}, "parts[0].size is missing"),
        ({"parts": [{"name": 5, "size": 1}]}, "parts[0].name: expected text, got 5"),
        ({"parts": [{"name": "x", "size": -1}]}, "parts[0].size: expected a number of at least 0, got -1"),
        ({"parts": [{"name": "x", "size": True}]}, "parts[0].size: expected a whole number, got True"),
        ({"parts": [{"name": "x", "size": 2**64}]}, f"parts[0].size: expected a whole number, got {2**64}"),
        ({"place": [1]}, "place: expected a list of 2, got list"),
        ({"place": 7}, "place: expected a list or null, got 7"),
        ({"values": {"v": "1"}}, "values.v: expected a number or null, got '1'"),
        ({"class": None}, "class: expected text, got None"),
    ],
)
def test_the_first_problem_is_named_with_its_key(change, problem):
    assert find_problem({**GOOD, **change}, Whole) == problem


def test_no_object_is_named_too():
    assert find_problem([], Whole) == "expected an object, got list"
