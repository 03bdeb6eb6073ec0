"""Where time goes: each second is counted in one part, and a profiled run's parts are its wall time."""

import keras
import pytest

from lightkeras.training.timing import PARTS, TimeLedger, counted

BACKEND = keras.backend.backend()


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def seconds(ledger):
    ledger.summary(0)
    return {name: value for name, value in ledger.seconds.items() if value}


# ---------------------------------------------------------------------- counting


def test_time_in_an_inner_part_is_its_own() -> None:
    clock = Clock()
    ledger = TimeLedger(clock)
    clock.now += 1
    with ledger.part("validation"):
        clock.now += 2
        with ledger.part("callbacks"):
            clock.now += 4
        clock.now += 8
    clock.now += 16
    assert seconds(ledger) == {"other": 17, "validation": 10, "callbacks": 4}


def test_a_part_that_ends_in_an_error_is_left() -> None:
    clock = Clock()
    ledger = TimeLedger(clock)

    def fail():
        with ledger.part("logging"):
            clock.now += 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.now += 2
    assert seconds(ledger) == {"other": 2, "logging": 1}


def test_no_more_is_moved_than_there_is() -> None:
    clock = Clock()
    ledger = TimeLedger(clock)
    with ledger.part("compute"):
        clock.now += 3
    ledger.move(1, "compute", "data")
    ledger.move(5, "compute", "compilation")
    assert seconds(ledger) == {"data": 1, "compilation": 2}


def test_a_method_is_counted_and_called_as_it_is() -> None:
    clock = Clock()

    class Saver:
        ledger = TimeLedger(clock)

        @counted("checkpoint")
        def save(self, count: int, *, by: int = 1) -> int:
            """Saves."""
            clock.now += count
            return count * by

    saver = Saver()
    assert saver.save(3, by=2) == 6
    assert (Saver.save.__name__, Saver.save.__doc__) == ("save", "Saves.")
    assert seconds(saver.ledger) == {"checkpoint": 3}


def test_shares_are_of_the_whole_and_steps_of_the_computing() -> None:
    clock = Clock()
    ledger = TimeLedger(clock)
    clock.now += 1
    with ledger.part("compute"):
        clock.now += 3
    summary = ledger.summary(steps=1000)
    assert (summary["wall_s"], summary["compute_us_per_step"]) == (4, 3000)
    assert summary["parts"]["compute"] == {"seconds": 3, "share": 0.75}
    assert list(summary["parts"]) == list(PARTS)
    assert TimeLedger(clock).summary(0)["compute_us_per_step"] is None


def test_a_summary_is_rounded_to_microseconds() -> None:
    clock = Clock()
    ledger = TimeLedger(clock)
    assert ledger.summary(1)["parts"]["other"] == {"seconds": 0, "share": 0.0}
    with ledger.part("compute"):
        clock.now += 1.12345678
    clock.now += 2
    summary = ledger.summary(2)
    assert (summary["wall_s"], summary["steps"]) == (3.123457, 2)
    assert summary["parts"]["compute"] == {"seconds": 1.123457, "share": 0.359684}
