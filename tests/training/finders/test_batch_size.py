"""The batch-size finder: what it tries, and where it stops."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import lightkeras as lk
from lightkeras.system import memory
from lightkeras.testing import TwoMoons, two_moons
from lightkeras.training.finders import batch_size


def find_size(task: lk.Task, *data: Any, **settings: Any) -> Any:
    return lk.Runner(progress=False).find_batch_size(task, *data, **settings)


def test_powers_of_two_up_to_the_number_of_examples_are_tried():
    found = find_size(TwoMoons())
    assert [tried.size for tried in found.tried] == [8, 16, 32, 64, 128, 256]
    assert all(tried.fits for tried in found.tried)
    assert found.suggestion == 256
    assert found.reason == "256 is the largest power of two up to the 320 examples"
    for tried in found.tried:
        assert tried.seconds_per_step > 0
        assert tried.examples_per_second == pytest.approx(tried.size / tried.seconds_per_step)
        assert tried.memory_bytes >= 0


def test_an_upper_bound_ends_it_earlier():
    found = find_size(TwoMoons(), two_moons(64), low=4, high=20)
    assert [tried.size for tried in found.tried] == [4, 8, 16]
    assert found.reason == "16 is the largest power of two up to high=20"


class Sized(TwoMoons):
    """Notes the sizes of the batches it learns from, which are known while its step is compiled."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = set()

    def train_step(self, batch):
        self.seen.add(batch[0].shape[0])
        return super().train_step(batch)


def test_steps_are_run_with_batches_of_the_size_and_no_other():
    task = Sized()
    find_size(task, two_moons(50), high=16)
    assert task.seen - {None} == {8, 16}  # None: while the step is traced, for all sizes


class Large(TwoMoons):
    """Asks for 2 to the power of 60 numbers at once after it learned from a batch of 32."""

    def train_step(self, batch):
        loss = super().train_step(batch)
        width = 2**56 if batch[0].shape[0] == 32 else 1
        # Sorted, because a compiler may sum without holding what it sums.
        return loss + 0.0 * ops.sum(ops.sort(ops.broadcast_to(batch[0][:16, :1], (16, width))))


def test_a_batch_that_runs_out_of_memory_does_not_fit():
    task = Large()
    found = find_size(task, low=16)
    assert [(tried.size, tried.fits) for tried in found.tried] == [(16, True), (32, False)]
    assert found.tried[-1].seconds_per_step is None
    assert found.tried[-1].memory_bytes is None
    assert found.suggestion == 16
    assert re.fullmatch(r"32 ran out of memory \(\w*Error\)", found.reason)
    assert int(task.optimizer.iterations) == 0  # what it had learned before it failed is undone


class Wide(TwoMoons):
    """Holds about 8 MB per example."""

    def loss(self, batch, training):
        points, _ = batch
        wide = ops.exp(ops.tile(points[:, :1], (1, 1 << 21)) * 1e-3)
        return super().loss(batch, training) + 1e-9 * ops.mean(wide)


@pytest.mark.backends("tensorflow", "torch", reason="XLA never holds the 8 MB")
def test_a_batch_is_not_tried_where_it_would_take_more_memory_than_there_may_be():
    limit = memory.resident_bytes() + (1 << 30)
    found = find_size(Wide(), low=2, steps=1, memory_bytes=limit)
    *fitting, last = found.tried
    assert all(tried.fits for tried in fitting)
    assert found.suggestion == fitting[-1].size
    assert 4 <= found.suggestion <= 128  # 128 of them are 1 GB
    assert last.size == 2 * found.suggestion
    assert not last.fits
    assert last.seconds_per_step is None  # it was not tried
    assert last.memory_bytes >= 2 * fitting[-1].memory_bytes
    assert found.reason.startswith(f"{last.size} would bring the process to about ")
    assert found.reason.endswith(f"; it may hold {limit / 1e9:.2f} GB")


def test_a_first_size_that_takes_more_than_it_may_does_not_fit():
    found = find_size(TwoMoons(), memory_bytes=1)
    assert [(tried.size, tried.fits) for tried in found.tried] == [(8, False)]
    assert found.suggestion is None
    assert found.reason.startswith("8 brought the process to ")


CGROUP = Path(f"/sys/fs/cgroup/memory/lightkeras-test-{os.getpid()}")


@pytest.fixture
def control_group():
    """A control group of version 1 that may hold 3 GB."""
    try:
        CGROUP.mkdir()
    except OSError:
        pytest.skip("no control group of version 1 can be made here")
    try:
        (CGROUP / "memory.limit_in_bytes").write_text(str(3 << 30))
        yield CGROUP
    finally:
        CGROUP.rmdir()


