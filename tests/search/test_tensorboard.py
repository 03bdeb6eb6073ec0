"""The trials of a search in a real TensorBoard: listed by its HParams plugin, and shown by a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import hunted
import pytest

import lightkeras as lk

OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever the environment says


@pytest.fixture(scope="module", params=[12, pytest.param(50, marks=pytest.mark.long)])
def search(request, tmp_path_factory) -> lk.SearchResult:
    """A search over two kinds of models, one of which has a depth; 50 trials are more than a screen shows."""
    limit = lk.LimitBatches(train=1)
    runner = lk.Runner(max_epochs=1, progress=False, pictures=False, preflight=False, limit_batches=limit)
    return lk.Tuner(
        hunted.Many,
        objective="val/accuracy",
        trials=request.param,
        workers=0,
        runner=runner,
        run_dir=tmp_path_factory.mktemp("logs") / "search",
    ).search()


@pytest.fixture(scope="module")
def server(search) -> Iterator[str]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(search.run_dir), "--port", "0"]
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
            process.terminate()
            process.stderr.read()


def groups_of(server: str) -> dict[str, Any]:
    query = {
        "experimentName": "",
        "allowedStatuses": [f"STATUS_{status}" for status in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")],
        "colParams": [{"hparam": "kind"}],
        "startIndex": 0,
        "sliceSize": 1000,
    }
    body = json.dumps(query).encode()
    request = urllib.request.Request(
        f"{server}/data/plugin/hparams/session_groups", body, {"Content-Type": "application/json"}
    )
    with OPEN.open(request, timeout=60) as answer:
        return {group["name"]: group for group in json.load(answer)["sessionGroups"]}


def test_every_trial_is_listed_with_its_active_hyperparameters_and_its_objective(server, search):
    groups = groups_of(server)
    assert len(groups) == len(search.trials)
    for trial in search.trials:
        group = groups[f"trials/{trial.name}/hparams"]
        expected = {name: value for name, value in trial.hparams.items() if name not in trial.inactive}
        assert group["hparams"] == expected
        assert ("depth" in group["hparams"]) == (trial.hparams["kind"] == "deep")
        values = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
        assert values["best/val/accuracy"] == pytest.approx(trial.objective)
    assert {trial.hparams["kind"] for trial in search.trials} == {"wide", "deep"}


@pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_shows_the_trials_in_the_hparams_tab(server, search, tmp_path: Path):
    wanted = {f"trials/{trial.name}/hparams" for trial in search.trials}
    with browser.Browser(tmp_path / "profile") as page:
        page.open(f"{server}/#hparams")
        text = ""
        for _ in range(1500):  # the page asks the server for them when it is there
            text = page.text()
            if wanted <= set(text.split()):
                break
            threading.Event().wait(0.2)
        page.picture(tmp_path / "hparams.png")
    assert wanted <= set(text.split()), text[-2000:]
    for heading in ("hidden_units", "learning_rate", "kind", "depth", "best/val/accuracy"):
        assert heading in text
