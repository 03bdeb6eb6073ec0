"""Hyperparameters, declared once."""

import dataclasses
import json
import typing
import warnings
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeras import hparams
from lightkeras.hparams import Bool, Choice, Choices, Float, FloatRange, Int, IntRange, NoHParams


@dataclasses.dataclass(frozen=True)
class Example:
    units: int = Int(16, low=8, high=128, step=8)
    rate: float = Float(1e-3, low=1e-4, high=1e-2, log=True)
    dropout: float = Float(0.25, low=0.0, high=0.5, step=0.25)
    activation: str = Choice("relu", ["relu", "tanh"])
    norm: bool = Bool(False)
    batch_size: int = 512
    limit: int | None = None
    kind: Literal["a", "b"] = "a"


def test_the_declaration_gives_the_search_space_in_its_order_without_plain_fields():
    assert hparams.search_space(Example) == {
        "units": IntRange(8, 128, 8, log=False),
        "rate": FloatRange(1e-4, 1e-2, None, log=True),
        "dropout": FloatRange(0.0, 0.5, 0.25, log=False),
        "activation": Choices(("relu", "tanh")),
        "norm": Choices((False, True)),
    }
    assert list(hparams.search_space(Example)) == ["units", "rate", "dropout", "activation", "norm"]


def test_ranges_are_printed_as_a_person_would_write_them():
    assert [str(found) for found in hparams.search_space(Example).values()] == [
        "8 to 128 in steps of 8",
        "0.0001 to 0.01, log scale",
        "0 to 0.5 in steps of 0.25",
        "one of 'relu', 'tanh'",
        "one of False, True",
    ]


def test_a_declaration_is_an_ordinary_dataclass_with_its_defaults():
    assert Example().units == 16
    assert Example(units=40).units == 40
    with pytest.raises(dataclasses.FrozenInstanceError):
        Example().units = 3  # type: ignore[misc]


@given(
    units=st.integers(),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    activation=st.sampled_from(["relu", "tanh"]),
    norm=st.booleans(),
    limit=st.none() | st.integers(),
)
def test_values_outlive_json(units, rate, activation, norm, limit):
    hp = Example(units=units, rate=rate, activation=activation, norm=norm, limit=limit)
    with warnings.catch_warnings(action="ignore"):  # of values outside the range
        assert hparams.from_dict(Example, json.loads(json.dumps(hparams.to_dict(hp)))) == hp


def test_names_that_are_left_out_take_their_defaults():
    assert hparams.from_dict(Example, {"units": 32}) == Example(units=32)
    assert hparams.from_dict(NoHParams, {}) == NoHParams()


def test_a_misspelled_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown hyperparameter 'droput'.*dropout"):
        hparams.from_dict(Example, {"droput": 0.1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"units": 1000}, "Hyperparameter units=1000 is outside its declared range, 8 to 128 in steps of 8"),
        ({"units": 0}, "units=0 is outside"),
        ({"rate": 5.0}, r"rate=5\.0 is outside its declared range, 0\.0001 to 0\.01, log scale"),
        ({"dropout": -0.1}, r"dropout=-0\.1 is outside"),
        ({"dropout": float("nan")}, "dropout=nan is outside"),
    ],
)
def test_a_number_outside_the_range_of_a_search_may_be_set_and_is_warned_of(values, message):
    with pytest.warns(UserWarning, match=message):
        hparams.check(Example(**values))
    with pytest.warns(UserWarning, match=message):
        hparams.from_dict(Example, values)


def test_a_number_between_the_steps_or_at_an_end_of_the_range_is_not_warned_of():
    hparams.check(Example(units=9, rate=1e-2, dropout=0.5))


def test_a_whole_number_is_a_number():
    hparams.check(Example(dropout=0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"units": 16.0}, "Hyperparameter units=16.0: expected int, got float"),
        ({"units": True}, "Hyperparameter units=True: expected int, got bool"),
        ({"rate": "0.1"}, "Hyperparameter rate='0.1': expected float, got str"),
        ({"rate": False}, "Hyperparameter rate=False: expected float, got bool"),
        ({"norm": 1}, "Hyperparameter norm=1: expected bool, got int"),
        ({"limit": "3"}, r"Hyperparameter limit='3': expected int \| None, got str"),
        ({"kind": "c"}, "Hyperparameter kind='c': expected .*Literal.*, got str"),
    ],
)
def test_a_value_of_another_type_is_refused(values, message):
    with pytest.raises(TypeError, match=message):
        hparams.check(Example(**values))


def test_a_value_that_is_none_of_its_choices_is_refused():
    with pytest.raises(ValueError, match="Hyperparameter activation='gelu': expected one of 'relu', 'tanh'"):
        hparams.check(Example(activation="gelu"))


def test_a_class_that_is_not_a_dataclass_is_refused_with_the_remedy():
    class HParams:
        units: int = 3

    with pytest.raises(TypeError, match=r"HParams is not a dataclass: put @dataclasses.dataclass\(frozen=True\)"):
        hparams.search_space(HParams)


