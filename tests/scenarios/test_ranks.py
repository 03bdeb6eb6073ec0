"""Several processes train one run, on loopback."""

from __future__ import annotations

import csv
import functools
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import harness
import pytest
import ranked
import ranks as program

PROGRAM = Path(program.__file__)
CONFORMS = PROGRAM.with_name("conforming.py")
pytestmark = pytest.mark.backends("tensorflow", reason="it starts the processes itself")


def on(backend: str, *marks: pytest.MarkDecorator) -> Any:
    missing = pytest.mark.skipif(importlib.util.find_spec(backend) is None, reason=f"{backend} is not installed")
    return pytest.param(backend, marks=[missing, *marks])


TORCH, JAX, LONG_JAX = on("torch"), on("jax"), on("jax", pytest.mark.long)
TENSORFLOW, LONG_TENSORFLOW = on("tensorflow"), on("tensorflow", pytest.mark.long)
SOON = {"LIGHTKERAS_LOST_SECONDS": "6"}
OFTEN = ["--settings", json.dumps({"saves_often": True})]


def results(ranks: ranked.Ranks, rank: int = 0) -> list[dict]:
    lines = ranks.printed(rank).splitlines()
    return [json.loads(line) for line in lines if not line.startswith("[Gloo]")]  # which JAX does not silence


