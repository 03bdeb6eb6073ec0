"""The progress of a fit, on a terminal that is a string, as HTML and as lines."""

from __future__ import annotations

import io
from typing import Any

import pytest

from lightkeras.system.console import Console
from lightkeras.system.display import Display, Lines, Silent, Terminal
from lightkeras.training.progress_bar import ProgressBar, duration


class Kept(Display):
    """A live display that keeps what it is given, as a notebook does."""

    live, keeps_lines = True, False

    def refresh(self, soon: bool = False) -> None:
        return

    def print(self, line: str, mark: str = "") -> None:
        raise AssertionError(line)


def console(width: int = 100, **more: Any) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, **more)


def drawn(bar: ProgressBar, width: int = 100) -> str:
    """The view as it stands in a terminal of that width."""
    screen = console(width)
    screen.print(bar)
    return screen.file.getvalue()


def test_a_bar_shows_epoch_steps_values_speed_and_the_time_that_is_left():
    now = [0.0]
    with ProgressBar(3, 10, Kept(), lambda: now[0]) as bar:
        assert "starting" in drawn(bar)
        now[0] = 2.0
        bar.advance(1, 5, 0.25, {"loss": 0.12345, "accuracy": 0.5})
        shown = drawn(bar)
    expected = "epoch 1/3 ━━━━ 5/30 loss 0.1235 accuracy 0.5000 20 steps/s 10 s left"
    assert " ".join(shown.split()).startswith(expected)  # rich 14.3 has other spaces than those before


def test_the_time_that_is_left_counts_from_where_a_run_was_resumed():
    now = [0.0]
    with ProgressBar(1, 100, Kept(), lambda: now[0]) as bar:
        bar.resume_at(60)
        now[0] = 4.0
        bar.advance(1, 20, 1.0, {})  # 20 steps in 4 s, 20 are left
        assert "80/100 20 steps/s 4 s left" in drawn(bar)


def test_the_speed_follows_slowly():
    with ProgressBar(1, 100, Kept()) as bar:
        bar.advance(1, 10, 1.0, {})
        bar.advance(1, 10, 0.5, {})  # 0.8 * 10 + 0.2 * 20
        assert "12 steps/s" in drawn(bar)


def test_a_call_that_took_no_time_does_not_divide_by_zero():
    with ProgressBar(1, 100, Kept()) as bar:
        bar.advance(1, 10, 0.0, {})


def test_on_a_narrow_terminal_it_is_one_line_without_the_bar_and_the_remaining_time():
    with ProgressBar(3, 1000, Kept()) as bar:
        bar.advance(1, 500, 0.25, {"loss": 0.12345, "accuracy": 0.5, "precision": 0.25})
        assert [line.rstrip() for line in drawn(bar, 40).splitlines()] == ["epoch 1/3 500/3,000 loss 0.1235  accura…"]


def test_without_unicode_the_bar_is_of_ascii_characters():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    screen = Console(file=file, force_terminal=True, width=100, color_system=None)
    with ProgressBar(3, 10, Kept()) as bar:
        bar.advance(1, 15, 0.25, {"längd": 0.5})
        screen.print(bar)
    file.flush()
    assert b" ".join(file.buffer.getvalue().split()).startswith(b"epoch 1/3 ------------ 15/30 l?ngd 0.5000")


def test_names_with_brackets_are_shown_as_they_are():
    screen = console()
    with ProgressBar(1, 10, Terminal(screen)) as bar:
        bar.advance(1, 1, 1.0, {"[bold]f1": 0.5})
        assert "[bold]f1 0.5000" in drawn(bar)
        bar.end_epoch(1, {"train/[red]f1": 0.5}, best=True)
    assert "epoch   1/1  train/[red]f1 0.5000  best\n" in screen.file.getvalue()


def test_an_unknown_number_of_steps_is_fine():
    with ProgressBar(3, None, Kept()) as bar:
        bar.advance(2, 7, 1.0, {"loss": 1.0})
        assert "epoch 2/3" in drawn(bar)
        assert " 7 loss 1.0000" in drawn(bar)
        assert "<progress  style" in bar._repr_html_()


def test_an_unknown_number_of_epochs_is_left_out():
    with ProgressBar(None, 10, Kept()) as bar:
        bar.advance(2, 7, 1.0, {"loss": 1.0})
        bar.end_epoch(2, {"train/loss": 1.0}, best=False)
        assert drawn(bar).startswith("epoch 2 ")
        assert ">2</th>" in bar._repr_html_()


@pytest.mark.parametrize("made", [Silent, Lines])
def test_without_a_live_area_a_call_shows_nothing(made, capsys):
    with ProgressBar(3, 10, made()) as bar:
        bar.advance(1, 5, 0.25, {"loss": 0.5})
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_an_epoch_is_a_line_on_standard_error_at_once(capsys):
    with ProgressBar(3, 10, Lines()) as bar:
        bar.end_epoch(1, {"train/[red]f1": 0.5}, best=True)
        assert capsys.readouterr() == ("", "epoch   1/3  train/[red]f1 0.5000  best\n")
        bar.end_epoch(2, {"train/[red]f1": 0.25}, best=False)
        assert capsys.readouterr().err == "epoch   2/3  train/[red]f1 0.2500\n"


def test_a_finished_bar_is_gone_and_the_table_of_the_epochs_stays():
    with ProgressBar(2, 10, Kept()) as bar:
        bar.advance(1, 10, 1.0, {"loss": 0.5})
        bar.end_epoch(1, {"train/loss": 0.5}, best=True)
        bar.end_epoch(2, {"train/loss": 0.75}, best=False)
        assert '<progress value="10" max="20"' in bar._repr_html_()
    assert drawn(bar) == ""
    assert "<progress" not in bar._repr_html_()
    assert [part.partition("<")[0] for part in bar._repr_html_().split('">') if part[0].isalnum()] == [
        *("epoch", "train/loss", "1/2", "0.5000", "best", "2/2", "0.7500")
    ]


def test_the_table_of_a_long_fit_holds_the_last_epochs_and_the_best_one():
    with ProgressBar(100, 1, Kept()) as bar:
        for epoch in range(1, 101):
            bar.end_epoch(epoch, {"train/<loss>": 0.5}, best=epoch == 3)
    page = bar._repr_html_()
    assert [f">{epoch}/100<" in page for epoch in (2, 3, 4, 88, 89, 100)] == [False, True, False, False, True, True]
    assert "train/&lt;loss&gt;" in page


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.5, "1 min 00 s"), (61, "1 min 01 s"), (3599, "59 min 59 s"), (3660, "1 h 01 min")],
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


def test_of_very_many_values_the_monitored_one_and_the_first_are_shown(capsys):
    values = {f"{split}/m{number}": 0.5 for split in ("train", "val") for number in range(500)}
    with ProgressBar(3, 10, Lines(), monitor="val/m400") as bar:
        bar.end_epoch(1, values, best=False)
    line = capsys.readouterr().err
    assert line.startswith("epoch   1/3  val/m400 0.5000  train/m0 0.5000  train/m1 0.5000")
    assert line.endswith("train/m14 0.5000  and 984 more\n")
    with ProgressBar(3, 10, Kept(), monitor="val/m400") as bar:
        bar.advance(1, 5, 0.25, values)
        bar.end_epoch(1, values, best=False)
        page = bar._repr_html_()
    assert page.count("<td") == 17  # 16 values, and the mark of the best
    assert "984 further values" in page
