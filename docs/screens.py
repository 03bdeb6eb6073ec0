"""Draws the pictures of what a user sees: a terminal, a notebook, TensorBoard and reports, each from a real run.

    python docs/screens.py                    # all
    python docs/screens.py terminal notebook  # some; reports and tensorboard need terminal and search before them

docs/screens/NAME.png

The runs are of `experiments/mnist_beginner.py` on its built-in sample. Needs Chromium, and the packages pyte, nbclient,
nbconvert and ipykernel.
"""

from __future__ import annotations

import contextlib
import fcntl
import html
import os
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "faults"))

import pyte  # noqa: E402
from browser import Browser  # noqa: E402
from PIL import Image  # noqa: E402

SCREENS = ROOT / "docs" / "screens"
MOST_BYTES = 150_000
COLUMNS, ROWS = 104, 40
EXPERIMENT = "experiments/mnist_beginner.py"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")},
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "TERM": "xterm-256color",
}
COLORS = {
    "default": "#d8dee4",
    "black": "#6e7781",
    "red": "#ff8182",
    "green": "#6fdd8b",
    "brown": "#eac54f",
    "blue": "#80ccff",
    "magenta": "#d8b9ff",
    "cyan": "#76e3ea",
    "white": "#d8dee4",
}
CELLS = {
    "prepare": """\
import sys

sys.path.insert(0, "experiments")
import lightkeras as lk
from mnist_beginner import MnistBeginner

lookup = lk.Lookup("sample")""",
    "fit": """\
task = MnistBeginner(lookup=lookup)
result = lk.Runner(max_epochs=8, run_dir="runs/notebook").fit(task)""",
    "result": "result",
    "figure": "lk.plots.curves(result.history, best_epoch=result.best.epoch)",
}


# ---------------------------------------------------------------------- terminal


