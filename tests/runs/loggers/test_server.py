"""A real TensorBoard server over runs and searches: what its tabs would show."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

import lightkeras as lk
from lightkeras.plots import png
from lightkeras.runs.loggers.tensorboard import write_images
from lightkeras.testing import TwoMoons

COLOR = "#cc79a7"
MEASUREMENTS = {"run/examples_per_second", "run/memory_gb"}
CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--no-proxy-server"),
)
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever the environment says


class Moons(TwoMoons):
    @dataclasses.dataclass(frozen=True)
    class HParams(TwoMoons.HParams):
        """Hyperparameters of every type."""

        wide: bool = lk.Bool(False)
        kind: str = lk.Choice("relu", ["relu", "tanh"])


class Other(TwoMoons):
    @dataclasses.dataclass(frozen=True)
    class HParams(TwoMoons.HParams):
        """Hyperparameters that no other task has."""

        margin: float = lk.Float(0.5, low=0.0, high=1.0)


@pytest.fixture(scope="module")
def searches(tmp_path_factory) -> list[lk.SearchResult]:
    """Two searches side by side, whose trials have the same names."""
    folder = tmp_path_factory.mktemp("logs")
    runner = lk.Runner(max_epochs=3, progress=False)
    tuner = lk.Tuner(Moons, objective="val/accuracy", workers=0, trials=2, runner=runner, run_dir=folder / "first")
    found = [tuner.search(), dataclasses.replace(tuner, seed=1, run_dir=folder / "second").search()]
    # A picture in a colour that TensorBoard does not use.
    picture = png(Figure(figsize=(2, 1), facecolor=COLOR))
    write_images(found[0].trials[0].run_dir, "validation", 20, {"validation/a picture": picture})
    return found


@pytest.fixture(scope="module")
def tested(searches) -> dict[str, dict[str, float]]:
    """Metrics of the test split, of a run of another task beside the searches, and of the best trial of the first."""
    runner = lk.Runner(max_epochs=2, progress=False, pictures=False, run_dir=searches[0].run_dir.parent / "single")
    runner.fit(Other())
    best = lk.Runner(run_dir=searches[0].best_dir, pictures=False)
    split = {"data": TwoMoons().build_data().validation(), "weights": "best"}
    hp = Moons.HParams(**searches[0].best.hparams)
    return {
        "single/hparams": dict(runner.evaluate(Other(), **split).metrics),
        "first/best/hparams": dict(best.evaluate(Moons(hp), **split).metrics),
    }


@pytest.fixture(scope="module")
def server(searches, tested) -> Iterator[str]:
    # With its reader in Python and no reloading, all data is read before the address is printed.
    flags = ("--load_fast", "false", "--reload_interval", "0", "--reload_multifile", "true")
    with serving(searches[0].run_dir.parent, *flags) as address:
        yield address


@contextlib.contextmanager
def serving(folder: Path, *flags: str) -> Iterator[str]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if found := re.search(r"at (http://\S+?)/? ", line):
                    yield found[1]
                    break
            else:
                pytest.fail("TensorBoard did not start.")
        finally:
            process.terminate()  # not SIGINT, which processes in the background of a shell ignore
            process.stderr.read()


def ask(server: str, path: str, data: Any = None, **query: str) -> Any:
    url = f"{server}/data/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with OPEN.open(request, timeout=60) as answer:
        return json.load(answer)


def trials(searches) -> dict[str, Any]:
    return {f"{search.run_dir.name}/trials/{trial.name}": trial for search in searches for trial in search.trials}


def test_every_trial_is_a_run_with_its_scalars(server, searches):
    names = [f"{prefix}{name}" for prefix in ("train/", "val/") for name in ("accuracy", "loss")]
    tags = ask(server, "plugin/scalars/tags")
    for name in trials(searches):
        assert set(tags[name]) == {
            *names,
            *(f"epoch/{name}" for name in names),
            "run/learning_rate",
            "best/val/accuracy",
            "best/val/loss",
        }
        assert set(tags[f"{name}/machine"]) == MEASUREMENTS
        assert set(tags[f"{name}/hparams"]) == {"best/val/accuracy", "best/val/loss"}


def test_the_curves_hold_every_step_and_epoch(server, searches):
    run = next(iter(trials(searches)))
    steps = ask(server, "plugin/scalars/scalars", run=run, tag="train/loss")
    assert [step for _, step, _ in steps] == list(range(1, 31))
    epochs = ask(server, "plugin/scalars/scalars", run=run, tag="epoch/val/loss")
    assert [step for _, step, _ in epochs] == [1, 2, 3]


def columns_of(server: str) -> tuple[set[str], set[str]]:
    """Hyperparameters and metrics that the HParams tab has a column for."""
    experiment = ask(server, "plugin/hparams/experiment", {"experimentName": ""})
    assert {info["name"].get("group", "") for info in experiment["metricInfos"]} == {""}
    hyperparameters = {info["name"] for info in experiment["hparamInfos"]}
    return hyperparameters, {info["name"]["tag"] for info in experiment["metricInfos"]}


def rows_of(server: str) -> dict[str, tuple[dict[str, Any], dict[str, float]]]:
    """Hyperparameters and metrics of each row of the HParams tab."""
    statuses = [f"STATUS_{status}" for status in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    query = {
        "experimentName": "",
        "allowedStatuses": statuses,
        "colParams": [{"hparam": "hidden_units"}],
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = ask(server, "plugin/hparams/session_groups", query)["sessionGroups"]
    assert all(len(group["sessions"]) == 1 for group in groups)
    return {
        group["name"]: (
            group["hparams"],
            {metric["name"]["tag"]: metric["value"] for metric in group.get("metricValues", ())},
        )
        for group in groups
    }


OF_MOONS = {"hidden_units", "learning_rate", "wide", "kind", "batch_size"}
BEST, TEST = {"best/val/accuracy", "best/val/loss"}, {"test/accuracy", "test/loss"}


def test_the_hparams_tab_of_runs_and_searches_has_every_hyperparameter_and_the_results_alone(server, searches, tested):
    assert columns_of(server) == (OF_MOONS | {"margin"}, BEST | TEST)
    rows = rows_of(server)
    assert set(rows) == {f"{name}/hparams" for name in trials(searches)} | set(tested)
    for name, trial in trials(searches).items():
        shown, values = rows[f"{name}/hparams"]
        assert shown == {**trial.hparams, "batch_size": 32}
        assert isinstance(shown["wide"], bool)
        assert set(values) == BEST
        assert values["best/val/accuracy"] == pytest.approx(trial.objective)
    for name, metrics in tested.items():
        shown, values = rows[name]
        assert set(shown) == (OF_MOONS if name.startswith("first") else set(Other.HParams.__dataclass_fields__))
        assert set(values) == BEST | TEST
        assert {plain: values[f"test/{plain}"] for plain in metrics} == pytest.approx(metrics)


@pytest.mark.parametrize("kind", ["run", "search"])
def test_the_command_that_is_printed_shows_all_of_a_run_and_of_a_search(kind, searches, tested):
    folder = searches[0].run_dir if kind == "search" else searches[0].run_dir.parent / "single"
    names = [f"trials/{trial.name}/hparams" for trial in searches[0].trials]
    expected = {*names, "best/hparams"} if kind == "search" else {"hparams"}
    with serving(folder) as server:
        deadline = time.monotonic() + 120
        while not set(ask(server, "plugin/scalars/tags")) >= expected:  # its reader runs beside the server
            assert time.monotonic() < deadline
        assert columns_of(server)[1] == BEST | TEST
        rows = rows_of(server)
    assert set(rows) == expected
    assert all(set(values) >= BEST for _, values in rows.values())
    assert set(rows["best/hparams" if kind == "search" else "hparams"][1]) == BEST | TEST


PROGRAM = """
import os, signal, sys
import keras
import lightkeras as lk
from lightkeras.testing import TwoMoons

