"""The checkpoints of a run: when they are saved, which are kept, and which files exist at each moment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeras.runs import checkpoint
from lightkeras.runs.checkpoint import Captured
from lightkeras.system import files
from lightkeras.training import decisions
from lightkeras.training.saver import Checkpoints, Job, Saver


class Clock:
    """A fake clock, which advances when set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def saver_of(folder: Path, clock: Callable[[], float] | None = None, mode: str = "min", **settings) -> Saver:
    return Saver(folder, Checkpoints(**settings), mode, clock or Clock())


def offer(saver: Saver, step: int, value: float | None, *, improved: bool = False, due: bool = True) -> str:
    name = saver.new_name(step)
    saver.rank(name, improved, value)
    captured = Captured({"v": np.array(step, np.float32)}, {"v": {"path": "v", "dtype": "float32"}})
    job = Job(name, step, captured, {"kept": saver.record()}, {}, lambda: None)
    (saver.write if due else saver.hold)(job)
    return name


def on_disk(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*"))


def named(folder: Path, name: str) -> str:
    return checkpoint.find(folder, name).name


def test_the_last_the_one_before_it_and_the_best_are_kept(tmp_path):
    saver = saver_of(tmp_path)
    for step, value, improved in [(1, 3.0, True), (2, 1.0, True), (3, 2.0, False), (4, 5.0, False), (5, 6.0, False)]:
        offer(saver, step, value, improved=improved)
    saver.finish()
    assert on_disk(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    assert (named(tmp_path, "best"), named(tmp_path, "last")) == ("step-00000002", "step-00000005")


def test_what_the_one_before_the_last_calls_best_is_kept_too(tmp_path):
    saver = saver_of(tmp_path)
    offer(saver, 1, 3.0, improved=True)
    offer(saver, 2, 4.0)
    offer(saver, 3, 2.0, improved=True)
    saver.finish()
    assert on_disk(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]
    offer(saver, 4, 5.0)
    saver.finish()
    assert on_disk(tmp_path) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize(("mode", "kept"), [("min", [2, 5, 6]), ("max", [1, 3, 5, 6])])
def test_as_many_of_the_best_are_kept_as_were_asked_for(tmp_path, mode, kept):
    saver = saver_of(tmp_path, mode=mode, keep=2)
    for step, value in enumerate([9.0, 1.0, 8.0, 4.0, 3.0, 5.0], 1):
        offer(saver, step, value)
    saver.finish()
    assert on_disk(tmp_path) == [f"step-{step:08d}" for step in kept]


def test_one_of_the_best_that_is_not_due_waits_for_the_next_and_is_written_before_it(tmp_path):
    saver = saver_of(tmp_path)
    offer(saver, 1, 3.0, improved=True)
    offer(saver, 2, 2.0, improved=True, due=False)
    saver.finish()
    assert (named(tmp_path, "best"), named(tmp_path, "last")) == ("step-00000002", "step-00000001")
    offer(saver, 3, 1.0, improved=True, due=False)
    offer(saver, 4, 0.5, improved=True, due=False)  # takes the place of the one that waits
    offer(saver, 5, 7.0)
    saver.finish()
    assert on_disk(tmp_path) == ["step-00000001", "step-00000004", "step-00000005"]
    assert (named(tmp_path, "best"), named(tmp_path, "last")) == ("step-00000004", "step-00000005")


def test_logs_are_on_the_disk_before_the_checkpoint_that_refers_to_them(tmp_path):
    seen = []
    saver = saver_of(tmp_path)
    captured = Captured({}, {})
    saver.write(Job(saver.new_name(1), 1, captured, {}, {}, lambda: seen.append(on_disk(tmp_path))))
    saver.finish()
    assert seen == [[]]
    assert on_disk(tmp_path) == ["step-00000001"]


def test_a_write_that_fails_is_raised_by_the_next_and_the_good_ones_stay(tmp_path, monkeypatch):
    saver = saver_of(tmp_path)
    offer(saver, 1, 3.0, improved=True)
    saver.finish()

    def full(path, *parts):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_synced", full)
        offer(saver, 2, 2.0, improved=True)
        with pytest.raises(OSError, match=r"could not write .*step-00000002: No space left on device"):
            saver.finish()
    saver.close()
    assert on_disk(tmp_path) == ["step-00000001"]
    assert (named(tmp_path, "best"), named(tmp_path, "last")) == ("step-00000001", "step-00000001")
    assert sorted(os.listdir(tmp_path)) == ["best", "last", "step-00000001"]


def test_a_resume_restores_the_names_and_removes_later_checkpoints(tmp_path):
    saver = saver_of(tmp_path)
    offer(saver, 1, 3.0, improved=True)
    second = offer(saver, 2, 4.0)
    offer(saver, 3, 2.0, improved=True)
    saver.finish()
    found = checkpoint.load(tmp_path / second)
    again = saver_of(tmp_path)
    again.restore(second, found.state)
    assert on_disk(tmp_path) == ["step-00000001", "step-00000002"]
    assert (named(tmp_path, "best"), named(tmp_path, "last")) == ("step-00000001", "step-00000002")
    assert (again.best, again.top, again.last_step) == ("step-00000001", [(3.0, "step-00000001")], 2)
    offer(again, 3, 2.0, improved=True)
    again.finish()
    assert on_disk(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]


def test_a_resume_drops_a_best_checkpoint_saved_beside_the_run(tmp_path):
    saver = saver_of(tmp_path)
    last = offer(saver, 7, 3.0, improved=True)
    name = saver.new_name(7)
    saver.finish(best=Job(name, 7, Captured({}, {}), {"kept": saver.record()}, {}, lambda: None))
    assert name == "step-00000007-1"
    assert (named(tmp_path, "best"), named(tmp_path, "last")) == (name, last)
    saver_of(tmp_path).restore(last, checkpoint.load(tmp_path / last).state)
    assert on_disk(tmp_path) == [last]
    assert named(tmp_path, "best") == last


def test_with_an_interval_it_is_due_at_the_interval_alone(tmp_path):
    by_steps = saver_of(tmp_path, every_steps=5)
    assert [step for step in range(1, 21) if by_steps.is_due(step, None)] == [5, 10, 15, 20]
    assert not by_steps.is_due(7, 1)
    by_epochs = saver_of(tmp_path, every_epochs=2)
    assert [epoch for epoch in range(1, 7) if by_epochs.is_due(10 * epoch, epoch)] == [2, 4, 6]
    assert not by_epochs.is_due(20, None)
    clock = Clock()
    by_minutes = saver_of(tmp_path, clock, every_minutes=0.5)
    assert not by_minutes.is_due(1, 1)
    clock.now += 30
    assert by_minutes.is_due(2, None)
    offer(by_minutes, 2, None)
    by_minutes.finish()
    assert not by_minutes.is_due(3, None)


def test_by_itself_it_saves_after_epochs_and_every_ten_minutes_within_two_percent_of_the_time(tmp_path, monkeypatch):
    clock = Clock()
    saver = saver_of(tmp_path, clock)
    assert saver.is_due(1, 1)  # nobody knows yet what one costs
    assert not saver.is_due(1, None)
    write = checkpoint.save

    def slow(*arguments):
        clock.now += 2
        write(*arguments)

    monkeypatch.setattr(checkpoint, "save", slow)
    offer(saver, 1, None)
    saver.finish()
    assert saver.spent == 2
    clock.now = 100 + 199
    assert not saver.is_due(2, 2)  # 4 of 199 seconds would be more than 2 %
    clock.now = 100 + 200
    assert saver.is_due(2, 2)
    assert not saver.is_due(2, None)
    clock.now = 100 + 602
    assert saver.is_due(2, None)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=12), st.integers(1, 3))
