"""RunState: every field that is saved comes back, and older states are read."""

import dataclasses
import json
import math

from lightkeras.runs.results import Best
from lightkeras.training.decisions import Patience
from lightkeras.training.run_state import RunState


def full() -> RunState:
    """A state in which every saved field differs from its default."""
    return RunState(
        patience=Patience("max", 0.5, 2),
        step=11,
        epochs=3,
        batches_done=2,
        validations=4,
        validated=(9, {"val/loss": 0.25}),
        best=Best(2, 8, 0.5, {"val/loss": 0.5}),
        history={"val/loss": [0.75, 0.5]},
        skipped=[3],
        drawn=[8],
        opened_to_draw=1,
    )


def test_a_state_comes_back_from_json_as_it_was():
    found = RunState(Patience("min"))
    found.restore(json.loads(json.dumps(full().to_json())))
    assert found == full()


def test_every_field_is_saved_except_why_training_ends():
    state, default = full(), RunState(Patience("min"))
    fields = {field.name for field in dataclasses.fields(RunState)}
    assert {name for name in fields if getattr(state, name) == getattr(default, name)} == {
        *("not_finite", "stop_reason", "diverged"),
    }
    state.stop_reason, state.diverged, state.not_finite = "max_epochs=3 reached", True, math.nan
    assert state.to_json() == full().to_json()


def test_the_names_in_a_checkpoint_stay_those_of_earlier_versions():
    keys = "best done drawn epochs history opened_to_draw progress skipped step validated validations"
    assert sorted(full().to_json()) == keys.split()


def test_a_field_that_an_older_checkpoint_lacks_keeps_its_default():
    saved = full().to_json()
    del saved["drawn"], saved["opened_to_draw"]
    found = RunState(Patience("min"))
    found.restore({**saved, "means": {}, "logs": {}})
    assert (found.drawn, found.opened_to_draw, found.step) == ([], 0, 11)


def test_what_is_saved_does_not_change_with_the_state():
    state = full()
    saved = state.to_json()
    state.history["val/loss"].append(math.nan)
    state.skipped.append(12)
    assert saved == full().to_json()
    found = RunState(Patience("min"))
    found.restore(saved)
    found.history["val/loss"].append(0.1)
    assert saved == full().to_json()


def test_the_weights_are_validated_at_the_step_of_the_last_validation_alone():
    state = full()
    assert not state.validated_now
    state.step = 9
    assert state.validated_now
    assert not RunState(Patience("min")).validated_now
