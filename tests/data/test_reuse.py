"""Data that is prepared once in a process of several runs."""

from __future__ import annotations

import numpy as np
import pytest

from lightkeras.data import ArrayData, ArrayFeed, DataModule, as_feed, reuse

X = np.zeros((4, 1), np.float32)


class Numbers(DataModule):
    """Held in memory, or a stream."""

    def __init__(self, count: int, stream: bool = False) -> None:
        self.count, self.stream = count, stream

    def train(self):
        if self.stream:
            return as_feed(lambda: iter([X[: self.count]]))
        return ArrayFeed(X[: self.count], 2)


@pytest.fixture
def enabled(monkeypatch):
    for name in ("_cache", "_used_by_run"):
        monkeypatch.setattr(reuse, name, {})
    monkeypatch.setattr(reuse, "_enabled", False)
    reuse.enable()


def test_without_enable_nothing_is_reused():
    first = reuse.reused_module(Numbers(2))
    reuse.commit(ended_well=True)
    assert reuse.reused_module(Numbers(2)) is not first
    assert [reuse.memoized(("key",), lambda n=n: n) for n in (1, 2)] == [1, 2]


def test_a_module_of_the_same_settings_is_the_one_that_was_used(enabled):
    first = reuse.reused_module(Numbers(2))
    reuse.commit(ended_well=True)
    assert reuse.reused_module(Numbers(2)) is first
    assert reuse.reused_module(Numbers(3)) is not first
    assert reuse.reused_module(None) is None


def test_after_a_run_that_did_not_end_well_the_next_begins_anew(enabled):
    first = reuse.reused_module(Numbers(2))
    reuse.commit(ended_well=False)
    assert reuse.reused_module(Numbers(2)) is not first


def test_a_module_of_streams_is_never_reused(enabled):
    first = reuse.reused_module(Numbers(2, stream=True))
    reuse.commit(ended_well=True)
    assert reuse.reused_module(Numbers(2, stream=True)) is not first


def test_what_holds_arrays_is_used_as_it_is(enabled):
    first = reuse.reused_module(ArrayData((X, X), batch_size=2))
    reuse.commit(ended_well=True)
    assert reuse.reused_module(ArrayData((X, X), batch_size=2)) is not first


def test_what_was_read_is_read_once(enabled):
    assert [reuse.memoized(("key", 1), lambda n=n: n) for n in (1, 2)] == [1, 1]
    assert reuse.memoized(("key", 2), lambda: 3) == 3
