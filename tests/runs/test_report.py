"""`report.html`: parsed, and looked at in a real browser where there is one."""

from __future__ import annotations

import base64
import html.parser
import json
import os
import re
import shutil
import struct
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from lightkeras import plots
from lightkeras.command_line.entry_point import main
from lightkeras.runs import report

SCRIPT = "<script>document.title='run'</script>"
# Two by one pixels.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAYAAAD0In+KAAAAEElEQVR4nGNgYPj/nwEGAAYAAf/8ZfYPAAAAAElFTkSuQmCC"
)
METRICS = """kind,epoch,step,train/loss,val/loss,val/auc
step,1,1,2.0,,
step,1,2,1.0,,
epoch,1,2,1.5,1.25,
validation,2,3,,1.1,
epoch,2,4,0.75,1,
"""


class Page(html.parser.HTMLParser):
    """What a page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.references: list[str] = []
        self.texts: list[str] = []
        self.in_row = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.references += [found[name] or "" for name in ("src", "href", "srcset", "action", "data") if name in found]
        if tag == "img":
            self.images.append(found)
        if tag == "a":
            self.links.append(found["href"] or "")
        if tag == "tr":
            self.rows.append([])
            self.in_row = True

    def handle_endtag(self, tag: str) -> None:
        self.in_row = self.in_row and tag != "tr"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.in_row:
            self.rows[-1].append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def make_run(path: Path, **config: Any) -> Path:
    """The files of a run of two epochs."""
    write(
        path / "config.json",
        {
            "task": "Moons",
            "source": "mnist",
            "backend": "jax",
            "hparams": {"units": 16, "rate": 0.01},
            "versions": {"keras": "3.15.1"},
            "machine": {"processor": "A Fast One", "cores": 2},
            "runner": {"max_epochs": 2, "monitor": None, "checkpoints": {"keep": 1}},
            "data": {"fingerprint": "abc", "batch_size": 32},
            "lookup": {"source": "auto", "data_dir": None},
            "seed": 7,
            "argv": ["moons.py", "--hp.units", "16", "--run_dir", "a b"],
            "started": "2026-11-26T00:00:00+00:00",
            **config,
        },
    )
    best = {"step": 4, "epoch": 2, "train/loss": 0.75, "val/loss": 1.0}
    fit = {"epochs": 2, "steps": 4, "stop_reason": "max_epochs=2 reached", "diverged": False, "interrupted": None}
    fit |= {"skipped": 0, "monitor": "val/loss", "wall_s": 3.5, "best": best}
    write(path / "result.json", {"task": "Moons", "source": config.get("source", "mnist"), "fit": fit})
    write(path / "metrics.csv", METRICS)
    return path


def read(run: Path) -> Page:
    report.write(run)
    return Page((run / "report.html").read_text(encoding="utf-8"))


def add_figure(run: Path, name: str) -> None:
    (run / "figures" / name).parent.mkdir(parents=True, exist_ok=True)
    (run / "figures" / name).write_bytes(PNG)


# ---------------------------------------------------------------------- one run


def test_it_shows_configuration_and_results(tmp_path):
    run = make_run(tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    write(run / "result.json", {**result, "test": {"loss": 1.03125, "accuracy": 0.5}})
    page = read(run)
    assert ["split", "loss", "accuracy"] in page.rows
    assert ["train, best epoch", "0.7500", "\N{EN DASH}"] in page.rows
    assert ["validation, best epoch", "1.0000", "\N{EN DASH}"] in page.rows
    assert ["test", "1.0312", "0.5000"] in page.rows
    for row in (
        ["best", "epoch 2, step 4, by val/loss"],
        ["stopped", "max_epochs=2 reached"],
        ["units", "16"],
        ["rate", "0.01"],
        ["backend", "jax"],
        ["processor", "A Fast One"],
        ["keras", "3.15.1"],
        ["max epochs", "2"],
        ["checkpoints: keep", "1"],
        ["seed", "7"],
        ["fingerprint", "abc"],
    ):
        assert row in page.rows, row
    assert "python moons.py --hp.units 16 --run_dir 'a b'" in page.text
    assert f"tensorboard --logdir {run.resolve()}" in page.text
    assert "Sample data" not in page.text


def test_it_lists_the_layers_of_each_model(tmp_path):
    layers = [
        {"name": "<dense>", "class": "Dense", "output": "- x 16", "parameters": 1048, "trained": 0},
        {"name": "head", "class": "Dense", "output": "", "parameters": 17, "trained": 17},
    ]
    model = {"class": "Sequential", "parameters": 1065, "trained": 17, "layers": layers}
    empty = {"class": "Gate", "parameters": 0, "trained": 0, "layers": []}
    page = read(make_run(tmp_path / "run", models={"generator": model, "gate": empty}))
    assert ["layer", "class", "output", "parameters", "trained"] in page.rows
    assert ["<dense>", "Dense", "- x 16", "1,048", "0"] in page.rows
    assert "Model: generator" in page.text
    assert "1,065 parameters, 17 of them trained." in page.text
    assert "Model: gate" in page.text


def test_it_loads_nothing_and_runs_no_script(tmp_path):
    run = make_run(tmp_path / "run")
    add_figure(run, "test/confusion.png")
    (run / "checkpoints").mkdir()
    page = read(run)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert page.references
    for reference in page.references:
        assert reference.startswith(("data:image/png;base64,", "./")), reference
    for link in page.links:  # relative, to what is there
        assert (run / urllib.parse.unquote(link)).exists(), link
    assert page.links == ["./config.json", "./result.json", "./metrics.csv", "./checkpoints/", "./figures/"]
    assert "url(" not in (run / "report.html").read_text()


def test_the_curves_are_drawn_from_the_epochs_of_metrics_csv_unless_there_is_a_figure(tmp_path):
    run = make_run(tmp_path / "run")
    (image,) = read(run).images
    assert image["alt"] == "curves"
    assert decoded(image).startswith(b"\x89PNG")
    add_figure(run, "curves.png")
    (image,) = read(run).images
    assert decoded(image) == PNG


def test_all_figures_are_shown_by_split_with_an_alternative_text(tmp_path):
    run = make_run(tmp_path / "run")
    for name in ("curves.png", "test/confusion_matrix.png", "validation/samples.png", "validation/errors.png", "x.png"):
        add_figure(run, name)
    page = read(run)
    assert [image["alt"] for image in page.images] == [
        "curves",
        "errors (validation split)",
        "samples (validation split)",
        "confusion matrix (test split)",
        "x",
    ]
    assert [decoded(image) for image in page.images] == [PNG] * 5


def test_figures_have_the_size_that_they_were_drawn_for(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "figures").mkdir()
    (run / "figures" / "curves.png").write_bytes(plots.png(Figure(figsize=(5, 2))))
    (run / "figures" / "other.png").write_bytes(b"no picture")
    curves, other = read(run).images
    assert (curves["width"], curves["height"]) == ("480", "192")  # 96 pixels of a page are an inch
    assert "width" not in other


def test_a_picture_that_is_a_link_is_not_shown_and_control_characters_are_escaped(tmp_path):
    run = make_run(tmp_path / "run", task="a\x1b]0;owned\x07b")
    (run / "figures").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (run / "figures" / "x.png").symlink_to(tmp_path / "secret.png")
    (run / "figures" / "test").symlink_to(tmp_path)
    page = read(run)
    assert [image for image in page.images if decoded(image) == b"secret"] == []
    assert "\x1b" not in (run / "report.html").read_text()
    assert r"a\x1b]0;owned\x07b" in page.text


def decoded(image: dict[str, str | None]) -> bytes:
    return base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,"))


def test_the_page_warns_of_sample_data(tmp_path):
    page = read(make_run(tmp_path / "run", source="sample"))
    assert "Sample data.  The run used the built-in sample: its metrics are not those of the real data." in page.text


@pytest.mark.parametrize(
    ("fit", "warning"),
    [
        (
            {"diverged": True, "stop_reason": "train/loss is nan at step 3"},
            "The run diverged. train/loss is nan at step 3",
        ),
        ({"interrupted": "SIGTERM"}, "The run was interrupted by SIGTERM; it can be resumed."),
        ({"skipped": 2}, "Batches skipped, because their train step was not finite: 2."),
        (None, "The run has not finished."),
    ],
)
def test_the_page_warns_of_what_went_wrong(tmp_path, fit, warning):
    run = make_run(tmp_path / "run")
    write(run / "result.json", {} if fit is None else {"fit": fit})
    assert warning in read(run).text


def test_all_text_is_escaped(tmp_path):
    run = make_run(
        tmp_path / SCRIPT.replace("/", "_"),
        task=SCRIPT,
        source=SCRIPT,
        hparams={SCRIPT: SCRIPT},
        argv=[SCRIPT],
        versions={"keras": SCRIPT},
    )
    add_figure(run, f"{SCRIPT.replace('/', '_')}.png")
    write(run / "result.json", {"fit": {"diverged": True, "stop_reason": SCRIPT}, "test": {SCRIPT: 1.0}})
    page = read(run)
    assert "script" not in page.tags
    assert page.text.count(SCRIPT) >= 7


def test_hostile_names_cannot_leave_their_attribute(tmp_path):
    run = make_run(tmp_path / "run")
    hostile = 'a" onerror="alert(1)'
    add_figure(run, f"{hostile}.png")
    write(run / "metrics.csv", METRICS.replace("val/auc", SCRIPT))
    page = read(run)
    assert [image["alt"] for image in page.images] == ["curves", hostile]
    assert not any("onerror" in image for image in page.images)
    text = (run / "report.html").read_text()
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text
    assert "<script" not in text


def test_a_link_stays_in_the_folder_of_the_page_whatever_its_name(tmp_path):
    experiment = make_experiment(tmp_path / "all")
    (experiment / "tiny").rename(experiment / "javascript:alert(1)")
    (experiment / "a large one").rename(experiment / "b#1?.html")
    assert read(experiment).links[:2] == ["./javascript%3Aalert%281%29/report.html", "./b%231%3F.html"]


def test_a_run_that_finished_no_epoch_has_a_report(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "metrics.csv").unlink()
    write(run / "result.json", {})
    page = read(run)
    assert page.images == []
    assert "No epoch was finished." in page.text


def test_a_damaged_file_is_named(tmp_path):
    run = make_run(tmp_path / "run")
    write(run / "metrics.csv", METRICS.replace("0.75", "what"))
    with pytest.raises(ValueError, match=r"metrics\.csv is damaged: could not convert string to float: 'what'\."):
        report.write(run)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run: there is no config\.json in it"):
        report.write(tmp_path)


def test_the_command_writes_it_anew(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert (run / "report.html").is_file()
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


# ---------------------------------------------------------------------- several runs


def make_experiment(path: Path) -> Path:
    make_run(path / "tiny", hparams={"units": 2, "rate": 0.01}, started="2026-11-26T00:00:01+00:00")
    make_run(path / "a large one", hparams={"units": 512, "rate": 0.01}, started="2026-11-26T00:00:02+00:00")
    report.write(path / "tiny")
    write(
        path / "config.json", {"task": "Moons", "experiment": {"main": "main"}, "hparams": {"units": 16}, "argv": ["x"]}
    )
    write(path / "result.json", {"source": "mnist", "test": {"accuracy": 0.875}, "overfit": ["a large one"]})
    return path


def test_several_runs_are_compared_by_what_differs_with_links_to_their_reports(tmp_path):
    page = read(make_experiment(tmp_path / "all"))
    head = page.rows.index(["run", "val/loss", "units", "epochs", "stopped"])
    assert page.rows[head + 1 : head + 3] == [  # in the order in which they were started
        ["tiny", " ", "best", "1.0000", "2", "2", "max_epochs=2 reached"],
        ["a large one", "1.0000", "512", "2", "max_epochs=2 reached"],
    ]
    assert page.links[:2] == ["./tiny/report.html", "./a%20large%20one"]
    assert [image["alt"] for image in page.images] == ["overlay"]
    assert ["test: accuracy", "0.875"] in page.rows
    assert ["overfit", "a large one"] in page.rows


def test_the_page_warns_of_sample_data_in_one_of_several_runs(tmp_path):
    path = make_experiment(tmp_path / "all")
    make_run(path / "third", source="sample")
    write(path / "result.json", {})
    assert "Sample data." in read(path).text


def test_an_experiment_without_runs_has_a_report(tmp_path):
    write(tmp_path / "config.json", {"task": "Moons", "experiment": {"main": "main"}})
    assert "No runs yet." in read(tmp_path).text


def test_headings_stand_where_their_cells_do(tmp_path):
    """Flush left over texts, also where one cell of the column is a number, and flush right over numbers."""
    runs = {"left": {"units": 8, "kind": "deep", "rate": 0.5}, "right": {"units": None, "kind": 1, "rate": 0.25}}
    rows = [{"title": name, "path": None, "best": False, "values": values} for name, values in runs.items()]
    text = report.page({"runs": {"title": "Runs", "rows": rows}}).decode()
    (table,) = re.findall(r"<table>.*?</table>", text, re.DOTALL)
    classes = re.findall(r'<(th|td)[^>]* ?class="(\w+)">([^<]*)<', table)
    assert classes == [
        *(("th", "number", "units"), ("th", "text", "kind"), ("th", "number", "rate")),
        *(("td", "number", "8"), ("td", "text", "deep"), ("td", "number", "0.5000")),
        *(("td", "number", "\N{EN DASH}"), ("td", "text", "1"), ("td", "number", "0.2500")),
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.5000"), (0.01, "0.0100"), (0.002093, "0.002093"), (-0.0009743541, "-0.0009744"), (0.0, "0"), (3, "3")],
)
def test_a_number_in_a_table_has_four_decimals_or_four_digits(value, shown):
    rows = [{"title": "run", "path": None, "best": False, "values": {"rate": value}}]
    assert f'class="number">{shown}</td>' in report.page({"runs": {"title": "Runs", "rows": rows}}).decode()


def make_search(path: Path) -> Path:
    """Three trials, of which one was pruned."""
    for number, (units, loss) in enumerate([(2, 1.0), (4, 0.5), (8, 2.0)]):
        trial = make_run(path / "trials" / f"{number:04d}", hparams={"units": units, "rate": 0.01})
        result = json.loads((trial / "result.json").read_text())
        result["fit"]["best"] |= {"val/loss": loss}
        write(trial / "result.json", result)
        report.write(trial)
    write(
        path / "config.json",
        {
            "task": "Moons",
            "search": {"objective": "val/loss", "mode": "min", "oracle": "random"},
            "tried": {"units": "2 to 8 in steps of 2", "rate": "fixed to 0.01"},
            "argv": ["moons.py", "tune", "--tuner.trials", "3"],
            "resumed": [{"at": "2026-11-27", "argv": ["moons.py", "tune", "--resume"]}],
        },
    )
    rows = "trial,status,val/loss,units,rate,epochs,wall_s,reason\n0000,completed,1,2,0.01,2,3,max_epochs=2 reached\n"
    rows += "0001,completed,0.5,4,0.01,2,3,max_epochs=2 reached\n0002,pruned,2,8,0.01,1,3,worse than others\n"
    write(path / "trials.csv", rows)
    best = {"trial": "0001", "run_dir": "x", "value": 0.5, "hparams": {"units": 4, "rate": 0.01}}
    counts = {"completed": 2, "pruned": 1, "failed": 0}
    seeds = [{"trial": "0001", "values": [0.5, 0.7], "mean": 0.6, "spread": 0.125}]
    search = {"objective": "val/loss", "mode": "min", "trials": 3, **counts, "stop_reason": "trials=3 reached"}
    write(path / "result.json", {"task": "Moons", "search": {**search, "best": best, "seeds": seeds}})
    return path


def test_the_best_trial_of_a_search_is_first_and_marked_with_the_ranges_that_were_searched(tmp_path):
    page = read(make_search(tmp_path / "search"))
    head = page.rows.index(["trial", "val/loss", "status", "units", "epochs", "stopped"])
    assert page.rows[head + 1 : head + 4] == [
        ["0001", " ", "best", "0.5000", "finished", "4", "2", "max_epochs=2 reached"],
        ["0000", "1.0000", "finished", "2", "2", "max_epochs=2 reached"],
        ["0002", "2.0000", "pruned", "8", "2", "worse than others"],
    ]
    assert page.links[:3] == [f"./trials/{name}/report.html" for name in ("0001", "0000", "0002")]
    assert "0.5000 val/loss of trial 0001, lower is better" in page.text
    for row in (
        ["units", "2 to 8 in steps of 2"],
        ["trials", "2 completed, 1 pruned"],
        ["trial 0001", "0.6000 \N{PLUS-MINUS SIGN} 0.1250"],
    ):
        assert row in page.rows
    assert "python moons.py tune --tuner.trials 3" in page.text
    assert "Resumed, 2026-11-27" in page.text
    assert "python moons.py tune --resume" in page.text


def test_a_trial_shows_the_command_that_repeats_it(tmp_path):
    path = make_search(tmp_path / "search")
    page = read(path / "trials" / "0002")
    assert f"python moons.py tune --run_dir {path} --replay 0002" in page.text
    (path / "trials" / "0001").rename(path / "best")
    assert f"python moons.py tune --run_dir {path} --replay 0001" in read(path / "best").text


def test_a_search_that_is_not_finished_has_a_report(tmp_path):
    path = make_search(tmp_path / "search")
    write(path / "result.json", {})
    page = read(path)
    assert "The search has not finished." in page.text
    assert [row[0] for row in page.rows if row[0].startswith("000")] == ["0001", "0000", "0002"]


def test_the_result_comes_first_and_all_commands_are_shown(tmp_path):
    resumed = [{"at": "2026-11-27", "step": 4, "argv": ["moons.py", "--resume", "--run_dir", "a b"]}]
    run = make_run(tmp_path / "run", resumed=resumed)
    result = json.loads((run / "result.json").read_text())
    write(run / "result.json", {**result, "test": {"accuracy": 0.875}})
    page = read(run)
    order = ["0.8750", "test accuracy", "best val/loss, epoch 2", "Result", "Curves", "Commands", "Hyperparameters"]
    places = [page.text.index(text) for text in order]
    assert places == sorted(places)
    assert "Resumed after step 4, 2026-11-27" in page.text
    assert "python moons.py --resume --run_dir 'a b'" in page.text


def make_wide_run(path: Path, count: int) -> Path:
    """The files of a run of two epochs that logged many values."""
    run = make_run(path)
    names = [f"{split}/{name}" for split in ("train", "val") for name in ("loss", *(f"m{n}" for n in range(count - 1)))]
    header = ",".join(["kind,epoch,step", *names])
    rows = [",".join([f"epoch,{epoch},{2 * epoch}", *(f"{epoch}.{n}" for n in range(len(names)))]) for epoch in (1, 2)]
    write(run / "metrics.csv", "\n".join([header, *rows, ""]))
    result = json.loads((run / "result.json").read_text())
    result["fit"] |= {"best": {"step": 2, "epoch": 1, **dict.fromkeys(names, 0.5)}, "monitor": "val/m90"}
    write(run / "result.json", {**result, "test": {"loss": 0.25, "m90": 0.125}})
    return run


def test_of_very_many_values_twelve_are_drawn_and_all_are_in_a_table(tmp_path):
    run = make_wide_run(tmp_path / "run", 500)
    page = read(run)
    assert (run / "report.html").stat().st_size < 1e6
    assert page.rows[0][:4] == ["split", "m90", "loss", "m0"]
    assert len(page.rows[0]) == 17
    assert page.text.count("All 500 values") == 1
    (row,) = [row for row in page.rows if row[0] == "m90"]
    assert row == ["m90", "0.1250", "0.5000", "0.5000", "2.9100", "2.5910"]
    (head,) = [row for row in page.rows if row[0] == "value"]
    columns = ["test", "validation, best epoch", "train, best epoch", "train, last epoch", "validation, last epoch"]
    assert head == ["value", *columns]
    (image,) = page.images
    assert int(image["height"] or 0) < 1300  # four rows of panels


def test_a_run_of_few_values_has_one_table_of_them(tmp_path):
    assert "details" not in read(make_wide_run(tmp_path / "run", 15)).tags
    assert "All 17 values" in read(make_wide_run(tmp_path / "wider", 16)).text


def test_of_very_many_values_a_comparison_shows_sixteen_and_the_rest_in_a_second_table(tmp_path, capsys):
    runs = [make_wide_run(tmp_path / f"run{number}", 500) for number in range(3)]
    assert main(["compare", *map(str, runs), "--page", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("best val/") == 15  # and the two tests: the losses lead
    assert "486 further values" in printed
    page = Page((tmp_path / "page.html").read_text())
    assert (tmp_path / "page.html").stat().st_size < 1e6
    assert "All 502 values" in page.text
    assert max(map(len, page.rows)) < 24


# ---------------------------------------------------------------------- a real browser

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
)


def browse(profile: Path, *flags: str) -> str:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags]
    environment = {**os.environ, "HOME": str(profile)}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH")
def test_a_browser_shows_it_from_the_disk_with_all_its_figures_and_runs_no_script(tmp_path):
    run = make_run(tmp_path / "a run", task=SCRIPT)
    add_figure(run, "test/confusion.png")
    report.write(run)
    address = (run / "report.html").as_uri()
    shown = browse(tmp_path / "profile", "--dump-dom", address)
    page = Page(shown)
    assert "script" not in page.tags
    assert page.text.strip().startswith(f"{SCRIPT}: a run")  # the title that a script would have changed
    assert len(page.images) == 2
    picture = tmp_path / "shown.png"
    browse(tmp_path / "profile", "--window-size=600,1200", f"--screenshot={picture}", address)
    assert struct.unpack_from(">II", picture.read_bytes(), 16) == (600, 1200)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH")
@pytest.mark.parametrize(("scheme", "background"), [(0, (0x14, 0x17, 0x1B)), (1, (255, 255, 255))])
def test_the_page_follows_the_color_scheme_of_the_reader(tmp_path, scheme, background):
    run = make_run(tmp_path / "run")
    report.write(run)
    picture = tmp_path / "shown.png"
    flags = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=500,600", f"--screenshot={picture}")
    browse(tmp_path / "profile", *flags, (run / "report.html").as_uri())
    corner = matplotlib.image.imread(picture)[2, 2, :3]
    assert tuple((255 * corner).round()) == background


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH")
@pytest.mark.parametrize("width", [500, 1400])
def test_nothing_is_wider_than_the_window_and_every_figure_is_decoded(tmp_path, width):
    """The page itself runs no script: its content is measured in a page that does."""
    run = make_run(tmp_path / "run", hparams={"a" * 80: "b" * 400}, source="c" * 300)
    for number in range(3):
        add_figure(run, f"test/{'long' * 20}{number}.png")
    report.write(run)
    page = (run / "report.html").read_text()
    inner = page[page.index("<style>") : page.index("</head>")] + page[page.index("<main>") : page.index("</main>") + 7]
    measured = """<script>addEventListener("load", () => {
        const images = [...document.images].map(image => image.complete && image.naturalWidth > 0);
        document.documentElement.dataset.found = JSON.stringify({
            wide: document.documentElement.scrollWidth, window: innerWidth, images});
    })</script>"""
    around = tmp_path / "around.html"
    around.write_text(f"<!DOCTYPE html><meta charset=utf-8>{measured}{inner}")
    shown = browse(tmp_path / "profile", f"--window-size={width},1000", "--dump-dom", around.as_uri())
    found = json.loads(html.unescape(shown.split('data-found="', 1)[1].split('"', 1)[0]))
    assert found["wide"] <= found["window"]
    assert found["images"] == [True] * 4