class Kills(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if sys.argv[2] == "killed" and epoch == 2:  # step 30 is in the logs, and in no checkpoint
            os.kill(os.getpid(), signal.SIGKILL)

lk.Runner(max_epochs=5, run_dir=sys.argv[1], callbacks=[Kills()], progress=False).fit(TwoMoons(), resume=True)
"""


def points_of(server: str, tag: str, until: int) -> list[tuple[int, float]]:
    """Steps and values of a tag, once the server has read the step `until`."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(urllib.error.HTTPError):  # not read yet
            points = ask(server, "plugin/scalars/scalars", run=".", tag=tag)
            if points[-1][1] == until:
                return [(step, value) for _, step, value in points]
        assert time.monotonic() < deadline
        time.sleep(0.2)  # leaves the cores to the server


@pytest.mark.parametrize(
    "reader",
    [
        pytest.param("auto", id="the data server"),
        # test_tensorboard.py shows the same of this reader without a server.
        pytest.param("false", id="the reader in Python", marks=pytest.mark.long),
    ],
)
def test_a_server_that_runs_while_a_killed_run_is_resumed_shows_each_step_once(reader, tmp_path):
    run = tmp_path / "run"
    assert forked.run(["-c", PROGRAM, run, "killed"]).returncode == -signal.SIGKILL
    with serving(run, "--load_fast", reader, "--reload_interval", "1") as server:
        before = points_of(server, "train/loss", until=30)
        assert forked.run(["-c", PROGRAM, run, "resumed"]).returncode == 0
        after = points_of(server, "train/loss", until=50)
        epochs = points_of(server, "epoch/val/loss", until=5)
        validations = points_of(server, "val/loss", until=50)
    assert [step for step, _ in before] == list(range(1, 31))
    assert [step for step, _ in after] == list(range(1, 51))
    assert after[:30] == before
    assert [step for step, _ in validations] == [10, 20, 30, 40, 50]
    if reader == "auto":  # the reader in Python drops points of all axes by a number of train steps
        assert [step for step, _ in epochs] == [1, 2, 3, 4, 5]


def test_train_and_validation_share_a_chart(server, searches):
    run = next(iter(trials(searches)))
    (category,) = ask(server, "plugin/custom_scalars/layout")["category"]
    assert [chart["title"] for chart in category["chart"]] == ["accuracy", "loss"]
    for chart in category["chart"]:
        (tag,) = chart["multiline"]["tag"]
        found = ask(server, "plugin/custom_scalars/scalars", run=run, tag=tag)
        assert found["regex_valid"]
        title = chart["title"]
        assert set(found["tag_to_events"]) == {f"epoch/train/{title}", f"epoch/val/{title}"}


def test_the_text_tab_shows_the_configuration_of_searches_and_trials(server, searches):
    tags = ask(server, "plugin/text/tags")
    assert set(tags) == {*trials(searches), "first", "second", "single"}
    assert all(found == ["config"] for found in tags.values())
    (shown,) = ask(server, "plugin/text/text", run="first", tag="config")
    assert "<code" in shown["text"]
    assert "val/accuracy" in shown["text"]


def test_the_images_tab_has_the_picture_at_its_step(server, searches):
    run = f"first/trials/{searches[0].trials[0].name}"
    assert ask(server, "plugin/images/tags")[run].keys() == {"validation/a picture"}
    (image,) = ask(server, "plugin/images/images", run=run, tag="validation/a picture", sample="0")
    assert image["step"] == 20
    with OPEN.open(f"{server}/data/plugin/images/individualImage?{image['query']}", timeout=60) as answer:
        assert answer.read() == png(Figure(figsize=(2, 1), facecolor=COLOR))


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH")
def test_a_browser_shows_the_picture(server, tmp_path):
    shown = tmp_path / "shown.png"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900"]
    command += ["--virtual-time-budget=120000", f"--screenshot={shown}", f"{server}/#images"]
    subprocess.run(command, capture_output=True, check=True, env={**os.environ, "HOME": str(tmp_path)})
    pixels = matplotlib.image.imread(shown)[..., :3]
    close = np.abs(pixels - matplotlib.colors.to_rgb(COLOR)).max(-1) < 0.05
    assert close.sum() > 5_000  # of a picture of 260 by 130
