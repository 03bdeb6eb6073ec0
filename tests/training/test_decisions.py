"""The decisions of a run, as pure functions."""

import math
import types

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeras.training import decisions
from lightkeras.training.decisions import (
    MAX_STEPS_PER_CALL,
    TARGET_SECONDS,
    Patience,
    infer_mode,
    is_better,
    steps_next,
)

STEPS = st.integers(1, 10_000)
SECONDS = st.none() | st.floats(0, 1000)


@pytest.mark.parametrize(
    ("limit", "most_steps", "steps", "expected"),
    [(10, None, 4, 10), (3, 100, 4, 3), (None, 12, 4, 3), (None, 13, 4, 4), (None, 5, None, 5)],
)
def test_the_number_of_epochs_follows_from_the_limits(limit, most_steps, steps, expected):
    assert decisions.expected_epochs(limit, most_steps, steps) == expected


@pytest.mark.parametrize(("name", "mode"), [("val/f1_score/0", "max"), ("val/loss/1/0", "min")])
def test_the_mode_of_a_numbered_value_is_that_of_its_name(name, mode):
    assert decisions.infer_mode(name) == mode


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
        (1000, 0.001, None, 300),  # 0.3 s at 1 ms a step
        (100, 0.080, None, 3),  # 3.75 of them, rounded down
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
    progress = [Patience(mode)]
    for value in values:
        progress.append(progress[-1].after(value))
    return progress[1:]


def test_waiting_is_counted_from_the_best_epoch():
    followed = follow("min", [3.0, 2.0, 2.0, 2.5, 1.0, 1.5])
    assert [progress.best for progress in followed] == [3.0, 2.0, 2.0, 2.0, 1.0, 1.0]
    assert [progress.waited for progress in followed] == [0, 0, 1, 2, 0, 1]
    assert [progress.exhausted(2) for progress in followed] == [False, False, False, True, False, False]


def test_higher_is_better_where_the_mode_is_max():
    followed = follow("max", [0.5, 0.7, 0.6, 0.7, 0.8])
    assert [progress.best for progress in followed] == [0.5, 0.7, 0.7, 0.7, 0.8]
    assert [progress.waited for progress in followed] == [0, 0, 1, 2, 0]


def keras_stops(values, **settings):
    """The epoch, from 1, after which Keras's own EarlyStopping stops; `None` if it does not."""
    stopping = keras.callbacks.EarlyStopping(monitor="value", **settings)
    stopping.set_model(types.SimpleNamespace(stop_training=False))
    stopping.on_train_begin()
    for epoch, value in enumerate(values, 1):
        stopping.on_epoch_end(epoch - 1, {"value": value})
        if stopping.model.stop_training:
            return epoch
    return None


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("min_delta", [0.0, 0.05, 0.3])
def test_patience_with_a_least_improvement_stops_where_keras_stops(mode, min_delta):
    stops = []
    for seed in range(50):
        values = np.random.default_rng(seed).normal(0, 0.1, 40).cumsum()
        progress, stopped = Patience(mode), None
        for epoch, value in enumerate(values, 1):
            progress = progress.after(value, min_delta)
            assert progress.best == (min if mode == "min" else max)(values[:epoch])  # the best, however little better
            if progress.exhausted(4) and stopped is None:
                stopped = epoch
        assert stopped == keras_stops(values, mode=mode, min_delta=min_delta, patience=4)
        stops.append(stopped)
    assert len(set(stops)) > 1


def test_small_steps_add_up_to_an_improvement():
    progress = [Patience("min")]
    for value in [1.0, 0.95, 0.92, 0.88, 0.9]:
        progress.append(progress[-1].after(value, 0.1))
    assert [each.best for each in progress[1:]] == [1.0, 0.95, 0.92, 0.88, 0.88]
    assert [each.waited for each in progress[1:]] == [0, 1, 2, 0, 1]
    assert [each.counted for each in progress[1:]] == [None, 1.0, 1.0, None, None]


@pytest.mark.parametrize(("mode", "values", "reached"), [("min", [3, 2, 4], [0, 1, 1]), ("max", [1, 2, 1], [0, 1, 1])])
def test_a_value_is_reached_once_the_best_is_as_good(mode, values, reached):
    followed = follow(mode, values)
    assert [progress.reached(2.0) for progress in followed] == list(map(bool, reached))
    assert not any(progress.reached(None) for progress in followed)
    assert not Patience(mode).reached(2.0)


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
def test_the_mode_is_known_by_the_words_of_the_name(name, mode):
    assert infer_mode(name) == mode


