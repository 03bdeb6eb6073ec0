"""keras-tuner's own oracles, run over our ranges with a function in the place of training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lightkeras import oracles
from lightkeras.hparams import Choices, FloatRange, IntRange

SPACE = {
    "units": IntRange(8, 32, 8, log=False),
    "depth": IntRange(1, 64, 1, log=True),
    "rate": FloatRange(1e-4, 1e-1, None, log=True),
    "dropout": FloatRange(0.0, 0.5, 0.25, log=False),
    "cell": Choices(("lstm", "gru")),
    "fine_tune": Choices((False, True)),
}
Row = tuple[int, dict[str, Any], int | None]


def run(folder: Path, kind: str, space: Mapping[str, Any] = SPACE, **settings: Any) -> list[Row]:
    """What an oracle asks for, where the objective is simply the rate."""
    rows: list[Row] = []

    def run_trial(number: int, chosen: Mapping[str, Any], epochs: int | None) -> float:
        rows.append((number, dict(chosen), epochs))
        return float(chosen.get("rate", number))

    arguments = {"objective": "val/loss", "mode": "min", "trials": 8, "epochs": 9, "seed": 0, **settings}
    oracles.search(oracles.make_oracle(kind, space, **arguments), space, folder, run_trial)
    return rows


@pytest.mark.parametrize("kind", ["random", "bayesian"])
def test_every_value_lies_in_its_range_and_on_its_steps(tmp_path, kind):
    rows = run(tmp_path, kind)
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
def test_the_same_seed_gives_the_same_trials(tmp_path, kind):
    assert run(tmp_path / "a", kind) == run(tmp_path / "b", kind)


@pytest.mark.parametrize("kind", ["random", "bayesian", "hyperband"])
def test_another_seed_gives_other_trials(tmp_path, kind):
    assert run(tmp_path / "a", kind) != run(tmp_path / "b", kind, seed=1)


def test_neighbouring_seeds_share_no_trials(tmp_path):
    space = {"rate": SPACE["rate"]}
    first, second = (
        {chosen["rate"] for _, chosen, _ in run(tmp_path / str(seed), "random", space, seed=seed)} for seed in (0, 1)
    )
    assert not first & second


def test_a_logarithmic_range_is_drawn_on_a_logarithmic_scale(tmp_path):
    rates = [chosen["rate"] for _, chosen, _ in run(tmp_path, "random", {"rate": SPACE["rate"]}, trials=60)]
    mean = sum(map(math.log10, rates)) / len(rates)
    assert mean == pytest.approx(-2.5, abs=0.4)  # the middle of 1e-4 and 1e-1; drawn evenly it would be -1.4


GRID = {name: SPACE[name] for name in ("units", "dropout", "cell", "fine_tune")}


def test_a_grid_tries_every_combination_once(tmp_path):
    rows = [tuple(chosen.values()) for _, chosen, _ in run(tmp_path, "grid", GRID, trials=None)]
    expected = itertools.product((8, 16, 24, 32), (0.0, 0.25, 0.5), ("lstm", "gru"), (False, True))
    assert sorted(rows) == sorted(expected)
    assert len(rows) == 48


def test_a_grid_ends_at_the_number_of_trials(tmp_path):
    assert len(run(tmp_path, "grid", GRID, trials=5)) == 5


def test_a_search_of_a_small_space_ends_when_it_is_exhausted(tmp_path):
    rows = run(tmp_path, "random", {"fine_tune": SPACE["fine_tune"]}, trials=20)
    assert sorted(chosen["fine_tune"] for _, chosen, _ in rows) == [False, True]


def test_hyperband_grants_epochs_in_powers_of_its_factor(tmp_path):
    rows = run(tmp_path, "hyperband", trials=None)
    # Factor 3 and 9 epochs: brackets that start with 9, 5 and 3 trials, of which the
    # best 3 and then 1, the best 2, and none go on with more epochs.
    assert [epochs for _, _, epochs in rows] == [1] * 9 + [3] * 3 + [9] + [3] * 5 + [9] * 2 + [9] * 3
    first, second, third = rows[:9], rows[9:12], rows[12]
    best = sorted((chosen["rate"] for _, chosen, _ in first))[:3]
    assert sorted(chosen["rate"] for _, chosen, _ in second) == best
    assert third[1]["rate"] == best[0]


def test_hyperband_ends_at_the_number_of_trials(tmp_path):
    assert len(run(tmp_path, "hyperband", trials=4)) == 4


@pytest.mark.parametrize(("mode", "best"), [("min", min), ("max", max)])
def test_hyperband_goes_on_with_the_best_in_the_direction_that_was_asked_for(tmp_path, mode, best):
    rows = run(tmp_path, "hyperband", trials=None, mode=mode)
    assert rows[12][1]["rate"] == best(chosen["rate"] for _, chosen, _ in rows[:9])


@pytest.mark.parametrize("kind", ["random", "bayesian", "hyperband", "grid"])
def test_trials_that_fail_do_not_end_the_search_or_say_anything(tmp_path, capfd, kind):
    numbers = []

    def run_trial(number: int, chosen: Mapping[str, Any], epochs: int | None) -> float:
        numbers.append(number)
        if number % 2 == 0:
            raise oracles.FailedTrialError("the loss is nan")
        return 1.0

    oracle = oracles.make_oracle(kind, GRID, objective="val/loss", mode="min", trials=6, epochs=9, seed=0)
    oracles.search(oracle, GRID, tmp_path, run_trial)
    assert numbers == list(range(6))
    assert capfd.readouterr().out == ""
