"""What is printed cannot control the terminal, and a reader that ends is no error."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.table import Table
from rich.text import Text

from lightkeras.system.console import Console

ESCAPE = "\x1b]0;owned\x07"


def test_control_characters_are_printed_as_escapes_wherever_they_stand():
    text = io.StringIO()
    console = Console(file=text, width=200)
    console.print(f"a{ESCAPE}b", markup=False)
    table = Table(f"head{ESCAPE}")
    table.add_row(f"cell{ESCAPE}")
    console.print(table)
    assert "\x1b" not in text.getvalue()
    assert "\x07" not in text.getvalue()
    assert text.getvalue().count(r"\x1b]0;owned\x07") == 3


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "epoch ..."), ("utf-8", "epoch 1/\N{HORIZONTAL ELLIPSIS}")])
def test_a_truncated_line_ends_in_points_that_the_encoding_has_and_is_as_wide(encoding, shown):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=9)
    console.print(Text("epoch 1/30"), no_wrap=True, overflow="ellipsis")
    grid = Table.grid()
    grid.add_column(no_wrap=True, overflow="ellipsis", max_width=9)
    grid.add_row(Text("epoch 1/30"))
    console.print(grid)
    file.flush()
    assert file.buffer.getvalue().decode(encoding) == f"{shown}\n{shown}\n"


@pytest.mark.parametrize(("width", "shown"), [(1, "."), (2, ".."), (3, "...")])
def test_a_column_of_one_or_two_letters_has_as_many_points(width, shown):
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=width)
    text = Text("epoch", no_wrap=True, overflow="ellipsis")
    assert "".join(segment.text for segment in console.render(text)) == f"{shown}\n"


def test_a_spread_is_readable_without_unicode():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file).print("val/loss 0.2500 \N{PLUS-MINUS SIGN} 0.0100", highlight=False)
    file.flush()
    assert file.buffer.getvalue() == b"val/loss 0.2500 +- 0.0100\n"


PROGRAM = """
import os, sys
{prepare}
from lightkeras.system.console import Console, closed_output_ignored
with closed_output_ignored():
    Console().print("by rich")
    print("by print")
    sys.stdout.flush()
print(os.fstat(1) is not None, file=sys.stderr)
"""


def run(prepare: str, **streams: int) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(prepare=prepare)
    return subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, **streams)


def test_a_reader_that_ended_ends_the_program_as_sigpipe_does_and_prints_nothing():
    ours, theirs = os.pipe()
    os.close(ours)
    done = run("", stdout=theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_closed_standard_output_is_no_error():
    command = f'exec {sys.executable} -c "$PROGRAM" >&-'
    environment = {**os.environ, "PROGRAM": PROGRAM.format(prepare="")}
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "True\n")


def test_a_pipe_that_breaks_for_another_reason_is_an_error():
    from lightkeras.system.console import closed_output_ignored

    with pytest.raises(BrokenPipeError), closed_output_ignored():
        raise BrokenPipeError