@pytest.mark.backends("tensorflow", "torch", reason="XLA never holds the 8 MB")
def test_a_process_stays_below_the_memory_limit_of_its_control_group(control_group):
    program = f"""
import json, os, sys
open({str(control_group / "cgroup.procs")!r}, "w").write(str(os.getpid()))
sys.path.insert(0, {str(Path(__file__).parent)!r})
import lightkeras as lk
from test_batch_size import Wide
from lightkeras.testing import two_moons
found = lk.Runner().find_batch_size(Wide(), two_moons(4096), low=4, steps=1)
print(json.dumps([found.suggestion, found.reason]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # -9 is what the kernel's end looks like
    suggestion, reason = json.loads(done.stdout.splitlines()[-1])
    assert 8 <= suggestion <= 384  # 384 of them are 3 GB
    assert "would bring the process to about" in reason


def test_the_memory_of_the_next_size_is_twice_that_of_the_last_or_more_if_it_grew_faster():
    assert batch_size.memory_next([], 7) is None
    assert batch_size.memory_next([100], 7) == 200
    assert batch_size.memory_next([100, 110], 7) == 220  # most of it does not depend on the size
    assert batch_size.memory_next([100, 300], 7) == 900
    assert batch_size.memory_next([0, 0], 7) == 0


def test_memory_that_the_process_had_kept_may_have_been_used_before_more_was_taken():
    assert batch_size.memory_next([0, 50], 7) == 107
    assert batch_size.memory_next([10, 50], 7) == 107


class Streamed(TwoMoons):
    """Its data are a stream, in batches of the hyperparameter."""

    def build_data(self):
        size = self.hp.batch_size

        class Stream(lk.DataModule):
            def train(self):
                return lk.data.as_feed(tf.data.Dataset.from_tensor_slices(two_moons(100)).batch(size))

        return Stream()


def test_a_stream_is_made_anew_by_the_task_with_each_size():
    task = Streamed()
    found = find_size(task)
    assert [tried.size for tried in found.tried] == [8, 16, 32, 64]
    assert found.reason == "there are fewer than 128 examples"
    assert task.hp == Streamed.HParams()


def test_a_stream_whose_batches_are_not_those_asked_for_is_refused():
    class Fixed(Streamed):
        def build_data(self):
            self.hp, before = dataclasses.replace(self.hp, batch_size=20), self.hp
            try:
                return super().build_data()
            finally:
                self.hp = before

    message = r"Fixed\.build_data gave a first batch of 20 examples where 8 were expected\. Use self\.hp\.batch_size"
    with pytest.raises(ValueError, match=message):
        find_size(Fixed())
    with pytest.raises(ValueError, match=r"gave a first batch of 20 examples where 32 were expected"):
        find_size(Fixed(), low=32)


def test_data_that_cannot_be_held_in_such_batches_do_not_fit():
    class Padded(Streamed):
        """Makes room for all that a batch might be."""

        def build_data(self):
            np.empty(2**55 if self.hp.batch_size == 16 else 1)
            return super().build_data()

    found = find_size(Padded())
    assert [(tried.size, tried.fits) for tried in found.tried] == [(8, True), (16, False)]
    assert found.reason == "16 ran out of memory (MemoryError)"
    found = find_size(Padded(), low=16)
    assert found.suggestion is None


def test_a_stream_that_is_given_cannot_be_varied():
    dataset = tf.data.Dataset.from_tensor_slices(two_moons(64)).batch(8)
    with pytest.raises(
        ValueError, match=r"is a stream of batches, so their size cannot be varied.*Give arrays, or a task with"
    ):
        find_size(TwoMoons(), dataset)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 12}, r"low=12: expected a power of two, such as 8"),
        ({"low": 0}, r"low=0: expected a whole number of at least 1"),
        ({"low": 16, "high": 8}, r"low=16, high=8: expected low to be at most high"),
        ({"low": 512}, r"low=512: the train split has 320 examples\. Lower low to at most that"),
        ({"steps": 0}, r"steps=0: expected a whole number of at least 1"),
        ({"memory_bytes": 0.5}, r"memory_bytes=0\.5: expected a whole number of at least 1"),
    ],
)
def test_sizes_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        find_size(TwoMoons(), **settings)


def sizes(low, high, examples):
    return batch_size.SizeSearch(low, high, 1, None).sizes(examples)


@pytest.mark.parametrize(
    ("low", "high", "examples", "expected"),
    [
        (1, None, 1, [1]),
        (4, None, 8, [4, 8]),
        (4, None, 9, [4, 8]),
        (4, 8, None, [4, 8]),
        (4, 7, 100, [4]),
        (8, 8, 8, [8]),
        (2, 100, 5, [2, 4]),
    ],
)
def test_the_sizes_are_the_powers_of_two_up_to_the_smaller_bound(low, high, examples, expected):
    assert sizes(low, high, examples) == expected


def test_without_a_bound_sizes_end_at_two_to_the_thirtieth():
    assert sizes(1 << 29, None, None) == [1 << 29, 1 << 30]
    with pytest.raises(ValueError, match=r"^low=8: the train split has 7 examples\. Lower low to at most that\.$"):
        sizes(8, None, 7)
    with pytest.raises(ValueError, match=r"^low=6: expected a power of two, such as 4\.$"):
        sizes(6, None, None)


def test_the_memory_of_the_next_size_at_the_border():
    assert batch_size.memory_next([100, 400], 7) == 1600  # four times: a loss that compares all pairs
    assert batch_size.memory_next([100, 401], 7) == 809  # more: memory that was kept
    assert batch_size.memory_next([5, 100, 150], 7) == 300
    assert batch_size._gb(1_234_000_000) == "1.23 GB"
