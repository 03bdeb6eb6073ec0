"""What the command `tune` prints; the search itself is tested with the tuner."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lightkeras.command_line.tune import print_trial
from lightkeras.runs.results import Trial

COMPLETED = Trial("0000", {"units": 8, "rate": 0.0012345, "depth": 2}, 0.25, "completed", "", Path("s"), ("depth",))
FAILED = Trial("0001", {"units": 16, "rate": 0.5, "depth": 3}, None, "failed", "too wide", Path("s"))


def test_a_trial_is_a_line_with_its_value_and_the_hyperparameters_that_apply(capsys):
    print_trial(COMPLETED, ["units", "rate", "depth"])
    print_trial(FAILED, ["units", "depth"])
    assert capsys.readouterr().out == (
        "trial 0000  0.2500  units 8  rate 0.001234\ntrial 0001  failed  units 16  depth 3  (too wide)\n"
    )


def test_the_line_of_a_trial_stands_above_the_live_table():
    """A second console on the terminal would write it into the table's last line."""
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    with Live(Text("the table"), console=console, auto_refresh=False) as live:
        live.refresh()
        print_trial(COMPLETED, ["units"])
    assert "\x1b[2Ktrial 0000  0.2500  units 8\nthe table" in console.file.getvalue()
