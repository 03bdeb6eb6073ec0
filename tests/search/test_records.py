"""The state of a search's runs follows from the events of its journal."""

import dataclasses
import math

import pytest

from lightkeras.search.records import COMPLETED, FAILED, Outcome, Record, Records, Stop, check_event


def asked(trial="a", status="RUNNING", **more):
    return {"event": "asked", "status": status, "trial": trial, "values": {"x": 1}, "epochs": 3, "parent": None} | more


def ended(run, value=0.5, status=COMPLETED):
    return {"event": "ended", "run": run, "outcome": dataclasses.asdict(Outcome(status, "", value))}


def after(*events):
    records = Records()
    for event in events:
        records.apply(event)
    return records


def test_a_trial_is_named_by_its_number_and_knows_the_one_that_it_continues():
    records = after(asked("a"), asked("b", parent="a"))
    assert list(records.runs) == ["trials/0000", "trials/0001"]
    found = records.runs["trials/0001"]
    assert found == Record("trials/0001", {"x": 1}, "b", 3, "trials/0000")
    assert (found.number, records.trials()) == ("0001", list(records.runs.values()))


def test_an_oracle_that_waits_or_has_ended_gives_no_trial():
    records = after(asked(status="IDLE"))
    assert (records.runs, records.idle, records.exhausted) == ({}, True, False)
    records.apply(asked())
    assert not records.idle
    records.apply(asked(status="IDLE"))
    records.apply(ended("trials/0000"))
    assert not records.idle  # the oracle may now have another one
    records.apply(asked(status="STOPPED"))
    records.apply(asked(status="IDLE"))
    assert (records.idle, records.exhausted) == (True, True)


def test_runs_without_a_worker_are_unfinished_until_they_end():
    records = after(asked("a"), asked("b"))
    first, second = records.runs.values()
    first.worker = 0
    assert (records.working(), records.unfinished()) == ([first], [second])
    records.apply({"event": "lost", "run": first.name, "reason": "killed"})
    assert (first.worker, first.lost, records.working()) == (None, ["killed"], [])
    first.worker = 1
    records.apply(ended(first.name))
    assert (first.worker, first.outcome) == (None, Outcome(COMPLETED, "", 0.5))
    assert records.unfinished() == [second]


def test_reports_that_are_repeated_replace_those_from_their_epoch_on():
    report = {"event": "reported", "run": "trials/0000"}
    records = after(asked(), *({**report, "epoch": epoch, "value": value} for epoch, value in ((1, 3.0), (2, 2.0))))
    records.apply({**report, "epoch": 2, "value": 1.0})
    assert records.runs["trials/0000"].reports == [(1, 3.0), (2, 1.0)]
    records.apply({**report, "epoch": 3, "value": None})
    assert math.isnan(records.runs["trials/0000"].reports[-1][1])


def test_a_decision_to_stop_is_kept():
    records = after(asked(), {"event": "stopped", "run": "trials/0000", "epoch": 2, "status": FAILED, "reason": "nan"})
    assert records.runs["trials/0000"].stopped == Stop(2, FAILED, "nan")


def test_runs_after_the_trials_are_not_trials():
    records = after(asked(), {"event": "planned", "stage": "refit", "runs": [{"name": "refit", "values": {}}]})
    assert (records.planned, len(records.trials()), len(records.runs)) == ({"refit"}, 1, 2)


def test_completed_trials_are_ranked_in_the_direction_that_is_better_and_of_equals_the_earlier_is_first():
    records = after(*(asked(name) for name in "abcde"))
    outcomes = [(0.5, COMPLETED), (0.7, COMPLETED), (0.5, COMPLETED), (None, FAILED)]
    for number, (value, status) in enumerate(outcomes):
        records.apply(ended(f"trials/{number:04d}", value, status))
    assert [run.number for run in records.ranked("max")] == ["0001", "0000", "0002"]
    assert [run.number for run in records.ranked("min")] == ["0000", "0002", "0001"]


def test_an_event_of_a_later_version_is_refused_and_a_correction_changes_nothing():
    assert after({"event": "corrected"}) == Records()
    with pytest.raises(ValueError, match="The journal has an event 'mended', which this version does not know"):
        after({"event": "mended"})


def test_a_search_that_was_extended_asks_and_plans_anew():
    records = after(asked(), {"event": "planned", "stage": "seeds", "runs": []}, asked(status="STOPPED"))
    assert (records.exhausted, records.planned) == (True, {"seeds"})
    records.apply(asked(status="IDLE"))
    records.apply({"event": "extended"})
    assert (records.exhausted, records.idle, records.planned) == (False, False, set())


def test_a_planned_run_has_what_is_given_and_defaults_and_a_joined_one_is_a_refit():
    run = {"name": "seeds/0000-1", "values": {"x": 2}, "epochs": 4, "seed": 7, "later": 1}
    records = after(
        {"event": "planned", "stage": "seeds", "runs": [run, {"name": "refit", "values": {}, "joined": True}]}
    )
    assert records.runs["seeds/0000-1"] == Record("seeds/0000-1", {"x": 2}, epochs=4, seed=7)
    assert records.refits() == [records.runs["refit"]]
    assert records.trials() == []
    outcome = {**dataclasses.asdict(Outcome(FAILED, "nan")), "of a later version": 1}
    records.apply({"event": "ended", "run": "refit", "outcome": outcome})
    assert records.runs["refit"].outcome == Outcome(FAILED, "nan")


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (
            {"event": "lost", "run": "trials/0009", "reason": ""},
            r"an event of the run 'trials/0009', which was not",
        ),
        (asked("c", parent="z"), r"^The journal has a trial 'c' that continues the unknown ''\.$"),
        (asked(None), r"^The journal has a trial None that continues the unknown None\.$"),
    ],
)
def test_an_event_that_does_not_follow_is_refused(event, message):
    with pytest.raises(ValueError, match=message):
        after(asked("a"), event)


def test_the_form_of_an_event_is_checked():
    check_event(asked())
    check_event({"event": "of a later version", "whatever": 1})
    check_event({"event": "reported", "run": "a", "epoch": 0, "value": None})
    for event, problem in [
        ({"event": "reported", "run": "a", "epoch": -1, "value": 1.0}, "epoch"),
        ({"event": "stopped", "run": "a", "epoch": 1, "status": "completed", "reason": ""}, "status"),
        ({"event": "planned", "stage": "refit", "runs": [{"name": "../x", "values": {}}]}, "name"),
        ({"event": "lost", "run": "a"}, "reason"),
    ]:
        with pytest.raises(ValueError, match=rf"^an event '{event['event']}': .*{problem}.*\.$"):
            check_event(event)
