"""A pool is made of a task that other processes can import."""

from __future__ import annotations

import pytest

import lightkeras as lk
from lightkeras.search.workers.launch import reference_of
from lightkeras.testing import TwoMoons


def test_a_class_that_no_other_process_can_import_is_refused():
    class Local(TwoMoons):
        """Only here."""

    with pytest.raises(TypeError, match=r"Local cannot be imported from .*: define it at the top of a file.*workers=0"):
        reference_of(Local)
    with pytest.raises(TypeError, match=r"search in this process with workers=0"):
        lk.Tuner(Local, workers=1).search()
