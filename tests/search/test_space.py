"""What a search tries: declared, fixed, narrowed, and depending on other values."""

from __future__ import annotations

import dataclasses

import pytest

from lightkeras.hparams import Bool, Choice, Choices, Float, FloatRange, Int, IntRange
from lightkeras.search.space import Bounds, check_oracle, make_space, warn_of_unreached_ends


@dataclasses.dataclass(frozen=True)
class Declared:
    kind: str = Choice("wide", ["wide", "deep", "none"])
    units: int = Int(16, low=8, high=64, step=8)
    depth: int = Int(2, low=1, high=4, when={"kind": ["deep", "wide"]})
    rate: float = Float(1e-2, low=1e-3, high=1e-1, log=True)
    norm: bool = Bool(False, when={"kind": "deep"})
    epsilon: float = Float(0.5, low=0.0, high=1.0, when={"norm": True})
    batch_size: int = 32


@dataclasses.dataclass(frozen=True)
class Stepped(Declared):
    share: float = Float(0.1, low=0.0, high=0.5, step=0.1)


def test_a_space_is_what_is_declared_less_what_is_fixed():
    space = make_space(Declared, {"rate": 0.05, "batch_size": 64}, {})
    assert list(space.ranges) == ["kind", "units", "depth", "norm", "epsilon"]
    assert space.when["depth"] == {"kind": ("deep", "wide")}
    assert space.when["epsilon"] == {"norm": (True,)}
    assert space.hparams({"kind": "deep"}) == Declared(kind="deep", rate=0.05, batch_size=64)


def test_a_space_is_recorded_in_words():
    assert make_space(Declared, {"rate": 0.05}, {"epsilon": Bounds(low=0.25)}).record() == {
        "kind": "one of 'wide', 'deep', 'none'",
        "units": "8 to 64 in steps of 8",
        "depth": "1 to 4 in steps of 1, when kind is 'deep' or 'wide'",
        "norm": "one of False, True, when kind is 'deep'",
        "epsilon": "0.25 to 1, when norm is True",
        "rate": "fixed to 0.05",
    }


def test_what_depends_on_a_fixed_choice_is_searched_always_or_never():
    deep = make_space(Declared, {"kind": "deep"}, {})
    assert deep.when == {"units": {}, "depth": {}, "rate": {}, "norm": {}, "epsilon": {"norm": (True,)}}
    wide = make_space(Declared, {"kind": "wide"}, {})
    assert list(wide.ranges) == ["units", "depth", "rate"]
    assert list(make_space(Declared, {"kind": "none"}, {}).ranges) == ["units", "rate"]


def test_what_depends_on_a_fixed_value_that_itself_depends_keeps_the_condition_of_that_one():
    space = make_space(Declared, {"norm": True}, {})
    assert space.when["epsilon"] == {"kind": ("deep",)}
    assert "epsilon" not in make_space(Declared, {"norm": False}, {}).ranges


def test_ranges_are_narrowed():
    bounds = {
        "kind": Bounds(values=["deep", "wide"]),
        "units": Bounds(low=16, high=32),
        "rate": Bounds(high=0.05),
        "epsilon": Bounds(step=0.25),
    }
    ranges = make_space(Declared, {}, bounds).ranges
    assert ranges["kind"] == Choices(("wide", "deep"))  # in the order of declaration
    assert ranges["units"] == IntRange(16, 32, 8, log=False)
    assert ranges["rate"] == FloatRange(1e-3, 0.05, None, log=True)
    assert ranges["epsilon"] == FloatRange(0.0, 1.0, 0.25, log=False)


