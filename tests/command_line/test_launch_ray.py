"""`--runner.launch ray`, on a real cluster of two nodes, which are processes of this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightkeras as lk
from lightkeras.command_line import launch_ray
from lightkeras.testing import TwoMoons

pytest.importorskip("ray.train", reason="the extra ray is not installed")

PRINTS = """
import os, sys
names = ["RANK", "WORLD_SIZE"]
with open(f"{sys.argv[1]}/{os.environ['RANK']}", "a") as file:
    file.write(" ".join([os.environ[name] for name in names] + sys.argv[2:]) + chr(10))
print("rank", os.environ["RANK"], os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], flush=True)
"""
ENDS = "import sys; sys.exit(int(sys.argv[1]))"
# The process with rank 1 is killed in the first attempts; those of an attempt before must be gone.
IS_KILLED = """
import os, pathlib, signal, sys
folder, attempts, rank = pathlib.Path(sys.argv[1]), int(sys.argv[2]), os.environ["RANK"]
with open(folder / rank, "a") as file:
    file.write("begun ")
attempt = len((folder / rank).read_text().split())
for path in folder.glob(f"{attempt - 1}.*.pid"):
    try:
        os.kill(int(path.read_text()), 0)
        sys.exit(3)
    except ProcessLookupError:
        pass
if attempt > attempts:
    sys.exit(0)
(folder / f"{attempt}.{rank}.new").write_text(str(os.getpid()))
(folder / f"{attempt}.{rank}.new").rename(folder / f"{attempt}.{rank}.pid")
while len(list(folder.glob(f"{attempt}.*.pid"))) < 2:
    pass
if rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
signal.pause()
"""
WAITS = """
import os, pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
(pathlib.Path(sys.argv[1]) / f"{os.environ['RANK']}.here").touch()
while True:
    signal.pause()
"""
EXPERIMENT = """
import lightkeras as lk
from lightkeras.testing import TwoMoons

if __name__ == "__main__":
    lk.cli(TwoMoons, pictures=False)
"""

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two nodes with a processor each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.setenv("RAY_worker_niceness", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=1)
        made.wait_for_nodes()
        patch.setenv("RAY_ADDRESS", made.address)
        try:
            yield
        finally:
            made.shutdown()


def test_each_worker_runs_the_command_with_its_rank(program, tmp_path):
    assert launch_ray.launch([program(PRINTS), str(tmp_path), "--flag", "-"], 2, tmp_path / "run", restarts=0) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["0 2 --flag -\n", "1 2 --flag -\n"]
    assert list(tmp_path.glob("run*")) == []


@pytest.mark.long
@pytest.mark.parametrize(("status", "expected"), [(2, 2), (7, 1)])
def test_a_wrong_argument_is_not_tried_again_and_a_failure_is_told(program, tmp_path, capsys, status, expected):
    assert launch_ray.launch([program(ENDS), str(status)], 2, tmp_path / "run", restarts=0) == expected
    assert (" ended with status 7." in capsys.readouterr().err) == (status == 7)


def test_a_run_that_diverged_is_known_by_its_result(tmp_path):
    class Diverges(TwoMoons):
        def loss(self, batch, training):
            return super().loss(batch, training) * float("inf")

    settings = {"max_epochs": 1, "progress": False, "pictures": False, "export": False, "preflight": False}
    for task in (TwoMoons, Diverges):
        lk.Runner(run_dir=tmp_path / task.__name__, **settings).fit(task())
    found = {name: launch_ray._diverged(tmp_path / name) for name in ("TwoMoons", "Diverges", "nowhere")}
    assert found == {"TwoMoons": False, "Diverges": True, "nowhere": False}


def test_all_are_started_again_after_one_was_killed(program, tmp_path):
    assert launch_ray.launch([program(IS_KILLED), str(tmp_path), "1"], 2, tmp_path / "run", restarts=1) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["begun begun "] * 2


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)]
)
def test_a_signal_ends_the_processes_as_theirs_would(program, tmp_path, number, status):
    def send() -> None:
        while len(list(tmp_path.glob("*.here"))) < 2:
            threading.Event().wait(0.05)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    threading.Thread(target=send, daemon=True).start()
    assert launch_ray.launch([program(WAITS), str(tmp_path)], 2, tmp_path / "run", restarts=3) == status
    assert signal.getsignal(number) is before
    assert list(tmp_path.glob("run*")) == []


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_a_signal_saves_the_run(program, tmp_path):
    more = ["--runner.max_epochs", "100000", "--runner.launch", "ray", "--run_dir", str(tmp_path / "run")]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, program(EXPERIMENT), "fit", *more], env=environment) as ran:
        while ran.poll() is None and not any((tmp_path / "run" / "checkpoints").glob("*")):
            threading.Event().wait(0.05)
        ran.terminate()
        assert ran.wait(240) == 143
    assert json.loads((tmp_path / "run" / "result.json").read_text())["fit"]["interrupted"] == "SIGTERM"


def test_more_workers_than_the_cluster_has_places_for_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--runner.workers 3: the Ray cluster has 2 CPUs, and each worker needs one"):
        launch_ray.launch(["program.py"], 3, tmp_path / "run", restarts=0)
    with pytest.raises(ValueError, match=r"--runner.workers 1: expected at least 2 processes"):
        launch_ray.launch(["program.py"], 1, tmp_path / "run", restarts=0)
    with pytest.raises(ValueError, match=r"--runner.restarts -1: expected a whole number of at least 0"):
        launch_ray.launch(["program.py"], 2, tmp_path / "run", restarts=-1)


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_a_run_whose_worker_is_killed_goes_on_from_its_last_checkpoint(program, tmp_path):
    """The journal of the run without the kill is equal to the bit."""
    found = {}
    for name in ("whole", "killed"):
        run_dir = tmp_path / name
        more = ["--runner.max_epochs", "6", "--runner.launch", "ray", "--run_dir", str(run_dir)]
        command = [sys.executable, program(EXPERIMENT), "fit", *more]
        with subprocess.Popen(command, env={**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}) as ran:
            if name == "killed":
                kill_one(run_dir, ran)
            assert ran.wait(240) == 0
        config = json.loads((run_dir / "config.json").read_text())
        assert len(config.get("resumed", [])) == (name == "killed")
        result = json.loads((run_dir / "result.json").read_text())
        found[name] = result["fit"]["best"]
    assert found["killed"] == found["whole"]


def kill_one(run_dir: Path, ran: subprocess.Popen) -> None:
    """Kills one of the two training processes after the first checkpoint."""
    import psutil

    while ran.poll() is None:
        if any((run_dir / "checkpoints").glob("*")):
            for process in psutil.process_iter(["cmdline", "environ"]):
                words = process.info["cmdline"] or []
                if str(run_dir) in words and (process.info["environ"] or {}).get("RANK") == "1":
                    process.send_signal(signal.SIGKILL)
                    return
        threading.Event().wait(0.02)
