"""Where progress is shown: on terminals that are strings, in a notebook that is a list, and as lines."""

from __future__ import annotations

import io
import sys
import types

import pytest

from lightkeras.system import display
from lightkeras.system.console import Console
from lightkeras.system.display import Lines, Notebook, Silent, Terminal
from lightkeras.system.tables import Table


class View:
    def __rich_console__(self, console, options):
        yield "the view"

    def _repr_html_(self):
        return "<p>the view</p>"


@pytest.fixture(autouse=True)
def terminal_type(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")


def console(encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    return Console(file=file, force_terminal=True, width=80, color_system=None)


def text(screen: Console) -> str:
    return screen.file.buffer.getvalue().decode(screen.file.encoding)


class Shell:
    """The shell of a kernel."""


@pytest.fixture
def cell(monkeypatch):
    """Makes this process a kernel. Returns the outputs of its cell: how each was made, and its HTML."""
    outputs = []

    def shown(data, raw, display_id):
        assert (raw, display_id) == (True, True)
        outputs.append(("display", data["text/html"]))
        return types.SimpleNamespace(update=lambda data, raw: outputs.append(("update", data["text/html"])))

    modules = {
        "IPython": types.SimpleNamespace(get_ipython=Shell),
        "IPython.display": types.SimpleNamespace(display=shown),
        "ipykernel.zmqshell": types.SimpleNamespace(ZMQInteractiveShell=Shell),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return outputs


# ---------------------------------------------------------------------- which display


def test_outside_of_showing_a_phase_shows_nothing(capsys):
    with display.phase("reading data"):
        assert isinstance(display.current(), Silent)
    assert capsys.readouterr() == ("", "")


def test_an_inner_call_shows_on_the_outer_display_and_a_hidden_one_on_none():
    with display.showing(True) as outer:
        assert isinstance(outer, Lines)
        with display.showing(True) as inner:
            assert inner is outer
        with display.showing(False):
            assert isinstance(display.current(), Silent)
            with display.showing(True) as shown:  # another run, which the user wants to see
                assert isinstance(shown, Lines)
        assert display.current() is outer
    assert isinstance(display.current(), Silent)


def test_after_an_error_the_display_before_it_is_the_current_one():
    with pytest.raises(ValueError, match="inside"), display.showing(True), display.phase("reading data"):
        raise ValueError("inside")
    assert isinstance(display.current(), Silent)


def test_a_terminal_a_dumb_terminal_and_a_pipe(monkeypatch):
    assert isinstance(display.make(), Lines)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(display.make(), Terminal)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display.make(), Lines)


def test_a_kernel_is_a_notebook_unless_a_console_started_it(cell, monkeypatch, tmp_path, capsys):
    assert display.in_notebook()
    assert isinstance(display.make(), Notebook)
    monkeypatch.setattr(display, "Path", lambda path: tmp_path / "cmdline")
    (tmp_path / "cmdline").write_bytes(b"python\0/usr/bin/jupyter-console\0--kernel=python3")
    assert isinstance(display.make(), Lines)
    assert isinstance(display.make(), Lines)
    line = "lightkeras: a Jupyter console cannot show live output: progress is printed as one line per epoch.\n"
    assert capsys.readouterr() == ("", line)  # once
    monkeypatch.setitem(sys.modules, "spyder_kernels", types.ModuleType("spyder_kernels"))
    assert isinstance(display.make(), Lines)
    assert "Spyder's console cannot show live output" in capsys.readouterr().err


def test_ipython_on_a_terminal_is_no_notebook(cell, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not display.in_notebook()


# ---------------------------------------------------------------------- terminal


def test_a_terminal_shows_the_view_the_values_and_the_innermost_phase():
    screen = console()
    terminal = Terminal(screen)
    with terminal.phase("testing"), terminal.phase("reading data"):
        terminal.show(View())
        terminal.show_result({"train": {"loss": 0.25}})
        terminal.show_result({"test": {"loss": 0.5}})
        terminal._live.refresh()
        lines = [line.strip() for line in text(screen).splitlines()]
    assert "│ train │ 0.2500 │" in lines
    assert "│ test  │ 0.5000 │" in lines
    assert lines[-1].endswith("⠋ reading data")
    assert "the view" in text(screen)
    terminal.close()
    assert text(screen).endswith(("\x1b[2K\x1b[?25h\r", "\x1b[2K\n\x1b[?25h\r"))  # erased; rich 14.2 adds a line


def test_lines_stand_above_the_live_area_and_are_not_wrapped():
    screen = console()
    terminal = Terminal(screen)
    terminal.show(View())
    terminal.print(f"a [red]line[/red] {'x' * 100}", "best")
    terminal.close()
    assert f"\x1b[2Ka [red]line[/red] {'x' * 100}  best\nthe view" in text(screen)


def test_before_there_is_anything_to_show_a_terminal_is_left_alone():
    screen = console()
    Terminal(screen).close()
    assert text(screen) == ""


def test_without_unicode_the_spinner_is_of_ascii_characters():
    screen = console("ascii")
    terminal = Terminal(screen)
    with terminal.phase("reading data"):
        terminal._live.refresh()
        assert any(f"{mark} reading data" in text(screen) for mark in r"-\|/")
    terminal.close()


def test_a_phase_of_two_seconds_and_more_shows_how_long_it_takes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(display, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    silent = Silent()
    with silent.phase("reading \x1b[2J"):
        assert silent._phase_text() == r"reading \x1b[2J"
        now[0] = 2.4
        assert silent._phase_text() == r"reading \x1b[2J (2 s)"
    assert silent._phase_text() == ""


def test_messages_go_to_standard_error_where_that_is_a_file_and_above_the_view_where_it_is_not(monkeypatch, capsys):
    screen = console()
    terminal = Terminal(screen)
    terminal.message("Resuming after step 40.")
    assert capsys.readouterr().err == "Resuming after step 40.\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    terminal = Terminal(screen)
    terminal.message("Resuming after step 50.")
    assert capsys.readouterr().err == ""
    assert text(screen) == "Resuming after step 50.\n"


def test_a_table_is_printed_on_a_terminal_folded_in_a_notebook_and_a_line_elsewhere(cell, capsys):
    table = Table(["layer"], [["<dense>"]])
    screen = console()
    Terminal(screen).print_table("model: 1 layer", table)
    assert text(screen).startswith("model: 1 layer\n┏")
    assert "│ <dense> │" in text(screen)
    notebook = Notebook()
    notebook.print_table("model: <1> layer", table)
    notebook.close()
    assert cell[-1][1].startswith("<div><details><summary>model: &lt;1&gt; layer</summary><div")
    assert "&lt;dense&gt;" in cell[-1][1]
    Lines().print_table("model: 1 layer", table)
    assert capsys.readouterr() == ("", "model: 1 layer\n")


# ---------------------------------------------------------------------- notebook


def test_a_notebook_has_one_output_that_is_updated_and_stays(cell, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(display, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    notebook = Notebook()
    with notebook.phase("reading <data>"):
        assert cell == [("display", '<div><div style="opacity:.65">reading &lt;data&gt;&nbsp;&hellip;</div></div>')]
        now[0] = 1.0
        notebook.show(View())
        assert cell[1:] == [("update", cell[0][1].replace("<div><div style", "<div><p>the view</p><div style"))]
        for now[0] in (1.1, 1.2, 1.3):
            notebook.refresh()
        assert len(cell) == 3  # a quarter of a second after the last
        notebook.print("a <line>")
    notebook.close()
    assert cell[-1] == ("update", "<div><div>a &lt;line&gt;</div><p>the view</p></div>")


def test_a_notebook_in_which_nothing_happened_has_no_output(cell):
    with display.showing(True) as shown:
        assert isinstance(shown, Notebook)
    assert cell == []


# ---------------------------------------------------------------------- lines


def test_lines_are_printed_at_once_and_views_and_phases_are_left_out(capsys):
    lines = Lines()
    with lines.phase("reading data"):
        lines.show(View())
        lines.show_result({"test": {"loss": 0.5}})
    lines.print("epoch 1/3", "best")
    lines.message("[a] message")
    assert capsys.readouterr() == ("", "epoch 1/3  best\n[a] message\n")


def test_a_line_has_no_colours_but_the_one_of_the_mark(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = io.StringIO()
    screen = Console(file=file, force_terminal=True, width=30, color_system="standard", legacy_windows=False)
    Terminal(screen).print("epoch   1/1  loss 0.5000", "best")
    assert file.getvalue() == "epoch   1/1  loss 0.5000  \x1b[32mbest\x1b[0m\n"
