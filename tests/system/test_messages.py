from __future__ import annotations

import pytest

from lightkeras.system.messages import did_you_mean, raised_by_us
from lightkeras.training.decisions import infer_mode


@pytest.mark.parametrize(
    ("name", "valid", "expected"),
    [
        ("val/los", ["val/loss", "train/loss"], "Did you mean 'val/loss'? Valid names: train/loss, val/loss."),
        ("zzz", ["b", "a"], "Valid names: a, b."),
        ("x", [], "There are no valid names."),
        ("bayes", iter(("random", "bayesian")), "Did you mean 'bayesian'? Valid names: bayesian, random."),
    ],
)
def test_valid_names_are_listed_in_order_and_the_nearest_is_suggested(name, valid, expected):
    assert did_you_mean(name, valid) == expected


def test_an_error_of_ours_is_told_from_one_of_the_user():
    with pytest.raises(ValueError, match="better low or high") as ours:
        infer_mode("something")
    with pytest.raises(ValueError, match="invalid literal") as others:
        int("something")
    assert raised_by_us(ours.value)
    assert not raised_by_us(others.value)
    assert not raised_by_us(ValueError("raised by nobody"))
