from __future__ import annotations

import pytest

from lightkeras._messages import did_you_mean


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
