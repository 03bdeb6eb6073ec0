"""When trials are stopped, with numbers that can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from lightkeras.search.pruning import Chance, Pruning, is_better, not_finite

COMPLETED = [[(1, 0.5), (2, 0.7)], [(1, 0.6), (2, 0.8)], [(1, 0.2), (2, 0.4)]]  # means of two epochs: 0.6, 0.7, 0.3


def test_nothing_is_pruned_where_no_rule_is_given():
    assert Pruning().verdict([(1, 0.0)], COMPLETED, COMPLETED, "max") is None


@pytest.mark.parametrize(
    ("mine", "stops"),
    [
        ([(1, 0.49)], True),  # the median of 0.5, 0.6 and 0.2
        ([(1, 0.5)], False),
        ([(1, 0.3), (2, 0.59)], True),  # the median of 0.6, 0.7 and 0.3
        ([(1, 0.65), (2, 0.1)], False),  # its best counts
    ],
)
def test_the_median_rule_compares_the_best_value_with_the_median_of_means(mine, stops):
    verdict = Pruning("median").verdict(mine, [], COMPLETED, "max")
    assert (verdict is not None) == stops


def test_a_pruned_trial_shows_when_and_why():
    found = Pruning("median").verdict([(1, 0.3), (2, 0.59)], [], COMPLETED, "max")
    assert found == (
        "its best value 0.59 after epoch 2 is worse than 0.6, the median of the mean values of 3 completed trials"
    )


def test_lower_can_be_better():
    losses = [[(1, 1.0)], [(1, 2.0)], [(1, 3.0)]]
    assert Pruning("median").verdict([(1, 2.5)], [], losses, "min") is not None
    assert Pruning("median").verdict([(1, 1.5)], [], losses, "min") is None


def test_the_median_needs_enough_completed_trials_and_epochs():
    assert Pruning("median", trials=4).verdict([(1, 0.0)], [], COMPLETED, "max") is None
    assert Pruning("median", first=2).verdict([(1, 0.0)], [], COMPLETED, "max") is None
    assert Pruning("median", first=2).verdict([(1, 0.0), (2, 0.0)], [], COMPLETED, "max") is not None


def test_halving_lets_the_best_third_of_a_rung_continue():
    others = [[(1, value)] for value in (0.1, 0.2, 0.3, 0.4, 0.5)]
    rule = Pruning("halving", factor=3)
    # Of six that reached it, two continue.
    assert rule.verdict([(1, 0.45)], others, [], "max") is None
    assert rule.verdict([(1, 0.35)], others, [], "max") == (
        "its value 0.35 at epoch 1 is place 3 of the 6 trials that reached it, of which the best 2 continue"
    )
    assert rule.verdict([(1, 0.15)], others, [], "min") is None


def test_the_first_to_get_to_a_rung_continues():
    assert Pruning("halving").verdict([(1, 0.1)], [], [], "max") is None
    assert Pruning("halving").verdict([(1, 0.1)], [[(1, 0.2)]], [], "max") is not None


def test_halving_judges_at_its_rungs_alone():
    rule = Pruning("halving", first=2, factor=2)  # epochs 2, 4, 8, ...
    others = [[(epoch, 0.9) for epoch in range(1, 9)]] * 3
    verdicts = [rule.verdict([(n, 0.1) for n in range(1, epoch + 1)], others, [], "max") for epoch in range(1, 9)]
    assert [verdict is not None for verdict in verdicts] == [False, True, False, True, False, False, False, True]


def test_a_trial_that_is_not_validated_at_a_rung_is_judged_at_its_next_value():
    rule = Pruning("halving", first=2, factor=2)
    others = [[(3, 0.9), (6, 0.9)]] * 3  # validated each third epoch
    assert rule.verdict([(3, 0.1)], others, [], "max") is not None
    assert rule.verdict([(3, 0.9), (6, 0.1)], others, [], "max") is not None


@pytest.mark.parametrize(
    ("mine", "stuck"),
    [([(1, 0.5), (2, 0.4)], False), ([(1, 0.5), (2, 0.4), (3, 0.5)], True), ([(1, 0.51), (2, 0.5), (3, 0.5)], False)],
)
def test_a_trial_is_stuck_if_it_was_never_better_than_chance(mine, stuck):
    assert (Chance(0.5, epochs=3).verdict(mine, "val/accuracy", "max") is not None) == stuck


def test_a_stuck_trial_is_reported_as_stuck():
    found = Chance(2.3, epochs=1).verdict([(1, 2.31)], "val/loss", "min")
    assert found == "stuck at chance: val/loss is 2.31 after epoch 1, not better than 2.3"
    assert Chance().verdict([(9, 2.31)], "val/loss", "min") is None


def test_what_is_not_finite_has_diverged():
    assert not_finite(2, math.nan, "val/loss") == "diverged: val/loss is nan after epoch 2"
    assert not_finite(2, -math.inf, "val/loss") == "diverged: val/loss is -inf after epoch 2"
    assert not_finite(2, 0.5, "val/loss") is None


def test_better_is_lower_or_higher():
    assert is_better(1.0, 2.0, "min")
    assert is_better(2.0, 1.0, "max")
    assert not is_better(1.0, 1.0, "min")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pruning("mean"), r"Pruning\(rule='mean'\): expected 'median', 'halving' or None"),
        (lambda: Pruning("median", first=0), r"Pruning\(first=0\): expected a whole number of at least 1"),
        (lambda: Pruning("halving", factor=1), r"Pruning\(factor=1\): expected a whole number of at least 2"),
        (lambda: Chance(math.inf), r"Chance\(value=inf\): expected a finite number"),
        (lambda: Chance(0.5, epochs=0), r"Chance\(epochs=0\): expected a whole number of at least 1"),
    ],
)
def test_settings_out_of_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_rungs_and_places_at_their_border():
    rule = Pruning("halving", first=2, factor=3)  # epochs 2, 6, 18
    others = [[(epoch, 0.9) for epoch in range(1, 20)]] * 3
    mine = [(n, 0.1) for n in range(1, 20)]
    verdicts = [epoch for epoch in range(1, 20) if rule.verdict(mine[:epoch], others, [], "max") is not None]
    assert verdicts == [2, 6, 18]
    # A value that is equal to another one has its place: the two best of six continue, and three are equal.
    six = [[(2, value)] for value in (0.5, 0.5, 0.4, 0.3, 0.2)]
    assert rule.verdict([(2, 0.5)], six, [], "max") is None
    assert rule.verdict([(2, 0.45)], six, [], "max") == (
        "its value 0.45 at epoch 2 is place 3 of the 6 trials that reached it, of which the best 2 continue"
    )
    # One that has not reached the rung does not count; of five, one continues.
    assert "place 2 of the 3 trials that reached it, of which the best 1 continue" in (
        rule.verdict([(2, 0.3)], [[(1, 0.9)], [(2, 0.5)], [(2, 0.2)]], [], "max") or ""
    )


def test_the_median_takes_only_epochs_up_to_its_own_and_trials_that_have_some():
    completed = [[(1, 0.5), (2, 0.9)], [(1, 0.5), (2, 0.9)], [(2, 0.9)]]
    assert Pruning("median", trials=2).verdict([(1, 0.5)], [], completed, "max") is None
    assert Pruning("median", trials=2).verdict([(1, 0.49)], [], completed, "max") is not None
    assert Pruning("median", trials=3).verdict([(1, 0.49)], [], completed, "max") is None


def test_the_defaults_are_those_of_the_documentation():
    assert (Pruning().first, Pruning().trials, Pruning().factor, Chance().epochs) == (1, 3, 3, 3)
    assert Pruning("median").verdict([], [], COMPLETED, "max") is None
    assert Chance(0.5).verdict([], "a", "max") is None
    assert Chance(0.5, epochs=1).verdict([(1, 0.6), (2, 0.4)], "a", "max") is None
