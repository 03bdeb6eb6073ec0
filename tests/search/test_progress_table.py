"""The table that is shown while a search runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from lightkeras.hparams import Bool, Float
from lightkeras.runner import Runner
from lightkeras.search.coordinator import Coordinator, Plan
from lightkeras.search.journal import Journal
from lightkeras.search.oracles import Oracle
from lightkeras.search.progress_table import ProgressTable, _duration
from lightkeras.search.records import COMPLETED, FAILED, PRUNED, Outcome
from lightkeras.search.space import make_space


def declared() -> type:
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Declared:
        rate: float = Float(0.5, low=0.0, high=1.0)
        norm: bool = Bool(False)

    return Declared


def search(folder: Path, journal: Journal) -> Coordinator:
    space = make_space(declared(), {}, {})
    plan = Plan(folder, space, "val/accuracy", "max", Runner(max_epochs=9))
    return Coordinator(plan, journal, Oracle("random", space, "val/accuracy", "max", 5, 9, 0))


def console(terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def test_it_shows_what_runs_the_best_so_far_and_the_time_that_is_left(tmp_path):
    now = [0.0]
    with Journal(tmp_path / "journal.jsonl") as journal:
        coordinator = search(tmp_path, journal)
        view = ProgressTable(coordinator, 5, True, console(), lambda: now[0])
        for outcome in (Outcome(COMPLETED, "done", 0.75, 3, 30, 9), Outcome(FAILED, "diverged")):
            coordinator.end(coordinator.next(0).name, outcome)
        job = coordinator.next(0)
        for epoch, value in enumerate((0.5, 0.7, 0.6), 1):
            coordinator.report(job.name, epoch, value)
        now[0] = 80.0
        shown = console()
        shown.print(view.render())
    lines = [" ".join(line.split()) for line in shown.file.getvalue().splitlines()]
    assert lines[0] == "run epoch val/accuracy best hyperparameters"
    assert lines[1].startswith("trials/0002 3/9 0.6 0.7 rate 0.")
    assert " norm " in lines[1]
    assert lines[2] == "2 of 5 trials ended (1 completed, 1 failed), about 2 min 00 s left"  # 40 s each, three left
    assert lines[3] == "best so far: 0000, val/accuracy 0.75"


def test_no_time_is_estimated_before_a_trial_ended(tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        coordinator = search(tmp_path, journal)
        coordinator.next(0)
        shown = console()
        shown.print(ProgressTable(coordinator, 5, True, shown).render())
    assert shown.file.getvalue().splitlines()[-1].strip() == "0 of 5 trials ended"


def test_without_a_terminal_nothing_is_shown(tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        out = console(terminal=False)
        with ProgressTable(search(tmp_path, journal), 5, True, out) as view:
            view.show()
    assert out.file.getvalue() == ""


def test_on_a_terminal_it_is_shown_at_most_twice_a_second(tmp_path):
    now, out = [0.0], console()
    with Journal(tmp_path / "journal.jsonl") as journal:
        coordinator = search(tmp_path, journal)
        with ProgressTable(coordinator, 5, True, out, lambda: now[0]) as view:
            counts = []
            for now[0] in (0.0, 0.1, 0.6):
                view.show()
                counts.append(out.file.getvalue().count("trials ended"))
    assert counts == [1, 1, 2]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (59.4, "59 s"), (59.5, "1 min 00 s"), (61, "1 min 01 s"), (3599, "59 min 59 s"), (3660, "1 h 01 min")],
)
def test_a_duration_is_shown_in_two_units(seconds, shown):
    assert _duration(seconds) == shown


def test_only_trials_that_ended_here_tell_how_long_the_others_take(tmp_path):
    now = [10.0]
    with Journal(tmp_path / "journal.jsonl") as journal:
        coordinator = search(tmp_path, journal)
        coordinator.end(coordinator.next(0).name, Outcome(PRUNED, "worse", 0.25, 1, 5, 1))
        view = ProgressTable(coordinator, 3, True, console(), lambda: now[0])
        job = coordinator.next(0)
        assert view._row(coordinator.records.runs[job.name])[1:4] == ["0/9", "-", "-"]
        assert view._counted() + view._left() == "1 of 3 trials ended (1 pruned)"
        coordinator.end(job.name, Outcome(COMPLETED, "done", 0.75, 3, 30, 9))
        now[0] = 40.0
        assert view._counted() + view._left() == "2 of 3 trials ended (1 completed, 1 pruned), about 30 s left"
        endless = ProgressTable(coordinator, None, True, console(), lambda: now[0])
        assert endless._counted() + endless._left() == "2 trials ended (1 completed, 1 pruned)"
        over = ProgressTable(coordinator, 1, True, console(), lambda: now[0])
        over._ended_before, over._began = 0, 0.0
        assert over._left() == ", about 0 s left"


def test_a_table_that_is_not_wanted_is_not_shown_on_a_terminal(tmp_path):
    out = console()
    with (
        Journal(tmp_path / "journal.jsonl") as journal,
        ProgressTable(search(tmp_path, journal), 5, False, out) as view,
    ):
        view.show()
    assert out.file.getvalue() == ""
