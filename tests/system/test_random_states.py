"""The global generators."""

from __future__ import annotations

import json
import random

import numpy as np

from lightkeras.system import random_states


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), float(np.random.normal()), float(np.random.rand())]


def test_the_draws_after_a_state_was_set_are_those_after_it_was_read() -> None:
    random.seed(1)
    np.random.seed(1)
    draws()  # leaves half a pair of normal numbers in both generators
    state = json.loads(json.dumps(random_states.read()))
    expected = draws()
    assert draws() != expected
    random_states.write(state)
    assert draws() == expected
