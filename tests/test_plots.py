"""Figures: what is drawn where, and that a file is there whole or not at all."""

from __future__ import annotations

import errno
import os
from xml.etree import ElementTree

import matplotlib.figure
import pytest

from lightkeras import plots

HISTORY = {
    "train/accuracy": (0.5, 0.75, 0.875),
    "train/loss": (0.9, 0.6, 0.4),
    "val/loss": (1.0, 0.7, 0.8),
}


@pytest.fixture
def figures(monkeypatch) -> list[matplotlib.figure.Figure]:
    """Every figure that is drawn: they are not handed out, so saving one is listened to."""
    drawn, savefig = [], matplotlib.figure.Figure.savefig

    def listening(self, *args, **kwargs):
        drawn.append(self)
        savefig(self, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", listening)
    return drawn


def lines(axes) -> dict[str, list[float]]:
    return {line.get_label(): [float(value) for value in line.get_ydata()] for line in axes.get_lines()}


def test_one_panel_per_value_has_train_and_validation_as_its_lines(tmp_path, figures):
    plots.curves(HISTORY, tmp_path / "curves.png", best_epoch=2)
    (figure,) = figures
    accuracy, loss = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["accuracy", "loss"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch", "epoch"]
    assert lines(accuracy) == {"train": [0.5, 0.75, 0.875], "best epoch": [0.0, 1.0]}
    assert lines(loss) == {"train": [0.9, 0.6, 0.4], "val": [1.0, 0.7, 0.8], "best epoch": [0.0, 1.0]}
    assert list(loss.get_lines()[0].get_xdata()) == [1, 2, 3]
    assert list(loss.get_lines()[2].get_xdata()) == [2, 2]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "val", "best epoch"]


def test_without_a_best_epoch_none_is_marked(tmp_path, figures):
    plots.curves(HISTORY, tmp_path / "curves.png")
    assert [list(lines(axes)) for axes in figures[0].axes] == [["train"], ["train", "val"]]


def test_epochs_are_whole_numbers_even_if_there_is_one(tmp_path, figures):
    plots.curves({"train/loss": [0.5]}, tmp_path / "curves.png")
    (axes,) = figures[0].axes
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_many_values_are_drawn_in_rows_of_three(tmp_path, figures):
    plots.curves({f"train/metric {number}": [0.0, 1.0] for number in range(7)}, tmp_path / "curves.png")
    (figure,) = figures
    assert len(figure.axes) == 7
    assert figure.axes[0].get_gridspec().get_geometry() == (3, 3)


def test_values_that_are_not_finite_leave_a_gap(tmp_path, figures):
    plots.curves({"train/loss": [0.5, float("nan"), float("inf"), 0.25]}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("history", [{}, {"train/loss": ()}])
def test_an_empty_history_is_refused(tmp_path, history):
    with pytest.raises(ValueError, match=r"There are no epochs to draw: the history is empty"):
        plots.curves(history, tmp_path / "curves.png")
    assert os.listdir(tmp_path) == []


def test_the_ending_of_the_name_says_the_format(tmp_path):
    plots.curves(HISTORY, tmp_path / "new" / "curves.svg")
    assert ElementTree.parse(tmp_path / "new" / "curves.svg").getroot().tag.endswith("svg")
    plots.curves(HISTORY, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_an_ending_that_is_unknown_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Format 'xyz' is not supported"):
        plots.curves(HISTORY, tmp_path / "curves.xyz")
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_figure_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    plots.curves(HISTORY, path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:  # a real disk cannot be told when to fill up
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not write .*curves\.png: No space left on device"):
        plots.curves(HISTORY, path, best_epoch=1)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["curves.png"]


def test_no_display_and_no_state_of_pyplot_is_used(tmp_path):
    import subprocess
    import sys

    script = """
import sys
from pathlib import Path
from lightkeras import plots
plots.curves({"train/loss": [1.0]}, Path(sys.argv[1]) / "a.png")
print("matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# ---------------------------------------------------------------------- learning rates

RATES, LOSSES, SMOOTHED = [1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.0, 3.0, 90.0], [2.0, 1.5, 5.0, 60.0]


def test_the_loss_of_each_step_and_the_smoothed_one_are_drawn_over_the_logarithm_of_the_rate(tmp_path, figures):
    plots.learning_rates(RATES, LOSSES, SMOOTHED, tmp_path / "rates.png", suggestion=1e-2, loss="loss of G")
    (axes,) = figures[0].axes
    assert lines(axes) == {"a step": LOSSES, "smoothed": SMOOTHED, "suggestion 0.01": [0.0, 1.0]}
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [RATES, RATES, [1e-2, 1e-2]]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "learning rate"
    assert axes.get_title(loc="left") == "loss of G"


def test_a_loss_that_runs_away_does_not_hide_the_descent(tmp_path, figures):
    plots.learning_rates(RATES, LOSSES, SMOOTHED, tmp_path / "rates.png")
    (axes,) = figures[0].axes
    assert axes.get_ylim() == (1.5 - 0.25 * 0.5, 2.0 + 0.5 * 0.5)
    assert list(lines(axes)) == ["a step", "smoothed"]


@pytest.mark.parametrize("smoothed", [[1.0, 2.0, 3.0, 4.0], [float("nan")] * 4])
def test_without_a_descent_all_of_it_is_drawn(tmp_path, figures, smoothed):
    plots.learning_rates(RATES, [1.0, 2.0, 3.0, 4.0], smoothed, tmp_path / "rates.png")
    low, high = figures[0].axes[0].get_ylim()
    assert low < 1.0
    assert high > 4.0


def test_a_range_test_without_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There are no steps to draw: the range test is empty"):
        plots.learning_rates([], [], [], tmp_path / "rates.png")
    assert os.listdir(tmp_path) == []
