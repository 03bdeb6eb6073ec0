"""A real TensorBoard server over a search: what its tabs would show."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

import lightkeras as lk
from lightkeras.plots import png
from lightkeras.runs.loggers import write_images
from lightkeras.testing import TwoMoons

COLOR = "#cc79a7"
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
def server(searches) -> Iterator[str]:
    folder = searches[0].run_dir.parent
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0"]
    # With its reader in Python and no reloading, all data is read before the address is printed.
    command += ["--load_fast", "false", "--reload_interval", "0", "--reload_multifile", "true"]
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
    expected = {*names, *(f"epoch/{name}" for name in names), "best/val/accuracy", "best/val/loss"}
    tags = ask(server, "plugin/scalars/tags")
    assert set(tags) == set(trials(searches))
    assert all(set(found) == expected for found in tags.values())


def test_the_curves_hold_every_step_and_epoch(server, searches):
    run = next(iter(trials(searches)))
    steps = ask(server, "plugin/scalars/scalars", run=run, tag="train/loss")
    assert [step for _, step, _ in steps] == list(range(1, 31))
    epochs = ask(server, "plugin/scalars/scalars", run=run, tag="epoch/val/loss")
    assert [step for _, step, _ in epochs] == [1, 2, 3]


def test_the_hparams_tab_has_a_row_per_trial_with_hyperparameters_and_the_best_value(server, searches):
    # Of two searches under one directory TensorBoard takes the columns of the first.
    experiment = ask(server, "plugin/hparams/experiment", {"experimentName": ""})
    infos = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
    assert infos == {
        "hidden_units": "DATA_TYPE_FLOAT64",
        "learning_rate": "DATA_TYPE_FLOAT64",
        "wide": "DATA_TYPE_BOOL",
        "kind": "DATA_TYPE_STRING",
    }
    assert [info["name"]["tag"] for info in experiment["metricInfos"]] == ["best/val/accuracy", "val/accuracy"]
    statuses = [f"STATUS_{status}" for status in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    query = {
        "experimentName": "",
        "allowedStatuses": statuses,
        "colParams": [{"hparam": "wide"}],
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = {group["name"]: group for group in ask(server, "plugin/hparams/session_groups", query)["sessionGroups"]}
    assert set(groups) == set(trials(searches))
    for name, trial in trials(searches).items():
        shown = groups[name]["hparams"]
        assert shown == {**trial.hparams, "batch_size": 32}
        assert isinstance(shown["wide"], bool)
        values = {metric["name"]["tag"]: metric["value"] for metric in groups[name]["metricValues"]}
        assert values["best/val/accuracy"] == pytest.approx(trial.objective)
        assert len(groups[name]["sessions"]) == 1


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
    assert set(tags) == {*trials(searches), "first", "second"}
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
