from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest

from lightkeras.system.messages import (
    check_whole,
    did_you_mean,
    explain_unknown_keywords,
    explains_unknown_keywords,
    raised_by_us,
)
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


def test_of_many_names_the_three_nearest_are_suggested():
    many = [*"abcdefgh", "--hp.units", "--hp.unit_norm", "--hp.rate"]
    assert did_you_mean("--hp.unts", many, most=10) == "Did you mean '--hp.units', '--hp.unit_norm' or '--hp.rate'?"
    assert did_you_mean("--hp.unts", many[:10], most=10).startswith("Did you mean '--hp.units'? Valid names: --hp.")


def test_an_error_of_ours_is_distinguished_from_one_of_the_user():
    with pytest.raises(ValueError, match="whether lower or higher is better") as ours:
        infer_mode("something")
    with pytest.raises(ValueError, match="invalid literal") as others:
        int("something")
    assert raised_by_us(ours.value)
    assert not raised_by_us(others.value)
    assert not raised_by_us(ValueError("raised by nobody"))


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (1, {}, None),
        (0, {}, "Runner(max_epochs=0): expected a whole number of at least 1."),
        (True, {}, "Runner(max_epochs=True): expected a whole number of at least 1."),
        (2.0, {}, "Runner(max_epochs=2.0): expected a whole number of at least 1."),
        (None, {}, "Runner(max_epochs=None): expected a whole number of at least 1."),
        (None, {"optional": True}, None),
        (0, {"optional": True}, "Runner(max_epochs=0): expected a whole number of at least 1, or None."),
        (3, {"most": 3}, None),
        (4, {"most": 3}, "Runner(max_epochs=4): expected a whole number from 1 to 3."),
        (np.int64(1), {"numpy": True}, None),
        (np.int64(1), {}, "Runner(max_epochs=np.int64(1)): expected a whole number of at least 1."),
        (np.int64(0), {"numpy": True}, "Runner(max_epochs=np.int64(0)): expected a whole number of at least 1."),
        (np.bool_(True), {"numpy": True}, "Runner(max_epochs=np.True_): expected a whole number of at least 1."),
    ],
)
def test_a_whole_number_is_checked(value, options, message):
    if message is None:
        check_whole("Runner", "max_epochs", value, 1, **options)
        return
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole message is compared)
        check_whole("Runner", "max_epochs", value, 1, **options)
    assert str(caught.value) == message


def test_a_whole_number_need_not_have_an_owner():
    with pytest.raises(ValueError, match=r"^seed=-1: expected a whole number of at least 0\.$"):
        check_whole("", "seed", -1, 0)


KNOWN = {"max_trials": "lightkeras calls it `trials`: Tuner(task, trials=20)."}


def test_unknown_keywords_are_answered_by_ours_or_by_the_nearest():
    explain_unknown_keywords("Tuner", {"trials": 1}, ["trials", "seed"], KNOWN)
    with pytest.raises(TypeError) as caught:
        explain_unknown_keywords("Tuner", {"max_trials": 2, "seed": 1, "sed": 3}, ["trials", "seed"], KNOWN)
    assert str(caught.value).splitlines() == [
        "Tuner(max_trials=...): there is no such setting. lightkeras calls it `trials`: Tuner(task, trials=20).",
        "Tuner(sed=...): there is no such setting. Did you mean 'seed'? Valid names: seed, trials.",
    ]


def test_a_class_that_answers_unknown_keywords_keeps_its_signature():
    @explains_unknown_keywords(KNOWN)
    @dataclasses.dataclass(frozen=True)
    class Search:
        """A search."""

        trials: int
        seed: int = 0

    plain = dataclasses.make_dataclass("Search", [("trials", int), ("seed", int, 0)])
    assert list(inspect.signature(Search).parameters) == list(inspect.signature(plain).parameters)
    assert Search(3) == Search(trials=3, seed=0)
    assert dataclasses.replace(Search(3), seed=2).seed == 2
    with pytest.raises(
        TypeError, match=r"^Search\(max_trials=\.\.\.\): there is no such setting\. lightkeras calls it"
    ):
        Search(max_trials=3)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'trials'"):
        Search()

    class Longer(Search):
        """A search of another name."""

    with pytest.raises(TypeError, match=r"^Longer\(tirals=\.\.\.\): .* Did you mean 'trials'\?"):
        Longer(tirals=3)
