"""A pool is made of a task that other processes can import."""

from __future__ import annotations

import pickle
import sys

import pytest

import lightkeras as lk
from lightkeras.search.workers import launch
from lightkeras.search.workers.launch import reference_of
from lightkeras.search.workers.pool import WorkerLimits
from lightkeras.testing import TwoMoons


def test_a_class_that_no_other_process_can_import_is_refused():
    class Local(TwoMoons):
        """Only here."""

    with pytest.raises(TypeError, match=r"Local cannot be imported from .*: define it at the top of a file.*workers=0"):
        reference_of(Local)
    with pytest.raises(TypeError, match=r"search in this process with workers=0"):
        lk.Tuner(Local, workers=1).search()


class Here(TwoMoons):
    """A task that other processes can import."""


def test_a_reference_gives_the_class_and_a_class_of_no_file_has_none(monkeypatch):
    assert pickle.loads(reference_of(TwoMoons)) is TwoMoons
    monkeypatch.setattr(Here, "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(TypeError, match=r"Here was not defined in a file\. Worker processes import the task by its"):
        reference_of(Here)


def test_a_pool_has_the_memory_and_the_threads_that_it_is_given(monkeypatch):
    made = []
    monkeypatch.setattr(launch, "LocalLauncher", lambda *given: made.append(given))
    monkeypatch.setattr(launch, "Pool", lambda launcher, workers, limits: (workers, limits))
    limits = WorkerLimits(memory_gb=1.5)
    assert launch.make_pool(TwoMoons, None, 2, limits, threads=5) == (2, limits)
    launch.make_pool(TwoMoons, None, 1, WorkerLimits())
    (setup, *given), (other, *default) = made
    assert (given, default) == ([2, 1.5e9, 5, 0.0], [1, None, None, 0.0])
    assert (setup.module, pickle.loads(setup.task)) == ("lightkeras.testing", TwoMoons)
    assert setup.token != other.token