@pytest.mark.parametrize(
    ("declare", "error", "message"),
    [
        (lambda: Int(1.5, low=1, high=2), TypeError, r"Int\(default=1.5\): expected a whole number"),
        (lambda: Int(1, low=1, high=True), TypeError, r"Int\(high=True\): expected a whole number"),
        (lambda: Int(1, low=3, high=2), ValueError, r"Int\(low=3, high=2\): the range is empty"),
        (lambda: Int(9, low=1, high=2), ValueError, r"Int\(9\): the default lies outside its range 1 to 2"),
        (lambda: Int(1, low=1, high=2, step=0), ValueError, r"Int\(step=0, log=False\): expected a step of at least 1"),
        (lambda: Int(1, low=1, high=8, step=2, log=True), ValueError, "exactly 1 with log=True"),
        (lambda: Int(0, low=0, high=8, log=True), ValueError, r"Int\(low=0, log=True\): .* starts above zero"),
        (lambda: Float("1", low=0, high=2), TypeError, r"Float\(default='1'\): expected a number"),
        (lambda: Float(3, low=0, high=2), ValueError, r"Float\(3\): the default lies outside its range 0 to 2"),
        (lambda: Float(1, low=0, high=2, step=-0.5), ValueError, "expected a positive step"),
        (lambda: Float(1, low=0, high=2, step=0.0), ValueError, "expected a positive step"),
        (lambda: Float(1, low=1, high=2, step=0.5, log=True), ValueError, "none with log=True"),
        (lambda: Float(1, low=0, high=2, log=True), ValueError, r"Float\(low=0, log=True\): .* starts above zero"),
        (lambda: Float(float("nan"), low=0, high=2), ValueError, r"Float\(nan\): the default lies outside"),
        (lambda: Choice("a", []), ValueError, "expected at least one value"),
        (lambda: Choice("a", ["a", "a"]), ValueError, "each once"),
        (lambda: Choice("a", ["a", 1]), TypeError, "expected values of one type"),
        (lambda: Choice("c", ["a", "b"]), ValueError, r"Choice\('c'\): the default is not one of the values"),
        (
            lambda: Choice((1, 2), [(1, 2), (3,)]),
            TypeError,
            r"\(1, 2\) is a tuple, which a search cannot record; .*Name",
        ),
        (lambda: Choice(None, [None, "a"]), TypeError, r"None is a NoneType, which a search cannot record"),
        (lambda: Choice([1], [[1], [2]]), TypeError, r"\[1\] is a list, which a search cannot record"),
        (lambda: Choice(1.0, [1.0, float("inf")]), ValueError, r"Choice\(\[1\.0, inf\]\): expected finite numbers"),
        (lambda: Bool(1), TypeError, r"Bool\(1\): expected True or False"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(declare, error, message):
    with pytest.raises(error, match=message):
        declare()


@dataclasses.dataclass(frozen=True)
class Depending:
    kind: str = Choice("wide", ["wide", "deep", "none"])
    norm: bool = Bool(False, when={"kind": ["wide", "deep"]})
    epsilon: float = Float(1e-3, low=1e-5, high=1e-1, log=True, when={"norm": True})
    depth: int = Int(2, low=1, high=4, when={"kind": "deep", "norm": False})


def test_what_depends_on_another_value_shows_on_which():
    assert hparams.conditions(Depending) == {
        "kind": {},
        "norm": {"kind": ("wide", "deep")},
        "epsilon": {"norm": (True,)},
        "depth": {"kind": ("deep",), "norm": (False,)},
    }
    assert hparams.conditions(NoHParams) == {}


@pytest.mark.parametrize(
    ("values", "without"),
    [
        ({}, ("epsilon", "depth")),
        ({"norm": True}, ("depth",)),
        ({"kind": "deep"}, ("epsilon",)),
        ({"kind": "deep", "norm": True}, ("depth",)),
        # What depends on something without a meaning has none either, whatever its default.
        ({"kind": "none", "norm": True}, ("norm", "epsilon", "depth")),
    ],
)
def test_what_has_no_meaning_beside_the_others_is_known(values, without):
    assert hparams.inactive(Depending(**values)) == without


def test_a_value_may_be_set_where_it_has_no_meaning():
    hparams.check(Depending(kind="none", depth=4))


def declared(**more):
    fields = [("kind", str, Choice("wide", ["wide", "deep"])), ("units", int, Int(4, low=1, high=8))]
    fields += [(name, type(field.default), field) for name, field in more.items()]
    return dataclasses.make_dataclass("Declared", fields, frozen=True)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (
            Int(1, low=1, high=2, when={"kin": "deep"}),
            r"depth: when=\{'kin': \.\.\.\} names no .* Did you mean 'kind'\?",
        ),
        (Int(1, low=1, high=2, when={"units": 4}), r"when=\{'units': \.\.\.\} names no lk\.Choice or lk\.Bool that is"),
        (Int(1, low=1, high=2, when={"depth": 1}), r"when=\{'depth': \.\.\.\} names no lk\.Choice"),
        (Int(1, low=1, high=2, when={"kind": "tall"}), r"when=\{'kind': 'tall'\} never holds: kind is one of 'wide'"),
    ],
)
def test_a_condition_that_cannot_be_is_refused(field, message):
    with pytest.raises(ValueError, match=message):
        hparams.conditions(declared(depth=field))


def test_a_condition_without_a_value_is_refused():
    with pytest.raises(ValueError, match=r"when=\{'kind': \[\]\}: expected the value or the values"):
        Int(1, low=1, high=2, when={"kind": []})


@pytest.mark.parametrize(
    ("low", "high", "step", "values"),
    [
        (0.0, 0.5, 0.1, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
        (0.0, 0.6, 0.2, (0.0, 0.2, 0.4, 0.6)),
        (0.1, 0.9, 0.4, (0.1, 0.5, 0.9)),
        (0.0, 1.0, 1 / 3, (0.0, 0.3333333333333333, 0.6666666666666666, 1.0)),
        (1.0, 2.0, 2.0, (1.0,)),
    ],
)
def test_the_steps_of_a_range_are_counted_in_decimals(low, high, step, values):
    found = FloatRange(low, high, step, log=False)
    assert tuple(found.value(index) for index in range(found.count)) == values
    assert [found.index(value + 1e-12) for value in values] == list(range(len(values)))


@given(st.integers(-1000, 1000), st.integers(0, 100), st.integers(1, 100), st.integers(0, 5))
def test_a_range_in_decimal_steps_ends_at_the_decimal_number_that_was_declared(low, steps, step, digits):
    low, high, step = (float(f"{number}e-{digits}") for number in (low, low + steps * step, step))
    found = FloatRange(low, high, step, log=False)
    assert (found.count, found.value(0), found.value(steps)) == (steps + 1, low, high)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (
            lambda: Int(1, low=1, high=10, step=4),
            r"Int\(low=1, high=10, step=4\): steps of 4 from 1 end at 9, so a .*10",
        ),
        (
            lambda: Float(0, low=0, high=0.5, step=0.2),
            r"steps of 0\.2 from 0\.0 end at 0\.4, so a search never tries 0\.5",
        ),
    ],
)
def test_an_upper_end_that_no_step_reaches_is_warned_of(declare, message):
    with pytest.warns(UserWarning, match=message):
        declare()