@pytest.mark.parametrize(
    "name",
    [
        "val/reward",  # neither
        "val/accuracy_loss",  # both
        "loss/score",  # the split is not part of the name
        "val/glossy",  # a word, not a part of one
    ],
)
def test_a_name_that_does_not_tell_is_refused(name):
    with pytest.raises(ValueError, match=f"The name '{name}' does not show .* mode='min' or mode='max'"):
        infer_mode(name)


# ---------------------------------------------------------------------- events inside an epoch


@pytest.mark.parametrize(
    ("step", "left", "most", "every", "expected"),
    [
        (0, 10, None, (None, None), 10),
        (0, None, None, (None,), None),
        (7, 10, 9, (None,), 2),
        (7, 10, None, (5, 4), 1),
        (10, 100, 100, (5, 40), 5),
    ],
)
def test_the_next_event_is_the_nearest(step, left, most, every, expected):
    assert decisions.steps_to_event(step, left, most, every) == expected


@given(
    epoch=st.integers(1, 60),
    most=st.none() | st.integers(1, 400),
    every=st.lists(st.none() | st.integers(1, 50), max_size=3),
    fixed=st.none() | st.integers(1, 90),
    seconds=st.none() | st.floats(1e-6, 1),
)
def test_no_call_crosses_an_event_and_counts_are_exact(epoch, most, every, fixed, seconds):
    """Runs the loop's arithmetic over up to five epochs, and notes after which steps it stood still."""
    step, stops = 0, []
    while step < 5 * epoch and (most is None or step < most):
        left = epoch - step % epoch
        event = decisions.steps_to_event(step, left, most, every)
        count = decisions.steps_next(event, seconds, fixed)
        assert 1 <= count <= left
        step += count
        stops.append(step)
    assert step == min(5 * epoch, most or 5 * epoch)
    due = {
        number
        for number in range(1, step + 1)
        if number % epoch == 0 or number == most or any(decisions.is_multiple(number, n) for n in every)
    }
    assert due <= set(stops)


def test_a_checkpoint_is_afforded_while_all_of_them_stay_within_their_share():
    assert decisions.can_afford(0.0, 0.0, 0.0)  # nobody knows yet what one costs
    assert not decisions.can_afford(1.0, 1.0, 99.0)
    assert decisions.can_afford(1.0, 1.0, 100.0)


def test_the_first_checkpoint_is_written_at_once_unless_it_is_large():
    assert decisions.first_cost(10**8) == 0.0
    assert decisions.first_cost(2 * 10**9) == 2.0


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (1, decisions.Every(1, "epoch")),
        ("2", decisions.Every(2, "epoch")),
        ("2 epochs", decisions.Every(2, "epoch")),
        ("1 epoch", decisions.Every(1, "epoch")),
        (" 500 steps ", decisions.Every(500, "step")),
        ("1step", decisions.Every(1, "step")),
    ],
)
def test_how_often_is_read_as_epochs_or_steps(given_, expected):
    assert decisions.parse_every(given_) == expected
    assert (expected.steps, expected.epochs) == (
        (expected.count, None) if expected.unit == "step" else (None, expected.count)
    )


@pytest.mark.parametrize("wrong", [0, "0 steps", -1, 1.5, True, "often", "2 weeks", ""])
def test_how_often_that_cannot_be_read_is_refused(wrong):
    with pytest.raises(ValueError, match=r"expected a number of epochs, such as 2 or '2 epochs', or '500 steps'"):
        decisions.parse_every(wrong)


LONGER = " To train longer, resume it with a higher patience (--runner.patience)."


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("max_epochs=3 reached", " To train longer, resume it with a higher max_epochs (--runner.max_epochs)."),
        ("max_time=60 s reached", " To train longer, resume it with a higher max_time (--runner.max_time)."),
        (
            "val/loss got no better for 2 epochs",
            " To train longer, resume it with a higher patience (--runner.patience).",
        ),
        ("a callback asked to stop", ""),
        ("val/loss is nan, which is not finite", ""),
    ],
)
def test_a_finished_run_names_the_setting_that_ended_it(reason, advice):
    assert decisions.finished(reason) == f"The run is finished: {reason}.{advice}"