def test_a_range_of_one_value_is_fixed():
    space = make_space(Declared, {}, {"kind": Bounds(values=["deep"]), "units": Bounds(low=24, high=24)})
    assert space.fixed == {"kind": "deep", "units": 24}
    assert list(space.ranges) == ["depth", "rate", "norm", "epsilon"]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"unit": Bounds(low=16)}, r"space: 'unit' has no declared range\. Did you mean 'units'\?"),
        ({"batch_size": Bounds(low=16)}, r"space: 'batch_size' has no declared range\."),
        ({"units": Bounds(low=32, high=16)}, r"space: 'units' from 32 to 16 is empty; low must not exceed high"),
        ({"units": Bounds(high=128)}, r"space: 'units' from 8 to 128 is wider than the declared range: 8 to 64"),
        ({"rate": Bounds(low=1e-4)}, r"space: 'rate' from 0\.0001 to 0\.1 is wider"),
        ({"units": Bounds(low=12)}, r"space: 'units' from 12: not a value of 8 to 64 in steps of 8"),
        ({"units": Bounds(low=8.5)}, r"expected whole numbers, got 8\.5"),
        ({"share": Bounds(low=0.15)}, r"space: 'share' from 0\.15: not a value of 0 to 0\.5 in steps of 0\.1\. Give a"),
        ({"rate": Bounds(step=0.01)}, r"space: 'rate' step=0\.01: expected a step above 0, and none on a log scale"),
        ({"units": Bounds(step=0)}, r"space: 'units' step=0: expected a step above 0"),
        ({"units": Bounds(values=[8])}, r"narrow it by low, high or step, not by values"),
        ({"kind": Bounds(low=1)}, r"narrow it by values, not by low, high or step"),
        ({"kind": Bounds(values=[])}, r"space: 'kind' has no values left; expected some of \['wide', 'deep', 'none'\]"),
        ({"kind": Bounds(values=["tall"])}, r"space: 'kind' cannot be 'tall': it is one of 'wide', 'deep', 'none'"),
        ({"norm": Bounds(values=[1])}, r"space: 'norm' cannot be 1: it is one of False, True"),
    ],
)
def test_a_narrower_range_that_cannot_be_is_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        make_space(Stepped if "share" in bounds else Declared, {}, bounds)


def test_fixed_and_narrowed_contradict_each_other():
    with pytest.raises(ValueError, match=r"space: 'units' is fixed to 8 and narrowed: do one of the two"):
        make_space(Declared, {"units": 8}, {"units": Bounds(low=16)})


def test_an_empty_space_is_refused():
    fixed = {"kind": "none", "units": 8}
    with pytest.raises(
        ValueError,
        match=r"nothing to search: of the ranges of Declared, kind, rate, units are fixed, and with these the",
    ):
        make_space(Declared, fixed, {"rate": Bounds(low=0.1)})


def test_a_grid_needs_steps():
    with pytest.raises(
        ValueError, match=r"oracle='grid'\) cannot try every value of rate: .*, log scale\. Fix it, or use"
    ):
        check_oracle("grid", make_space(Declared, {}, {}))
    with pytest.raises(ValueError, match=r"every value of epsilon: 0 to 1\. Give it a step"):
        check_oracle("grid", make_space(Declared, {"rate": 0.1}, {}))
    check_oracle("grid", make_space(Declared, {"rate": 0.1}, {"epsilon": Bounds(step=0.5)}))
    check_oracle("random", make_space(Declared, {}, {}))


def test_the_combinations_of_a_space_are_those_of_used_values():
    fixed = {"rate": 0.1, "units": 8, "epsilon": 0.5}
    space = make_space(Declared, fixed, {"depth": Bounds(high=2)})
    expected = [
        {"kind": "wide", "depth": 1},
        {"kind": "wide", "depth": 2},
        {"kind": "deep", "depth": 1, "norm": False},
        {"kind": "deep", "depth": 1, "norm": True},
        {"kind": "deep", "depth": 2, "norm": False},
        {"kind": "deep", "depth": 2, "norm": True},
        {"kind": "none"},
    ]
    assert list(space.combinations()) == expected
    assert space.count() == 7
    assert make_space(Declared, {"rate": 0.1}, {}).count() is None  # epsilon is continuous
    # 2 of `kind` with 4 depths, one of them with norm and 3 epsilons, and 1 without; each with 8 units.
    stepped = make_space(Declared, {"rate": 0.1}, {"epsilon": Bounds(step=0.5)})
    assert stepped.count() == len(list(stepped.combinations())) == 8 * (4 + 4 * (1 + 3) + 1)