def test_whole_numbers_have_an_index_and_the_nearest_is_found_inside_the_range():
    found = IntRange(4, 13, 3, log=False)
    assert (found.count, [found.value(index) for index in range(4)]) == (4, [4, 7, 10, 13])
    assert [found.index(value) for value in (-9, 4, 8, 9, 13, 99)] == [0, 0, 1, 2, 3, 3]
    assert [found.holds(value) for value in (3, 4, 13, 14)] == [False, True, True, False]
    assert IntRange(4, 12, 3, log=False).count == 3
    assert str(IntRange(1, 8, 1, log=True)) == "1 to 8, log scale"


def test_numbers_have_an_index_where_they_have_steps_and_the_nearest_is_found_inside_the_range():
    found = FloatRange(0.5, 2.0, 0.5, log=False)
    assert [found.index(value) for value in (-1.0, 0.5, 1.2, 1.3, 2.0, 9.0)] == [0, 0, 1, 2, 3, 3]
    assert [found.holds(value) for value in (0.49, 0.5, 2.0, 2.01)] == [False, True, True, False]
    assert FloatRange(0.5, 2.0, None, log=False).count is None
    assert Choices(("a", "b")).index("b") == 1
    assert [Choices(("a", "b")).count, Choices(("a", "b")).value(1), Choices(("a",)).holds("b")] == [2, "b", False]


def test_a_range_may_be_one_value_and_a_default_may_be_an_end_of_it():
    for default in (1, 2):
        assert Int(default, low=1, high=2).default == default
        assert Float(default, low=1, high=2).default == float(default)
    assert Int(3, low=3, high=3, log=True).default == 3
    assert type(Float(1, low=0, high=2).default) is float
    assert Int(2, low=1, high=3, step=1, log=True).metadata["lightkeras.range"] == IntRange(1, 3, 1, log=True)
    with pytest.raises(TypeError, match=r"Float\(high=True\): expected a number"):
        Float(0.5, low=0, high=True)


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, typing.Any, True),
        (None, None, True),
        (0, None, False),
        ([1], list[int], True),
        ((1,), list[int], False),
        ("a", typing.Optional[str], True),  # noqa: UP045
        (1.5, int | None, False),
        (1, float | None, True),
        (True, float | None, False),
        ("b", Literal["a"] | None, False),
    ],
)
def test_a_value_is_checked_against_its_annotation(value, hint, fits):
    assert hparams._has_type(value, hint) == fits
