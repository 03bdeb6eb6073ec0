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
def keeps(monkeypatch):
    for name in ("_kept", "_built"):
        monkeypatch.setattr(reuse, name, {})
    monkeypatch.setattr(reuse, "_keeps", [])
    reuse.begin()


def test_elsewhere_nothing_is_kept():
    first = reuse.module(Numbers(2))
    reuse.settle(ended_well=True)
    assert reuse.module(Numbers(2)) is not first
    assert [reuse.once(("key",), lambda n=n: n) for n in (1, 2)] == [1, 2]


def test_a_module_of_the_same_settings_is_the_one_that_was_used(keeps):
    first = reuse.module(Numbers(2))
    reuse.settle(ended_well=True)
    assert reuse.module(Numbers(2)) is first
    assert reuse.module(Numbers(3)) is not first
    assert reuse.module(None) is None


def test_after_a_run_that_did_not_end_well_the_next_begins_anew(keeps):
    first = reuse.module(Numbers(2))
    reuse.settle(ended_well=False)
    assert reuse.module(Numbers(2)) is not first


def test_a_stream_is_never_kept(keeps):
    first = reuse.module(Numbers(2, stream=True))
    reuse.settle(ended_well=True)
    assert reuse.module(Numbers(2, stream=True)) is not first


def test_what_holds_arrays_is_used_as_it_is(keeps):
    first = reuse.module(ArrayData((X, X), batch_size=2))
    reuse.settle(ended_well=True)
    assert reuse.module(ArrayData((X, X), batch_size=2)) is not first


def test_what_was_read_is_read_once(keeps):
    assert [reuse.once(("key", 1), lambda n=n: n) for n in (1, 2)] == [1, 1]
    assert reuse.once(("key", 2), lambda: 3) == 3
