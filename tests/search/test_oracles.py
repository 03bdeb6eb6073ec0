"""keras-tuner's own oracles, run over our ranges with a function in the place of training."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest

from lightkeras.hparams import Bool, Choice, Choices, FloatRange, IntRange
from lightkeras.search.oracles import Answer, Oracle
from lightkeras.search.space import Space, make_space

SPACE = {
    "units": IntRange(8, 32, 8, log=False),
    "depth": IntRange(1, 64, 1, log=True),
    "rate": FloatRange(1e-4, 1e-1, None, log=True),
    "dropout": FloatRange(0.0, 0.5, 0.25, log=False),
    "cell": Choices(("lstm", "gru")),
    "fine_tune": Choices((False, True)),
}
Row = tuple[int, dict[str, Any], int | None]


def make(
    kind: str, ranges: Mapping[str, Any] = SPACE, when: Mapping[str, Any] | None = None, **settings: Any
) -> Oracle:
    space = Space(object, ranges, when or {}, {})
    arguments = {"objective": "val/loss", "mode": "min", "trials": 8, "epochs": 9, "seed": 0, **settings}
    return Oracle(kind, space, **arguments)


def value_of(answer: Answer, number: int) -> float:
    return float(answer.values.get("rate", number))


def run(kind: str, ranges: Mapping[str, Any] = SPACE, **settings: Any) -> list[Row]:
    """What an oracle asks for, one trial after the other, where the objective is simply the rate."""
    oracle, rows = make(kind, ranges, **settings), []
    while (answer := oracle.ask()).status == "RUNNING":
        rows.append((len(rows), dict(answer.values), answer.epochs))
        oracle.tell(answer.trial, value_of(answer, len(rows) - 1), 1)
    assert answer.status == "STOPPED"
    return rows


@pytest.mark.parametrize("kind", ["random", "bayesian"])
def test_every_value_lies_in_its_range_and_on_its_steps(kind):
    rows = run(kind)
    assert [number for number, _, _ in rows] == list(range(8))
    for _, chosen, epochs in rows:
        assert epochs is None
        assert list(chosen) == list(SPACE)
        assert chosen["units"] in (8, 16, 24, 32)
        assert 1 <= chosen["depth"] <= 64
        assert {type(chosen["units"]), type(chosen["depth"])} == {int}
        assert 1e-4 <= chosen["rate"] <= 1e-1
        assert chosen["dropout"] in (0.0, 0.25, 0.5)
        assert chosen["cell"] in ("lstm", "gru")
        assert type(chosen["fine_tune"]) is bool


@pytest.mark.parametrize("kind", ["random", "bayesian", "hyperband", "grid"])
def test_the_same_seed_gives_the_same_trials(kind):
    assert run(kind) == run(kind)


@pytest.mark.parametrize("kind", ["random", "bayesian", "hyperband"])
def test_another_seed_gives_other_trials(kind):
    assert run(kind) != run(kind, seed=1)


def test_neighbouring_seeds_share_no_trials():
    space = {"rate": SPACE["rate"]}
    first, second = ({chosen["rate"] for _, chosen, _ in run("random", space, seed=seed)} for seed in (0, 1))
    assert not first & second


def test_a_logarithmic_range_is_drawn_on_a_logarithmic_scale():
    rates = [chosen["rate"] for _, chosen, _ in run("random", {"rate": SPACE["rate"]}, trials=60)]
    mean = sum(map(math.log10, rates)) / len(rates)
    assert mean == pytest.approx(-2.5, abs=0.4)  # the middle of 1e-4 and 1e-1; drawn evenly it would be -1.4


GRID = {name: SPACE[name] for name in ("units", "dropout", "cell", "fine_tune")}


def test_a_grid_tries_every_combination_once():
    rows = [tuple(chosen.values()) for _, chosen, _ in run("grid", GRID, trials=None)]
    expected = itertools.product((8, 16, 24, 32), (0.0, 0.25, 0.5), ("lstm", "gru"), (False, True))
    assert sorted(rows) == sorted(expected)
    assert len(rows) == 48


def test_a_grid_ends_at_the_number_of_trials():
    assert len(run("grid", GRID, trials=5)) == 5


def test_a_search_of_a_small_space_ends_when_it_is_exhausted():
    rows = run("random", {"fine_tune": SPACE["fine_tune"]}, trials=20)
    assert sorted(chosen["fine_tune"] for _, chosen, _ in rows) == [False, True]


def test_hyperband_grants_epochs_in_powers_of_its_factor():
    rows = run("hyperband", trials=None)
    # Factor 3 and 9 epochs: brackets that start with 9, 5 and 3 trials, of which the
    # best 3 and then 1, the best 2, and none go on with more epochs.
    assert [epochs for _, _, epochs in rows] == [1] * 9 + [3] * 3 + [9] + [3] * 5 + [9] * 2 + [9] * 3
    first, second, third = rows[:9], rows[9:12], rows[12]
    best = sorted((chosen["rate"] for _, chosen, _ in first))[:3]
    assert sorted(chosen["rate"] for _, chosen, _ in second) == best
    assert third[1]["rate"] == best[0]


def test_hyperband_ends_at_the_number_of_trials():
    assert len(run("hyperband", trials=4)) == 4


@pytest.mark.parametrize(("mode", "best"), [("min", min), ("max", max)])
def test_hyperband_continues_with_the_best_in_the_direction_that_was_asked_for(mode, best):
    rows = run("hyperband", trials=None, mode=mode)
    assert rows[12][1]["rate"] == best(chosen["rate"] for _, chosen, _ in rows[:9])


@pytest.mark.parametrize("kind", ["random", "bayesian", "hyperband", "grid"])
def test_trials_that_fail_do_not_end_the_search_or_count_as_results(capfd, kind):
    oracle, asked = make(kind, GRID, trials=6), 0
    while (answer := oracle.ask()).status == "RUNNING":
        oracle.tell(answer.trial, None if asked % 2 == 0 else 1.0)
        asked += 1
    assert asked == 6
    assert capfd.readouterr().out == ""


def test_a_grid_has_as_many_trials_at_a_time_as_there_are_workers():
    oracle, rows = make("grid", GRID, trials=None), []
    answers = [oracle.ask() for _ in range(5)]
    while answers:
        answer = answers.pop(0)
        assert answer.status == "RUNNING"
        rows.append(tuple(answer.values.values()))
        oracle.tell(answer.trial, 1.0)
        if (following := oracle.ask()).status == "RUNNING":
            answers.append(following)
    assert sorted(rows) == sorted(itertools.product((8, 16, 24, 32), (0.0, 0.25, 0.5), ("lstm", "gru"), (False, True)))


def test_hyperband_shows_which_trial_continues():
    oracle, answers = make("hyperband", trials=None), []
    while (answer := oracle.ask()).status == "RUNNING":
        answers.append(answer)
        oracle.tell(answer.trial, value_of(answer, 0), answer.epochs)
    assert [answer.parent is None for answer in answers[:9]] == [True] * 9
    for answer in answers[9:13]:
        parent = next(found for found in answers if found.trial == answer.parent)
        assert parent.values == answer.values
        assert parent.epochs == answer.epochs / 3


@pytest.mark.parametrize("kind", ["hyperband"])
def test_an_oracle_with_nothing_to_offer_before_a_trial_ends_is_idle(kind):
    oracle = make(kind, {"fine_tune": SPACE["fine_tune"]}, trials=None)
    answers = [oracle.ask()]
    while answers[-1].status == "RUNNING":
        answers.append(oracle.ask())
    assert answers[-1].status == "IDLE"
    oracle.tell(answers[0].trial, 1.0)
    following = oracle.ask().status
    assert following in ("RUNNING", "IDLE")


@pytest.mark.parametrize("kind", ["random", "bayesian", "hyperband", "grid"])
def test_an_oracle_that_is_asked_and_told_the_same_continues_as_the_first_one(kind):
    """With two trials at a time, so that questions and answers are mixed; seven of them fit a Gaussian process."""
    ranges = GRID if kind == "grid" else {name: SPACE[name] for name in ("units", "rate")}
    calls: list[tuple[str, Any]] = []

    def drive(oracle: Oracle, steps: int, running: list[Answer]) -> None:
        for _ in range(steps):
            if len(running) < 2 and (answer := oracle.ask()).status == "RUNNING":
                calls.append(("ask", answer))
                running.append(answer)
                continue
            if not running:
                return
            answer = running.pop(0)
            told = None if len(calls) % 5 == 4 else value_of(answer, len(calls))
            oracle.tell(answer.trial, told, 1)
            calls.append(("tell", (answer.trial, told)))

    first, running = make(kind, ranges, trials=12), []
    drive(first, 18, running)
    second, before = make(kind, ranges, trials=12), list(calls)
    for call, content in before:
        if call == "ask":
            assert second.ask() == content
        else:
            second.tell(*content, 1)
    running_too = list(running)
    calls.clear()
    drive(first, 8, running)
    went_on = list(calls)
    calls[:] = before
    drive(second, 8, running_too)
    # The numbering of the calls continues, so that the same trials fail.
    assert [call for call, _ in calls[len(before) :]] == [call for call, _ in went_on]
    assert [c.values for call, c in calls[len(before) :] if call == "ask"] == [
        c.values for call, c in went_on if call == "ask"
    ]


@dataclasses.dataclass(frozen=True)
class Conditional:
    kind: str = Choice("wide", ["wide", "deep"])
    residual: bool = Bool(False, when={"kind": "deep"})
    scale: float = Choice(1.0, [1.0, 2.0], when={"residual": True})
    norm: bool = Bool(False)
    epsilon: float = Choice(1e-3, [1e-3, 1e-5], when={"kind": ["deep", "wide"], "norm": True})


@pytest.mark.parametrize("kind", ["random", "bayesian", "hyperband", "grid"])
def test_what_depends_on_another_value_is_chosen_where_that_is_so(kind):
    oracle = Oracle(kind, make_space(Conditional, {}, {}), "val/loss", "min", 20, 9, 0)
    seen = []
    while (answer := oracle.ask()).status == "RUNNING" and len(seen) < 20:
        seen.append(dict(answer.values))
        oracle.tell(answer.trial, float(len(seen)), 1)
    for values in seen:
        assert ("residual" in values) == (values["kind"] == "deep")
        assert ("scale" in values) == (values.get("residual") is True)
        assert ("epsilon" in values) == values["norm"]
    if kind == "grid":
        # Wide; deep; deep and residual, with either scale. Each without a norm, and with it and either epsilon.
        assert len({tuple(values.items()) for values in seen}) == len(seen) == 4 * 3


# ---------------------------------------------------------------------- both ends of a range, and no value twice

ENDS = [
    (FloatRange(0.0, 0.5, 0.1, log=False), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
    (FloatRange(0.1, 0.7, 0.2, log=False), [0.1, 0.3, 0.5, 0.7]),
    (FloatRange(0.0, 1.0, 1 / 3, log=False), [0.0, 0.3333333333333333, 0.6666666666666666, 1.0]),
    (FloatRange(-0.3, 0.3, 0.3, log=False), [-0.3, 0.0, 0.3]),
    (FloatRange(1e-4, 4e-4, 1e-4, log=False), [1e-4, 2e-4, 3e-4, 4e-4]),
    (IntRange(8, 32, 8, log=False), [8, 16, 24, 32]),
    (IntRange(1, 10, 4, log=False), [1, 5, 9]),
    (IntRange(1, 5, 1, log=True), [1, 2, 3, 4, 5]),
    (Choices((0.1, 0.2, 0.3)), [0.1, 0.2, 0.3]),
]


@pytest.mark.parametrize(
    ("kind", "found", "values"),
    [(kind, *ends) for kind in ("random", "hyperband", "grid") for ends in ENDS]
    + [("bayesian", *ENDS[number]) for number in (0, 7)],  # slow
)
def test_every_value_of_a_range_is_tried_with_both_ends_and_to_the_digit(kind, found, values):
    if kind == "grid" and isinstance(found, IntRange) and found.log:
        pytest.skip("a grid over a logarithmic range is refused")
    rows = run(kind, {"x": found}, trials=20, epochs=3)
    tried = [chosen["x"] for _, chosen, epochs in rows if epochs in (None, 1, 3)]
    assert sorted(set(tried)) == (values if kind != "hyperband" else sorted(set(tried) & set(values)))
    if kind != "hyperband":
        assert len(tried) == len(values)
    assert {type(value) for value in tried} == {type(values[0])}


@pytest.mark.parametrize(
    ("low", "high", "log", "best"),
    [(3e-4, 7e-2, True, "high"), (1e-5, 0.3, True, "low"), (0.1, 0.7, False, "high")],
)
def test_the_bayesian_oracle_reaches_the_exact_ends_of_a_continuous_range(low, high, log, best):
    oracle, rates = make("bayesian", {"rate": FloatRange(low, high, None, log)}, trials=6), []
    while (answer := oracle.ask()).status == "RUNNING":
        rates.append(answer.values["rate"])
        slope = math.log(rates[-1]) if log else rates[-1]
        oracle.tell(answer.trial, slope if best == "low" else -slope, 1)
    assert (low if best == "low" else high) in rates
    assert all(low <= rate <= high for rate in rates)


def test_a_logarithmic_range_of_whole_numbers_is_never_left():
    oracle, depths = make("bayesian", {"depth": IntRange(1, 64, 1, log=True)}, trials=10), []
    while (answer := oracle.ask()).status == "RUNNING":
        depths.append(answer.values["depth"])
        oracle.tell(answer.trial, -float(depths[-1]), 1)
    assert max(depths) == 64
    assert len(set(depths)) == len(depths)


@pytest.mark.parametrize("fails", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_bayesian_oracle_does_not_repeat_a_value(fails):
    """The best value, or one that fails, is in the corner: keras-tuner proposes it again and again."""
    oracle = make("bayesian", {"rate": FloatRange(0.0, 1.0, None, log=False), "cell": SPACE["cell"]}, trials=14)
    tried = []
    while (answer := oracle.ask()).status == "RUNNING":
        rate, cell = answer.values["rate"], answer.values["cell"]
        assert all(abs(rate - before) >= 1e-3 or cell != other for before, other in tried)
        tried.append((rate, cell))
        oracle.tell(answer.trial, None if fails and rate < 0.01 else rate, 1)
    assert len(tried) == 14


@pytest.mark.parametrize("kind", ["random", "hyperband"])
def test_a_countable_space_is_tried_to_its_last_combination(kind):
    ranges = {"x": IntRange(0, 9, 1, log=False), "y": FloatRange(0.0, 0.4, 0.1, log=False)}
    rows = run(kind, ranges, trials=400, epochs=80)
    assert len({tuple(chosen.values()) for _, chosen, _ in rows}) == 50


def test_an_oracle_says_why_it_has_stopped():
    def reason(kind: str, ranges: Mapping[str, Any], trials: int | None, fails: bool = False) -> str:
        oracle = make(kind, ranges, trials=trials)
        while (answer := oracle.ask()).status == "RUNNING":
            oracle.tell(answer.trial, None if fails else 1.0, 1)
        return oracle.why_stopped()

    small = {"x": IntRange(0, 2, 1, log=False), "y": Choices(("a", "b"))}
    assert reason("bayesian", {"x": small["x"]}, 20) == "the space is exhausted: all its 3 combinations were tried"
    for kind in ("random", "grid"):
        assert reason(kind, small, 20) == "the space is exhausted: all its 6 combinations were tried"
        assert reason(kind, small, 20, fails=True) == "the space is exhausted: all its 6 combinations were tried"
        assert reason(kind, small, 6) == "trials=6 reached"
    assert reason("random", small, 5) == "trials=5 reached"
    assert reason("grid", small, 5) == "trials=5 reached of the 6 combinations of the grid"
    assert reason("hyperband", SPACE, 13) == "trials=13 reached before hyperband had run all its brackets"
    assert reason("hyperband", SPACE, 23) == "trials=23 reached"  # 13 of its first bracket, 7 and 3
    assert reason("hyperband", SPACE, None) == "hyperband has run all its brackets"
    assert (
        reason("hyperband", SPACE, None, fails=True) == "hyperband could not fill its brackets, because trials failed"
    )
    assert reason("hyperband", small, None) == "the space is exhausted: all its 6 combinations were tried"