class Terminal:
    """A terminal in which commands are typed, one after the other.

    Args:
        folder: Where the commands run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)

    def run(self, command: str, moment: Callable[[str], bool] = lambda text: False) -> str | None:
        """Runs a command to its end; returns the page of the terminal at the last `moment`, by its text."""
        typed = command.replace("\n", "\r\n")
        self._stream.feed(f"$ {typed}\r\n".encode())
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        words = command.replace("python ", f"{sys.executable} ").replace(
            "lightkeras ", f"{sys.executable} -m lightkeras.command_line.entry_point "
        )
        with subprocess.Popen(
            ["bash", "-c", words], stdin=theirs, stdout=theirs, stderr=theirs, cwd=self._folder, env=ENVIRONMENT
        ) as process:
            os.close(theirs)
            page = None
            with contextlib.suppress(OSError):  # the end of a terminal is an error
                while data := os.read(ours, 65536):
                    self._stream.feed(data)
                    if moment(self.text()):
                        page = self.page()
        os.close(ours)
        if process.returncode:
            raise SystemExit(f"{command} failed:\n{self.text()}")
        return page

    def text(self) -> str:
        return "\n".join(self.screen.display)

    def page(self) -> str:
        """What the terminal shows, as a page of HTML."""
        rows = []
        for number in range(ROWS):
            cells = [self.screen.buffer[number][column] for column in range(COLUMNS)]
            rows.append("".join(map(_cell, cells)))
        while rows and not re.sub("<[^>]*>", "", rows[-1]).strip():
            rows.pop()
        text = "\n".join(rows)
        style = (
            f"margin:0;padding:14px 16px;background:#161b22;color:{COLORS['default']};width:{COLUMNS}ch;"
            "box-sizing:content-box;font:13px/15px 'DejaVu Sans Mono',monospace"
        )
        body = "margin:0;width:max-content;background:#161b22"
        return f'<!DOCTYPE html><body style="{body}"><pre style="{style}">{text}</pre>'


def _cell(cell: Any) -> str:
    color = COLORS.get(cell.fg.removeprefix("bright"), f"#{cell.fg}")
    style = f"color:{color}" + ";font-weight:bold" * cell.bold + ";opacity:.7" * (cell.fg == "black")
    text = html.escape(cell.data)
    return text if style == f"color:{COLORS['default']}" else f'<span style="{style}">{text}</span>'


# ---------------------------------------------------------------------- pictures


class Album:
    """Takes pictures of pages.

    Args:
        browser: The browser.
        folder: For files of pages.
    """

    def __init__(self, browser: Browser, folder: Path) -> None:
        self._browser, self._folder = browser, folder

    def take(
        self,
        name: str,
        page: str | Path,
        size: tuple[int, int],
        dark: bool = False,
        scale: float = 1.5,
        expects: str = "",
        most: int = 4000,
        script: str = "",
    ) -> None:
        """Writes the picture of a page, from its top to its end or to `most` CSS pixels.

        Args:
            name: Of the picture.
            page: An address, a path, or HTML.
            size: Of the window, in CSS pixels; a page of HTML is as wide as its content.
            dark: Whether the reader prefers a dark color scheme.
            scale: Pixels of the picture for each CSS pixel.
            expects: Text that shows that the page is complete.
            most: Height of the picture in CSS pixels, at most.
            script: JavaScript that is run before the picture.
        """
        if isinstance(page, Path):
            address = page.as_uri()
        elif page.startswith("http"):
            address = page
        else:
            path = self._folder / f"{name}.html"
            path.write_text(page, encoding="utf-8")
            address = path.as_uri()
        self._browser.emulate(size, scale, dark)
        self._browser.open("about:blank")
        self._browser.open(address)
        ends = time.monotonic() + 60
        while self._browser.evaluate("document.readyState") != "complete" or expects not in self._browser.text():
            if time.monotonic() > ends:
                raise SystemExit(f"{name}: {expects!r} is not shown: {self._browser.text()[:2000]}")
            time.sleep(0.2)
        if script:
            self._browser.evaluate(script)
        time.sleep(2 if address.startswith("http") else 0.3)
        height = int(self._browser.evaluate("Math.ceil(document.body.getBoundingClientRect().height)"))
        path = self._folder / f"{name}.png"
        self._browser.picture(path, min(height or size[1], most))
        SCREENS.mkdir(exist_ok=True)
        picture = Image.open(path).convert("RGB").quantize(256)
        picture.save(SCREENS / f"{name}.png", optimize=True)
        content = (SCREENS / f"{name}.png").read_bytes()
        if len(content) > MOST_BYTES:
            raise SystemExit(f"{name}.png takes {len(content):,} bytes; the limit is {MOST_BYTES:,}.")
        print(f"docs/screens/{name}.png, {len(content):,} bytes", flush=True)


TERMINAL = (COLUMNS * 8 + 32, 400)


def terminal(album: Album, folder: Path) -> None:
    """A fit, while it runs and when it has ended."""
    shown = Terminal(folder)
    during = shown.run(
        f"python {EXPERIMENT} --source sample --runner.max_epochs 8 --run_dir runs/digits",
        lambda text: "epoch   4/8" in text and "steps/s" in text and "epoch   5/8" not in text,
    )
    album.take("terminal_fit", _found(during), TERMINAL)
    album.take("terminal_result", shown.page(), TERMINAL)


def search(album: Album, folder: Path) -> None:
    """A search, while it runs and when it has ended."""
    shown = Terminal(folder)
    flags = "--source sample --runner.max_epochs 8 --tuner.trials 8 --tuner.workers 2"
    during = shown.run(
        f"python {EXPERIMENT} tune --run_dir runs/search \\\n    {flags}",
        lambda text: "of 8 trials ended" in text and len(re.findall(r"trials/\d+ \S +[1-7]/8", text)) == 2,
    )
    album.take("terminal_tune", _found(during), TERMINAL)
    album.take("terminal_tuned", shown.page(), TERMINAL)


def notebook(album: Album, folder: Path) -> None:
    """A notebook whose cell fits, and when it has ended."""
    import nbclient
    import nbformat
    from nbconvert import HTMLExporter

    shown: dict[int, list[str]] = {}

    class Client(nbclient.NotebookClient):
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            if msg["msg_type"] in ("display_data", "update_display_data"):
                shown.setdefault(cell_index, []).append(msg["content"]["data"]["text/html"])
            return super().process_message(msg, cell, cell_index)

    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    ended = nbformat.v4.new_notebook(cells=cells)
    os.environ["PYTHONPATH"] = ENVIRONMENT["PYTHONPATH"]
    Client(ended, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    number = list(CELLS).index("fit")
    (page, *_) = [page for page in shown[number] if ">5/8</th>" in page and "<progress" in page]
    running = nbformat.from_dict(ended)
    running.cells = [nbformat.from_dict(cell) for cell in cells[: number + 1]]
    running.cells[-1].outputs = [nbformat.v4.new_output("display_data", {"text/html": page})]
    running.cells[-1].execution_count = None
    for theme in ("light", "dark"):
        exporter = HTMLExporter(theme=theme, mathjax_url="", require_js_url="", jquery_url="")
        for name, made in {"notebook_fit": running, "notebook_result": ended}.items():
            body, _ = exporter.from_notebook_node(made)
            album.take(f"{name}_{theme}", body, (860, 600), dark=theme == "dark", expects="8")


def reports(album: Album, folder: Path) -> None:
    """The pages of a run and of a search, and runs side by side."""
    run = folder / "runs" / "digits" / "report.html"
    album.take("report_light", run, (1100, 800), scale=1, most=1500, expects="Result")
    album.take("report_dark", run, (1100, 800), dark=True, scale=1, most=1500, expects="Result")
    album.take("report_phone", run, (390, 800), scale=1.5, most=844, expects="Result")
    found = folder / "runs" / "search" / "report.html"
    album.take("report_search_light", found, (1100, 800), scale=1, most=1500, expects="Trials")
    album.take("report_search_dark", found, (1100, 800), dark=True, scale=1, most=1500, expects="Trials")
    shown = Terminal(folder)
    flags = "--source sample --runner.max_epochs 8 --hp.dropout 0.4 --hp.hidden_units 64"
    shown.run(f"python {EXPERIMENT} {flags} --run_dir runs/small")
    shown = Terminal(folder)
    shown.run("lightkeras list runs/ --by test/accuracy")
    shown.run("lightkeras compare runs/digits runs/small --page comparison.html")
    album.take("terminal_compare", shown.page(), TERMINAL)
    for theme in ("light", "dark"):
        name = f"comparison_{theme}"
        album.take(name, folder / "comparison.html", (1100, 800), theme == "dark", scale=1, most=1400, expects="Runs")


def tensorboard(album: Album, folder: Path) -> None:
    """TensorBoard on a run and on a search."""
    with serving(folder, "runs/digits") as address:
        for theme in ("light", "dark"):
            options = {"size": (1300, 900), "dark": theme == "dark", "scale": 1.0, "most": 900}
            album.take(f"tensorboard_scalars_{theme}", f"{address}/#scalars", expects="epoch/val/loss", **options)
            options |= {"most": 680}
            album.take(f"tensorboard_images_{theme}", f"{address}/#images", expects="predictions", **options)
    with serving(folder, "runs/search") as address:
        for theme in ("light", "dark"):
            options = {"size": (1560, 700), "dark": theme == "dark", "scale": 1.0, "most": 700}
            album.take(f"tensorboard_hparams_{theme}", f"{address}/#hparams", expects="best/val/loss", **options)


@contextlib.contextmanager
def serving(folder: Path, runs: str) -> Iterator[str]:
    """A TensorBoard server; it shows the path that it was given."""
    flags = ("--load_fast", "false", "--reload_interval", "0", "--reload_multifile", "true")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", runs, "--port", "0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=ENVIRONMENT) as process:
        try:
            for line in process.stderr or ():
                if found := re.search(r"at (http://\S+?)/? ", line):
                    yield found[1]
                    break
            else:
                raise SystemExit("TensorBoard did not start.")
        finally:
            process.terminate()


def _found(page: str | None) -> str:
    if page is None:
        raise SystemExit("The terminal never showed the moment that is pictured.")
    return page


GROUPS: Mapping[str, Callable[[Album, Path], None]] = {
    "terminal": terminal,
    "notebook": notebook,
    "search": search,
    "reports": reports,
    "tensorboard": tensorboard,
}


def main(names: list[str]) -> None:
    if unknown := sorted(set(names) - set(GROUPS)):
        raise SystemExit(f"{unknown[0]!r} is not a group of pictures. Valid names: {', '.join(GROUPS)}.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "work")
        folder.mkdir()
        (folder / "experiments").symlink_to(ROOT / "experiments")
        with Browser(Path(name, "browser")) as browser:
            album = Album(browser, folder)
            for group in names or GROUPS:
                GROUPS[group](album, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
