"""Worker processes on this machine."""

from __future__ import annotations

import os

from lightkeras.search.workers.launch import make_pool
from lightkeras.search.workers.pool import WorkerLimits
from lightkeras.testing import TwoMoons


def test_workers_divide_the_cores():
    cores = len(os.sched_getaffinity(0))
    with make_pool(TwoMoons, None, 2, WorkerLimits()) as pool:
        assert pool.threads == max(1, cores // 2)
        assert pool.idle() == [0, 1]
