"""A notebook that is executed in a kernel: what its cells show while they run, and what remains."""

from __future__ import annotations

from typing import Any

import nbclient
import nbformat
import pytest

pytestmark = [
    pytest.mark.any_backend,
    # The packages that talk to the kernel: a socket that is closed late, a connection on this machine without TLS.
    pytest.mark.filterwarnings("default"),
]

PREPARE = """
import numpy as np
import lightkeras as lk
from lightkeras.testing import TwoMoons

task = TwoMoons()
runner = lk.Runner(max_epochs=3, run_dir="run")
tuner = lk.Tuner(TwoMoons, trials=2, workers=0, run_dir="search", runner=lk.Runner(max_epochs=1))
"""
CELLS = {
    "prepare": PREPARE,
    "fit": "result = runner.fit(task)",
    "result": "result",
    "test": "runner.evaluate(task, weights='best')",
    "figure": "lk.plots.curves(result.history)",
    "command line": "lk.cli(TwoMoons)",
    "silent": "quiet = lk.Runner(max_epochs=1, run_dir='quiet', progress=False).fit(TwoMoons())",
    "search": "found = tuner.search()",
    "best": "found",
}


class Client(nbclient.NotebookClient):
    """Keeps every message that shows something, by the number of its cell."""

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self.__dict__.setdefault("shown", []).append((cell_index, msg["content"]["data"]["text/html"]))
        return super().process_message(msg, cell, cell_index)


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> tuple[dict[str, list[Any]], dict[str, list[str]]]:
    """The outputs of each cell, and the HTML that it showed one after the other."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS.values()])
    client = Client(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    outputs = {name: cell.outputs for name, cell in zip(CELLS, notebook.cells, strict=True)}
    shown = {name: [page for at, page in vars(client)["shown"] if at == number] for number, name in enumerate(CELLS)}
    return outputs, shown


def test_a_fit_shows_its_phases_its_bar_and_its_epochs_in_one_output(executed):
    outputs, shown = executed
    (output,) = outputs["fit"]
    assert output.output_type == "display_data"
    assert [f">{epoch}/3</th>" in output.data["text/html"] for epoch in (1, 2, 3)] == [True] * 3
    assert "<summary>model: 2 layers, 65 parameters, all trained</summary>" in output.data["text/html"]
    assert "<progress" not in output.data["text/html"]
    assert "hellip" not in output.data["text/html"]
    pages = shown["fit"]
    phases = [text for text in ("building the task", "compiling and checking") for page in pages if text in page]
    assert phases[0] == "building the task"
    assert phases[-1] == "compiling and checking"
    assert any("<progress" in page for page in pages)


def test_results_are_tables(executed):
    outputs, _ = executed
    for name, words in {"result": ["val", "best"], "test": ["test", "examples"], "best": ["trial", "stopped"]}.items():
        output = outputs[name][-1]
        assert output.output_type == "execute_result"
        assert "<table" in output.data["text/html"]
        for word in words:
            assert word in output.data["text/html"]
            assert word in output.data["text/plain"]


def test_a_figure_is_a_picture(executed):
    (output,) = executed[0]["figure"]
    assert "image/png" in output.data


def test_the_command_line_explains_itself(executed):
    (output,) = executed[0]["command line"]
    assert output.text.startswith("lk.cli reads the command line of a script, and a notebook has none.")
    assert "task = TwoMoons()" in output.text


def test_without_progress_a_fit_shows_nothing(executed):
    assert executed[0]["silent"] == []


def test_a_search_shows_its_trials_in_one_output(executed):
    outputs, shown = executed
    (output,) = [output for output in outputs["search"] if output.output_type == "display_data"]
    assert "2 of 2 trials ended (2 completed)" in output.data["text/html"]
    assert any("trials/0000" in page for page in shown["search"])