def test_a_narrowed_range_whose_end_no_step_reaches_is_warned_of():
    space = make_space(Declared, {}, {"units": Bounds(low=8, high=30)})
    with pytest.warns(
        UserWarning, match=r"space=\{'units': \.\.\.\}\): steps of 8 from 8 end at 24, so a search never"
    ):
        warn_of_unreached_ends(space, ["units"])
    warn_of_unreached_ends(make_space(Declared, {}, {"units": Bounds(high=32)}), ["units"])


def test_the_ends_of_a_range_may_be_given_and_the_step_be_a_fraction():
    same = {"units": Bounds(low=8, high=64, step=8), "rate": Bounds(low=1e-3, high=1e-1), "epsilon": Bounds(step=0.1)}
    ranges = make_space(Declared, {}, same).ranges
    assert ranges["units"] == IntRange(8, 64, 8, log=False)
    assert ranges["rate"] == FloatRange(1e-3, 1e-1, None, log=True)
    assert ranges["epsilon"].count == 11
    narrow = {"share": Bounds(low=0.2), "units": Bounds(low=9.0, high=33.0, step=3.0)}
    ranges = make_space(Stepped, {}, narrow).ranges
    assert ranges["share"] == FloatRange(0.2, 0.5, 0.1, log=False)
    assert ranges["units"] == IntRange(9, 33, 3, log=False)
    assert {type(value) for value in (ranges["units"].low, ranges["units"].high, ranges["units"].step)} == {int}


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"units": Bounds(low=7)}, r"'units' from 7 to 64 is wider than the declared range"),
        ({"units": Bounds(step=2.5)}, r"expected whole numbers, got 2\.5"),
        ({"units": Bounds(high=31.5)}, r"expected whole numbers, got 31\.5"),
        ({"epsilon": Bounds(step=-0.1)}, r"step=-0\.1: expected a step above 0"),
        ({"kind": Bounds(high=1)}, r"narrow it by values"),
        ({"kind": Bounds(step=1)}, r"narrow it by values"),
        ({"units": Bounds(low=8, values=[8])}, r"not by values"),
    ],
)
def test_a_narrower_range_just_beyond_the_border_is_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        make_space(Declared, {}, bounds)


def test_what_is_used_only_with_values_that_a_search_left_out_is_not_searched():
    space = make_space(Declared, {}, {"kind": Bounds(values=["wide", "none"])})
    assert list(space.ranges) == ["kind", "units", "depth", "rate"]
    assert space.when["depth"] == {"kind": ("wide",)}
    assert space.record()["depth"] == "1 to 4 in steps of 1, when kind is 'wide'"


def test_values_of_one_kind_are_chosen_in_the_order_of_declaration_and_a_choice_of_one_is_fixed():
    assert make_space(Declared, {}, {"norm": Bounds(values=[True])}).fixed == {"norm": True}
    assert make_space(Declared, {}, {"kind": Bounds()}).ranges["kind"] == Choices(("wide", "deep", "none"))


def test_a_logarithmic_range_of_whole_numbers_is_no_grid_and_is_narrowed_without_steps():
    @dataclasses.dataclass(frozen=True)
    class Logarithmic:
        units: int = Int(16, low=8, high=64, log=True)

    space = make_space(Logarithmic, {}, {"units": Bounds(low=9, high=63)})
    assert space.ranges["units"] == IntRange(9, 63, 1, log=True)
    with pytest.raises(ValueError, match=r"cannot try every value of units: 9 to 63, log scale\. Fix it, or use"):
        check_oracle("grid", space)
    check_oracle("bayesian", space)


def test_no_choices_are_listed_where_none_is_declared():
    @dataclasses.dataclass(frozen=True)
    class Nothing:
        units: int = 16

    with pytest.raises(ValueError, match=r"Nothing declares no ranges\."):
        make_space(Nothing, {}, {})
