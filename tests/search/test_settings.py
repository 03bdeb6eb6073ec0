"""What a search tries is checked when it is made."""

import keras
import pytest

from lightkeras.runner import Runner
from lightkeras.search.settings import TrialSettings
from lightkeras.search.space import Bounds
from lightkeras.testing import TwoMoons


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"oracle": "bayes"}, ValueError, r"Tuner\(oracle='bayes'\) is not known\. Did you mean 'bayesian'\?"),
        ({"mode": "minimum"}, ValueError, r"Tuner\(mode='minimum'\): expected 'min', 'max' or None"),
        ({"trials": None}, ValueError, r"Tuner\(oracle='random', trials=None\) would never end"),
        ({"trials": None, "oracle": "bayesian"}, ValueError, r"oracle='bayesian', trials=None\) would never"),
        ({"trials": 0}, ValueError, r"Tuner\(trials=0\): expected a whole number of at least 1"),
        ({"trials": True}, ValueError, r"Tuner\(trials=True\): expected a whole number"),
        ({"trials": 2.5}, ValueError, r"Tuner\(trials=2\.5\): expected a whole number"),
        ({"seed": -1}, ValueError, r"Tuner\(seed=-1\): expected a whole number of at least 0"),
        ({"fixed": {"units": 3}}, ValueError, r"Unknown hyperparameter 'units'\. Did you mean 'hidden_units'\?"),
        ({"fixed": {"hidden_units": 0.5}}, TypeError, r"Hyperparameter hidden_units=0\.5: expected int, got float"),
        ({"task": TwoMoons()}, TypeError, r"expected a class derived from lightkeras\.Task"),
        ({"task": dict}, TypeError, r"Tuner\(task=<class 'dict'>\): expected a class derived"),
        ({"runner": Runner(callbacks=[keras.callbacks.Callback()])}, ValueError, r"carry their state from trial to"),
        ({"oracle": "grid"}, ValueError, r"learning_rate"),  # it has no steps
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        TrialSettings(**{"task": TwoMoons, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"trials": 1, "seed": 0, "mode": "min"},
        {"mode": "max", "oracle": "bayesian"},
        {"trials": None, "oracle": "hyperband"},
        {"trials": None, "oracle": "grid", "fixed": {"learning_rate": 0.01}},
    ],
)
def test_the_least_and_every_kind_are_allowed(settings):
    TrialSettings(TwoMoons, **settings)


def test_a_range_may_be_given_as_a_dict():
    as_dict, as_bounds = (
        TrialSettings(TwoMoons, space={"hidden_units": bounds}).made_space().record()
        for bounds in ({"high": 8}, Bounds(high=8))
    )
    assert as_dict == as_bounds
    assert as_dict["hidden_units"] == "4 to 8 in steps of 4"
