"""What a person sees, drawn on a terminal that is a string."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from lightkeras.training.progress_bar import ProgressBar


def console(terminal: bool = True, width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None, legacy_windows=False)


def text(console: Console) -> str:
    return console.file.getvalue()


def test_a_bar_shows_epoch_steps_values_and_speed():
    screen = console()
    with ProgressBar(3, 10, console=screen) as bar:
        bar.advance(1, 5, 0.25, {"loss": 0.12345, "accuracy": 0.5})
        bar._bar.refresh()
        assert "epoch 1/3" in text(screen)
        assert "5/30" in text(screen)
        assert "loss 0.1235  accuracy 0.5000  20 steps/s" in text(screen)


def test_the_speed_follows_slowly():
    screen = console()
    with ProgressBar(1, 100, console=screen) as bar:
        bar.advance(1, 10, 1.0, {})
        bar.advance(1, 10, 0.5, {})  # 0.8 * 10 + 0.2 * 20
        bar._bar.refresh()
    assert "12 steps/s" in text(screen)


def test_a_call_that_took_no_time_does_not_divide_by_zero():
    with ProgressBar(1, 100, console=console()) as bar:
        bar.advance(1, 10, 0.0, {})


def test_an_epoch_leaves_a_line_and_the_best_is_marked():
    screen = console()
    with ProgressBar(12, 10, console=screen) as bar:
        bar.end_epoch(1, {"train/loss": 0.5, "val/loss": 0.25}, best=True)
        bar.end_epoch(2, {"train/loss": 0.25, "val/loss": 0.5}, best=False)
    lines = [line.split("\r")[-1].split("\x1b[2K")[-1].rstrip() for line in text(screen).splitlines()]
    assert "epoch   1/12  train/loss 0.5000  val/loss 0.2500  best" in lines
    assert "epoch   2/12  train/loss 0.2500  val/loss 0.5000" in lines


def test_names_with_brackets_are_shown_as_they_are():
    screen = console()
    with ProgressBar(1, 10, console=screen) as bar:
        bar.advance(1, 1, 1.0, {"[bold]f1": 0.5})
        bar._bar.refresh()
        bar.end_epoch(1, {"train/[red]f1": 0.5}, best=True)
    assert "[bold]f1 0.5000" in text(screen)
    assert "train/[red]f1 0.5000" in text(screen)


def test_an_unknown_number_of_steps_is_fine():
    screen = console()
    with ProgressBar(3, None, console=screen) as bar:
        bar.advance(2, 7, 1.0, {"loss": 1.0})
        bar._bar.refresh()
    assert "epoch 2/3" in text(screen)
    assert "7/?" in text(screen)


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_written_if_nothing_is_to_be_shown(terminal, capsys):
    screen = console(terminal)
    with ProgressBar(3, 10, shown=False, console=screen) as bar:
        bar.advance(1, 5, 0.25, {"loss": 0.5})
        bar.end_epoch(1, {"train/loss": 0.5}, best=True)
    assert text(screen) == ""
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_an_epoch_is_a_line_on_standard_error(capsys):
    screen = console(terminal=False)
    with ProgressBar(3, 10, console=screen) as bar:
        bar.advance(1, 5, 0.25, {"loss": 0.5})
        bar.end_epoch(1, {"train/[red]f1": 0.5}, best=True)
        assert capsys.readouterr() == ("", "epoch   1/3  train/[red]f1 0.5000  best\n")  # at once, not at the end
        bar.end_epoch(2, {"train/[red]f1": 0.25}, best=False)
        assert capsys.readouterr().err == "epoch   2/3  train/[red]f1 0.2500\n"
    assert text(screen) == ""


def test_a_line_goes_to_standard_error_as_it_is_unless_nothing_is_shown(capsys):
    for shown in (True, False):
        ProgressBar(1, 10, shown=shown, console=console(terminal=False)).print_line(f"[a] line, {shown}")
    assert capsys.readouterr() == ("", "[a] line, True\n")


def test_an_error_passes_through_and_the_bar_is_taken_away():
    screen = console()
    with pytest.raises(RuntimeError, match="inside"), ProgressBar(1, 10, console=screen):
        raise RuntimeError("inside")
    assert text(screen).endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


def test_a_resumed_bar_begins_at_the_steps_that_are_done():
    screen = console()
    with ProgressBar(2, 12, console=screen) as bar:
        bar.resume_at(6)
        bar.advance(1, 6, 2.0, {"loss": 0.5})
        bar._bar.refresh()
    done = "epoch 1/2 " + 12 * "\N{BOX DRAWINGS HEAVY HORIZONTAL}" + 13 * " "
    assert re.search(done + r"12/24 loss 0\.5000  3 steps/s (--|\d\d):(--|\d\d) left", text(screen))


def test_an_epoch_has_no_colours_but_the_one_of_the_mark(capsys):
    file = io.StringIO()
    screen = Console(file=file, force_terminal=True, width=30, color_system="standard", legacy_windows=False)
    with ProgressBar(1, 10, console=screen) as bar:
        bar.end_epoch(1, {"loss": 0.5}, best=True)
    assert "epoch   1/1  loss 0.5000  \x1b[32mbest\x1b[0m\n" in file.getvalue()
    bar.print_line("a line of more than 80 characters, " * 5)
    assert capsys.readouterr().err == "a line of more than 80 characters, " * 5 + "\n"