def test_whatever_comes_last_and_best_and_all_they_refer_to_are_there(tmp_path_factory, events, keep):
    folder = tmp_path_factory.mktemp("checkpoints")
    saver = saver_of(folder, keep=keep)
    best, names = None, []
    for step, (value, due) in enumerate(events, 1):
        improved = decisions.is_better(value, best, "min")
        best = value if improved else best
        if due or improved or saver.is_among_best(value):
            names.append((value, offer(saver, step, value, improved=improved, due=due or step == 1)))
        saver._join()
        last = checkpoint.load(checkpoint.find(folder, "last"))
        kept = last.state["kept"]
        for name in {kept["best"]} | {name for _, name in kept["top"]}:
            checkpoint.verify(folder / name)
    saver.finish()
    assert checkpoint.load(checkpoint.find(folder, "best")).path.name == saver.best
    assert min(names)[0] == best
    saver.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_steps": 0}, r"Checkpoints\(every_steps=0\): expected a whole number of at least 1"),
        ({"every_epochs": True}, r"Checkpoints\(every_epochs=True\)"),
        ({"keep": 0}, r"Checkpoints\(keep=0\)"),
        ({"every_minutes": -1.0}, r"every_minutes=-1.0\): expected a number above 0"),
        ({"keep_mode": "up"}, r"keep_mode='up'\): expected 'min', 'max' or None"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Checkpoints(**settings)


def test_an_automatic_saver_has_no_interval_and_the_best_are_told_apart_by_their_mode(tmp_path):
    assert Checkpoints().automatic
    for setting in ({"every_steps": 1}, {"every_minutes": 1.0}, {"every_epochs": 1}):
        assert not Checkpoints(**setting).automatic
    for minutes in (0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="expected a number above 0"):
            Checkpoints(every_minutes=minutes)
    for mode, better, worse in (("min", 1.0, 3.0), ("max", 3.0, 1.0)):
        saver = saver_of(tmp_path / mode, mode=mode, keep=2)
        assert not saver.is_among_best(None)
        assert saver.is_among_best(worse)
        saver.rank("a", True, 2.0)
        saver.rank("b", False, 2.0)
        assert (saver.is_among_best(better), saver.is_among_best(2.0), saver.is_among_best(worse)) == (
            True,
            False,
            False,
        )
        assert saver.kept() == {"a", "b"}


def test_a_best_that_is_held_becomes_the_last_and_is_written_once(tmp_path):
    saver = saver_of(tmp_path)
    offer(saver, 1, 3.0, improved=True)
    name = offer(saver, 2, 2.0, improved=True, due=False)
    assert saver.write_held()
    assert not saver.write_held()
    saver.finish()
    assert on_disk(tmp_path) == ["step-00000001", name]
    assert (named(tmp_path, "best"), named(tmp_path, "last"), saver.last) == (name, name, name)


def test_one_that_is_held_and_no_longer_kept_is_not_written(tmp_path):
    saver = saver_of(tmp_path)
    offer(saver, 1, 3.0, improved=True, due=False)
    saver.rank("step-00000009", True, 1.0)
    assert not saver.write_held()
    saver.finish()
    assert on_disk(tmp_path) == []


def test_a_large_state_is_first_saved_when_its_share_of_the_time_has_passed(tmp_path):
    clock = Clock()
    saver = Saver(tmp_path, Checkpoints(), "min", clock, state_bytes=2 * 10**9)
    clock.now = 199.0
    assert not saver.is_due(1, 1)
    clock.now = 200.0  # 2 s are 2 % of 100
    assert saver.is_due(1, 1)


def test_what_a_large_state_holds_is_known_while_it_waits_and_while_it_is_written(tmp_path):
    saver = Saver(tmp_path, Checkpoints(), "min", Clock(), state_bytes=10**9)
    small = saver_of(tmp_path / "small")
    assert not saver.holds_large
    for one in (saver, small):
        offer(one, 1, 3.0, improved=True, due=False)
    assert (saver.holds_large, small.holds_large) == (True, False)
    free = threading.Event()
    captured = Captured({"v": np.zeros((), np.float32)}, {"v": {"path": "v", "dtype": "float32"}})
    saver.write(Job(saver.new_name(2), 2, captured, {}, {}, lambda: free.wait(60) and None))
    assert saver.holds_large
    free.set()
    saver.finish()
    assert not saver.holds_large
