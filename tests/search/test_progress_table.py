"""The table that is shown while a search runs."""

from __future__ import annotations

import io
from pathlib import Path

from lightkeras.hparams import Bool, Float
from lightkeras.runner import Runner
from lightkeras.search.coordinator import Coordinator, Plan
from lightkeras.search.journal import Journal
from lightkeras.search.oracles import Oracle
from lightkeras.search.progress_table import ProgressTable
from lightkeras.search.records import COMPLETED, FAILED, PRUNED, Outcome
from lightkeras.search.space import make_space
from lightkeras.system.console import Console
from lightkeras.system.display import Display


class Kept(Display):
    """A live display that counts how often it is drawn."""

    live = True
    refreshed = 0

    def refresh(self, soon: bool = False) -> None:
        self.refreshed += 1

    def print(self, line: str, mark: str = "") -> None:
        raise AssertionError(line)


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


def drawn(view: ProgressTable, width: int = 100) -> list[str]:
    shown = Console(file=io.StringIO(), width=width, color_system=None)
    shown.print(view)
    return [" ".join(line.split()) for line in shown.file.getvalue().splitlines()]


def test_it_shows_what_runs_the_best_so_far_and_the_time_that_is_left(tmp_path):
    now = [0.0]
    with Journal(tmp_path / "journal.jsonl") as journal:
        coordinator = search(tmp_path, journal)
        view = ProgressTable(coordinator, 5, Kept(), lambda: now[0])
        for outcome in (Outcome(COMPLETED, "done", 0.75, 3, 30, 9), Outcome(FAILED, "diverged")):
            coordinator.end(coordinator.next(0).name, outcome)
        job = coordinator.next(0)
        for epoch, value in enumerate((0.5, 0.7, 0.6), 1):
            coordinator.report(job.name, epoch, value)
        now[0] = 80.0
        view.update()
        lines, page = drawn(view), view._repr_html_()
    assert lines[1] == "┃ running ┃ epoch ┃ val/accuracy ┃ best ┃ rate ┃ norm ┃"
    assert lines[3].startswith("│ trials/0002 │ 3/9 │ 0.6 │ 0.7 │ 0.")
    assert lines[-2] == "2 of 5 trials ended (1 completed, 1 failed), about 2 min 00 s left"  # 40 s each, three left
    assert lines[-1] == "best so far: 0000, val/accuracy 0.75"
    assert page.index("trial<") < page.index("running<")  # the best ones first
    assert "best so far: 0000, val/accuracy 0.75" in page


def test_on_a_narrow_terminal_each_value_has_a_line(tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        coordinator = search(tmp_path, journal)
        coordinator.next(0)
        lines = drawn(ProgressTable(coordinator, 5, Kept()), 40)
    assert lines[:3] == ["trials/0000", "epoch 0/9", "val/accuracy -"]


def test_no_time_is_estimated_before_a_trial_ended(tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        coordinator = search(tmp_path, journal)
        coordinator.next(0)
        lines = drawn(ProgressTable(coordinator, 5, Kept()))
    assert lines[-1] == "0 of 5 trials ended"


def test_it_is_updated_at_most_twice_a_second_and_at_the_end(tmp_path):
    now, screen = [0.0], Kept()
    with Journal(tmp_path / "journal.jsonl") as journal:
        view = ProgressTable(search(tmp_path, journal), 5, screen, lambda: now[0])
        counts = [screen.refreshed]
        for now[0] in (0.0, 0.1, 0.6):
            view.update()
            counts.append(screen.refreshed)
        view.update(ended=True)
    assert [*counts, screen.refreshed] == [1, 2, 2, 3, 4]


def test_only_trials_that_ended_here_tell_how_long_the_others_take(tmp_path):
    now = [10.0]
    with Journal(tmp_path / "journal.jsonl") as journal:
        coordinator = search(tmp_path, journal)
        coordinator.end(coordinator.next(0).name, Outcome(PRUNED, "worse", 0.25, 1, 5, 1))
        view = ProgressTable(coordinator, 3, Kept(), lambda: now[0])
        job = coordinator.next(0)
        assert view._row(coordinator.records.runs[job.name], [])[1:4] == ["0/9", "-", "-"]
        assert view._counted() + view._left() == "1 of 3 trials ended (1 pruned)"
        coordinator.end(job.name, Outcome(COMPLETED, "done", 0.75, 3, 30, 9))
        now[0] = 40.0
        assert view._counted() + view._left() == "2 of 3 trials ended (1 completed, 1 pruned), about 30 s left"
        endless = ProgressTable(coordinator, None, Kept(), lambda: now[0])
        assert endless._counted() + endless._left() == "2 trials ended (1 completed, 1 pruned)"
        over = ProgressTable(coordinator, 1, Kept(), lambda: now[0])
        over._ended_before, over._began = 0, 0.0
        assert over._left() == ", about 0 s left"
