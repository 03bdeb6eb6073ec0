"""How a figure is written: whole or not at all, and without a display."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from lightkeras import plots
from lightkeras.plots.style import panels

HISTORY = {"train/loss": (0.9, 0.6, 0.4)}


def test_the_suffix_of_the_name_decides_the_format(tmp_path):
    figure = plots.curves(HISTORY)
    plots.save(figure, tmp_path / "new" / "folder" / "curves.svg")
    assert ElementTree.parse(tmp_path / "new" / "folder" / "curves.svg").getroot().tag.endswith("svg")
    plots.save(figure, str(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").read_bytes() == plots.png(figure)


def test_an_ending_that_is_unknown_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Format 'xyz' is not supported"):
        plots.save(plots.curves(HISTORY), tmp_path / "curves.xyz")
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_figure_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    plots.save(plots.curves(HISTORY), path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:  # a real disk cannot be told when to fill up
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not write .*curves\.png: No space left on device"):
        plots.save(plots.curves(HISTORY, best_epoch=1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["curves.png"]


def test_no_display_and_no_state_of_pyplot_is_used(tmp_path):
    script = """
import sys
from lightkeras import plots
print("matplotlib" in sys.modules)
plots.save(plots.curves({"train/loss": [1.0]}), sys.argv[1])
print("matplotlib.pyplot" in sys.modules)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_characters_that_the_font_lacks_do_not_warn():
    assert plots.png(plots.text_panel([("title", "a review in \N{CJK UNIFIED IDEOGRAPH-4E2D}", True)]))


def test_a_figure_is_drawn_with_130_dots_per_inch():
    figure, _ = panels(1, 1, (1.0, 2.0))
    assert struct.unpack(">II", plots.png(figure)[16:24]) == (130, 260)
