"""The decisions of a run, as pure functions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeras.schedule import (
    MAX_STEPS_PER_CALL,
    TARGET_SECONDS,
    Progress,
    infer_mode,
    is_better,
    steps_next,
    weighted_mean,
)

STEPS = st.integers(1, 10_000)
SECONDS = st.none() | st.floats(0, 1000)


@given(remaining=STEPS, seconds=SECONDS, fixed=st.none() | STEPS)
def test_a_call_never_crosses_the_next_event_and_always_runs_a_step(remaining, seconds, fixed):
    assert 1 <= steps_next(remaining, seconds, fixed) <= remaining


@given(seconds=SECONDS, fixed=st.none() | STEPS)
def test_a_call_before_an_end_that_is_not_known_runs_at_least_one_step(seconds, fixed):
    assert steps_next(None, seconds, fixed) >= 1


@given(epoch=st.integers(1, 200), fixed=st.integers(1, 250))
def test_the_calls_of_an_epoch_run_exactly_its_steps(epoch, fixed):
    counts = []
    while sum(counts) < epoch:
        counts.append(steps_next(epoch - sum(counts), 0.01, fixed))
    assert sum(counts) == epoch
    assert len(counts) == math.ceil(epoch / fixed)
    assert set(counts[:-1]) <= {fixed}


@given(seconds=st.floats(1e-12, 10))
def test_a_call_takes_no_longer_than_the_target_unless_one_step_does(seconds):
    steps = steps_next(None, seconds, None)
    assert steps == 1 or steps * seconds <= TARGET_SECONDS * (1 + 1e-9)
    assert steps <= MAX_STEPS_PER_CALL


@pytest.mark.parametrize(
    ("remaining", "seconds", "fixed", "expected"),
    [
        (100, None, None, 8),  # nothing was measured yet
        (5, None, None, 5),
        (100, 0.001, None, 75),  # 75 ms at 1 ms a step
        (100, 0.010, None, 7),  # 7.5 of them, rounded down
        (100, 9.0, None, 1),
        (None, 0.0, None, MAX_STEPS_PER_CALL),  # a clock that did not move
        (100, 0.001, 7, 7),
        (6, 0.001, 7, 6),
        (None, 0.001, 5000, 5000),  # what was asked for is not capped
    ],
)
def test_how_many_steps_come_next(remaining, seconds, fixed, expected):
    assert steps_next(remaining, seconds, fixed) == expected


def follow(mode, values):
    progress = [Progress(mode)]
    for value in values:
        progress.append(progress[-1].after(value))
    return progress[1:]


def test_waiting_is_counted_from_the_best_epoch():
    followed = follow("min", [3.0, 2.0, 2.0, 2.5, 1.0, 1.5])
    assert [progress.best for progress in followed] == [3.0, 2.0, 2.0, 2.0, 1.0, 1.0]
    assert [progress.waited for progress in followed] == [0, 0, 1, 2, 0, 1]
    assert [progress.exhausted(2) for progress in followed] == [False, False, False, True, False, False]


def test_higher_is_better_where_the_mode_says_so():
    followed = follow("max", [0.5, 0.7, 0.6, 0.7, 0.8])
    assert [progress.best for progress in followed] == [0.5, 0.7, 0.7, 0.7, 0.8]
    assert [progress.waited for progress in followed] == [0, 0, 1, 2, 0]


def test_no_patience_is_never_exhausted():
    assert not any(progress.exhausted(None) for progress in follow("min", [1.0] * 50))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_value_that_is_not_a_number_is_never_better(mode):
    followed = follow(mode, [math.nan, math.nan, 1.0, math.nan])
    assert [progress.best for progress in followed] == [None, None, 1.0, 1.0]
    assert [progress.waited for progress in followed] == [1, 2, 0, 1]


@pytest.mark.parametrize(
    ("value", "best", "mode", "expected"),
    [
        (1.0, None, "min", True),
        (1.0, 1.0, "min", False),
        (1.0, 1.0, "max", False),
        (0.9, 1.0, "min", True),
        (0.9, 1.0, "max", False),
        (math.inf, 1.0, "min", False),
        (-math.inf, 1.0, "max", False),
        (1.0, math.inf, "min", True),
    ],
)
def test_better_means_strictly_better(value, best, mode, expected):
    assert is_better(value, best, mode) is expected


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("val/loss", "min"),
        ("train/loss", "min"),
        ("val/mean_absolute_error", "min"),
        ("val/rmse", "min"),
        ("val/binary_crossentropy_loss", "min"),
        ("val/accuracy", "max"),
        ("val/sparse_categorical_accuracy", "max"),
        ("val/auc_1", "max"),
        ("val/F1-score", "max"),
        ("val/ACC", "max"),
    ],
)
def test_the_mode_is_told_by_the_words_of_the_name(name, mode):
    assert infer_mode(name) == mode


@pytest.mark.parametrize(
    "name",
    [
        "val/reward",  # neither
        "val/accuracy_loss",  # both
        "loss/score",  # the split is no part of the name
        "val/glossy",  # a word, not a part of one
    ],
)
def test_a_name_that_does_not_tell_is_refused(name):
    with pytest.raises(ValueError, match=f"Whether '{name}' is better low or high .* mode='min' or 'max'"):
        infer_mode(name)


def test_a_mean_is_weighted():
    assert weighted_mean([2.5, 1.265625], [2, 1]) == pytest.approx(2.0885416667, abs=1e-10)
