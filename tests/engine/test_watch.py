"""Signs of life in a store, here one of this process; `tests/scenarios/test_ranks.py` has real processes."""

from __future__ import annotations

import pytest

from lightkeras.engine import watch
from lightkeras.engine.watch import Watch, first_line


class Shared:
    """The store, of two processes."""

    def __init__(self):
        self.values = {}

    def set(self, key, value):
        self.values[key] = value

    def get(self, key):
        return self.values[key].encode()

    def multi_get(self, keys):
        return [self.get(key) for key in keys]

    def check(self, keys):
        return all(key in self.values for key in keys)

    def compare_set(self, key, expected, value):
        self.values.setdefault(key, value)


@pytest.fixture
def both():
    store = Shared()
    return [Watch(store, rank, 2) for rank in range(2)]


def test_an_error_of_a_process_is_its_last_words_for_the_others(both):
    first, second = both
    with first.active():
        assert first.last_words() is None
        with pytest.raises(ValueError, match="no paper") as raised, second.active():
            raise ValueError("no paper")
        assert raised.value.__notes__ == ["(on rank 1 of 2)"]
        assert first.last_words() == "Rank 1 ended with ValueError: no paper"
        assert first.explain(RuntimeError("Connection closed")) == "Rank 1 ended with ValueError: no paper"
        assert (first.has_failed, second.has_failed) == (False, True)


def test_what_failed_first_is_kept_and_the_next_run_begins_anew(both):
    first, second = both
    with first.active(), second.active():
        first.fail("the first")
        second.fail("the second")
        assert second.last_words() == "the first"
    with first.active(), second.active():
        assert first.last_words() is None
        assert not first.has_failed


def test_an_error_inside_another_context_is_told_by_the_outermost(both):
    (first, second) = both
    with first.active(), second.active():
        with pytest.raises(KeyError), first.active():
            raise KeyError("handled outside")
        assert second.last_words() is None


def test_a_process_without_a_sign_of_life_is_named(both, monkeypatch):
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0.3)
    first, second = both
    with first.active(), second.active():
        found = first.explain(RuntimeError("Connection closed"))
        assert found.startswith("Rank 1 of 2 gives no sign of life: it was killed")
        assert second.last_words() == found


def test_a_process_that_lives_is_not_lost(both, monkeypatch):
    monkeypatch.setattr(watch, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(watch, "_BEAT_SECONDS", 0.02)
    first, second = both
    with first.active():
        second.begin()
        try:
            assert first.explain(RuntimeError("out of memory")) is None
        finally:
            second.end()


def test_the_first_line_of_an_error():
    assert first_line(RuntimeError("one\ntwo")) == "one"
    assert first_line(RuntimeError()) == "RuntimeError"