def steps_of(run_dir: Path) -> list[str]:
    rows = csv.DictReader((run_dir / "metrics.csv").read_text().splitlines())
    return [row["step"] for row in rows if row["kind"] == "step"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def both(folder):
    """The same runs in one process and in two, of a backend."""

    @functools.cache
    def runs(backend: str) -> dict[int, ranked.Ranks]:
        # The last one's data is a torch DataLoader.
        tasks = "TwoMoons,clipped,streamed" + (",loaded" if importlib.util.find_spec("torch") else "")
        return {count: ranked.run([PROGRAM, tasks, folder / f"{backend}-{count}"], backend, count) for count in (1, 2)}

    return runs


@pytest.fixture(scope="module")
def whole(folder):
    """The directory of a run of two processes that was never stopped, with dropout, batch normalization and metrics."""

    @functools.cache
    def run(backend: str) -> Path:
        ranked.run([PROGRAM, "Noisy", folder / f"{backend}-whole", *OFTEN], backend)
        return folder / f"{backend}-whole"

    return run


@pytest.mark.parametrize("backend", [TORCH, JAX, TENSORFLOW])
def test_two_processes_compute_the_numbers_of_one(backend, both):
    one, two = results(both(backend)[1]), results(both(backend)[2])
    for expected, found in zip(one, two, strict=True):
        assert found["steps"] == expected["steps"]
        assert found["history"].keys() == expected["history"].keys()
        for name, values in expected["history"].items():
            assert found["history"][name] == pytest.approx(values, rel=1e-5), name
    assert results(both(backend)[2], rank=1)[0]["history"] == two[0]["history"]


# All but those that draw random numbers, or divide by the sum of the weights, which a process knows for its part alone.
CONFORMING = [
    *("Classifier", "OwnStep", "Autoencoder", "Vae", "Gan", "Distillation", "GradientPenalty", "Convolutional"),
    *("Recurrent", "Attention", "FineTuned", "Supervised", "TwoInTwoOut"),
]


@pytest.mark.long
@pytest.mark.parametrize("backend", [TORCH, JAX, TENSORFLOW])
def test_every_step_of_the_tasks_logs_what_it_does_in_one_process(backend, tmp_path):
    one, two = (
        results(ranked.run([CONFORMS, tmp_path / str(count), *CONFORMING], backend, count, timeout=600))[0]
        for count in (1, 2)
    )
    for name in CONFORMING:
        assert len(one[name]["train/loss"]) == 100
        # On TensorFlow, Keras takes a synchronized variance as a difference of large numbers (in two passes: 5e-6).
        near = 2e-5 if (backend, name) == ("tensorflow", "Convolutional") else 1e-5
        for column, values in one[name].items():
            assert two[name][column] == pytest.approx(values, rel=near, abs=1e-6), (name, column)


@pytest.mark.parametrize("backend", [TORCH, JAX, TENSORFLOW])
def test_each_of_two_processes_loads_its_half_of_every_batch(backend, both):
    pytest.importorskip("torch", reason="the DataLoader is torch's")
    one, *two = (results(both(backend)[count], rank)[3]["read"] for count, rank in ((1, 0), (2, 0), (2, 1)))
    firsts = 40 * (5 + 1)  # the preflight, one look at the first batch and four epochs read it whole
    epochs = 4 * (190 - 40)
    assert one == firsts + epochs
    assert two == [firsts + epochs // 2] * 2


@pytest.mark.parametrize("backend", [TORCH, JAX, TENSORFLOW])
def test_one_process_writes_and_the_other_prints_nothing_but_its_result(backend, both, folder):
    two = both(backend)[2]
    # gRPC, with which TensorFlow joins processes, logs what it does when the machine is busy.
    printed = [
        line for line in two.printed(1, error=True).splitlines() if not re.match(r"[IWE]\d{4} |WARNING: All log", line)
    ]
    assert printed == []
    assert "epoch   4/4" in two.printed(0, error=True)
    assert "train: every process reads all batches of a stream, and takes its part" in two.printed(0, error=True)
    if importlib.util.find_spec("torch"):  # the run of a DataLoader
        assert "train: each process reads its part of every batch" in two.printed(0, error=True)
    of_one, of_two = (folder / f"{backend}-{count}" / "TwoMoons" for count in (1, 2))
    steps = steps_of(of_two)
    assert steps == steps_of(of_one)
    assert len(steps) == len(set(steps)) == 40
    files = [{path.name for path in run.iterdir()} for run in (of_one, of_two)]
    assert {name.partition(".")[0] for name in files[0]} == {name.partition(".")[0] for name in files[1]}
    assert json.loads((of_two / "config.json").read_text())["processes"] == 2


@pytest.mark.parametrize("backend", [TORCH, LONG_JAX, LONG_TENSORFLOW])
def test_a_killed_rank_ends_the_other_and_the_run_resumes_to_the_same_bits(backend, whole, folder):
    run_dir = folder / f"{backend}-killed"
    killed = ranked.Ranks([PROGRAM, "Noisy", run_dir, *OFTEN, "--die", "1:step:3"], backend, env=SOON)
    assert killed.wait() == [1, -signal.SIGKILL]
    assert "Rank 1 of 2 gives no sign of life" in killed.printed(0, error=True)
    resumed = ranked.run([PROGRAM, "Noisy", run_dir, *OFTEN], backend)
    assert "Resuming after step" in resumed.printed(0, error=True)
    harness.assert_same(harness.end_of(whole(backend)), harness.end_of(run_dir))


@pytest.mark.parametrize("backend", [TORCH, LONG_JAX, LONG_TENSORFLOW])
def test_a_signal_to_any_rank_saves_the_run_and_ends_all_with_143(backend, folder):
    run_dir = folder / f"{backend}-signalled"
    ranks = ranked.Ranks([PROGRAM, "Waits", run_dir, "--settings", '{"max_epochs": 100000}'], backend)
    assert ranks.wait() == [143, 143]
    saved = json.loads((run_dir / "result.json").read_text())["fit"]
    assert saved["interrupted"] == "SIGTERM"
    assert saved["steps"] == int(steps_of(run_dir)[-1])
    assert 30 < saved["steps"] < 50


@pytest.mark.parametrize("backend", [TORCH, LONG_JAX, LONG_TENSORFLOW])
def test_what_differs_or_fails_in_one_rank_ends_both(backend, folder):
    def errors(task: str) -> list[str]:
        ranks = ranked.Ranks([PROGRAM, task, folder / f"{backend}-{task}"], backend)
        assert ranks.wait() == [1, 1]
        return [ranks.printed(rank, error=True) for rank in range(2)]

    for error in errors("Differs"):
        assert (
            "ValueError: The processes of the run differ in their settings. rank 1: hparams.hidden_units is 20, and 16"
            in error
        )
    assert not (folder / f"{backend}-Differs").exists()
    first, second = errors("Fails")
    assert "ValueError: no more paper" in second
    assert "(on rank 1 of 2)" in second
    assert "Rank 1 ended with ValueError: no more paper" in first
    for error in errors("Drifts"):
        assert "differ in their variables after epoch 2. rank 1: " in error


@pytest.mark.long
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("backend", [TORCH, JAX, TENSORFLOW])
def test_a_run_goes_on_with_another_number_of_processes(backend, before, after, both, folder):
    run_dir = folder / f"{backend}-from-{before}"
    ranked.run([PROGRAM, "TwoMoons", run_dir, "--settings", '{"max_epochs": 2}'], backend, before)
    found = ranked.run([PROGRAM, "TwoMoons", run_dir], backend, after)
    assert f"processes was {before} and is {after}" in found.printed(0, error=True)
    for name, values in results(both(backend)[1])[0]["history"].items():
        assert results(found)[0]["history"][name] == pytest.approx(values, rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("backend", [TORCH, JAX, TENSORFLOW])
def test_a_rank_that_hangs_ends_the_other(backend, folder):
    ranks = ranked.Ranks([PROGRAM, "Hangs", folder / f"{backend}-hangs"], backend, env=SOON)
    began = time.monotonic()
    status = ranks.processes[0].wait(100)
    assert status == 1
    assert time.monotonic() - began < 90
    ranks.kill()
    assert "Rank 1 of 2 gives no sign of life" in ranks.printed(0, error=True)


@pytest.mark.long
@pytest.mark.parametrize("task", ["NotFinite", "Watched"])
@pytest.mark.parametrize("backend", [TORCH, JAX, TENSORFLOW])
def test_a_step_that_breaks_is_located_by_all(backend, task, folder):
    settings = json.dumps({"skip_broken": 1, "preflight": False})
    ranks = ranked.Ranks([PROGRAM, task, folder / f"{backend}-{task}", "--settings", settings], backend)
    assert ranks.wait() == [0, 0]
    assert "Its batch is skipped, 1 of 1" in ranks.printed(0, error=True)
    assert results(ranks)[0]["steps"] == results(ranks, 1)[0]["steps"]


@pytest.mark.long
@pytest.mark.parametrize("backend", [TORCH, TENSORFLOW])
def test_a_rank_that_never_comes_and_a_port_in_use_are_errors(backend, folder):
    def ended(rank: int, port: int) -> subprocess.CompletedProcess:
        variables = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment = os.environ | variables | {"KERAS_BACKEND": backend, "LIGHTKERAS_JOIN_SECONDS": "3"}
        command = [sys.executable, PROGRAM, "TwoMoons", folder / "never"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)

    assert "Rank 1 of 2 did not come within 3 s" in ended(0, ranked.free_port()).stderr
    assert "rank 0 did not answer there within 3 s" in ended(1, ranked.free_port()).stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "rank 0 cannot listen there" in ended(0, taken.getsockname()[1]).stderr


@pytest.mark.long
def test_torchrun_starts_an_experiment_as_typed(tmp_path):
    experiment = Path(__file__).parents[2] / "experiments" / "mnist_expert.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(experiment)]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "LIGHTKERAS_CACHE_DIR": str(tmp_path / "cache")}
    words = ["--run_dir", str(tmp_path / "run"), "--runner.max_steps", "20", "--source", "sample"]
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tensorboard --logdir") == 1  # printed by one process
    assert json.loads((tmp_path / "run" / "result.json").read_text())["fit"]["steps"] == 20


@pytest.mark.long
@pytest.mark.parametrize("backend", [TORCH, JAX, TENSORFLOW])
def test_launch_starts_an_experiment_whose_first_process_draws_alone(backend, tmp_path):
    experiment = Path(__file__).parents[2] / "experiments" / "mnist_expert.py"
    command = [
        sys.executable,
        "-c",
        "from lightkeras.command_line.entry_point import main; raise SystemExit(main())",
        "launch",
    ]
    environment = {**os.environ, "KERAS_BACKEND": backend, "LIGHTKERAS_CACHE_DIR": str(tmp_path / "cache")}
    words = ["--run_dir", str(tmp_path / "run"), "--runner.max_steps", "20", "--source", "sample"]
    done = subprocess.run(
        [*command, "--processes", "2", str(experiment), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["fit"]["steps"] == 20
