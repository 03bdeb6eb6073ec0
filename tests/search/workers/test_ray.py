"""Searches on a real Ray cluster of two nodes, which are processes of this machine and speak over its loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hunted
import pytest

import lightkeras as lk
from lightkeras.search.workers.launch import Cluster, make_pool
from lightkeras.search.workers.pool import WorkerLimits
from lightkeras.search.workers.process import Setup
from lightkeras.search.workers.protocol import THREADS
from lightkeras.search.workers.ray import RayLauncher, places_on, threads_for
from lightkeras.testing import TwoMoons

ray = pytest.importorskip("ray", reason="the extra ray is not installed")

FAULTS = Path(__file__).parents[2] / "faults"
ONE_THREAD = dict.fromkeys(THREADS, "1")  # as the nodes have, so that sums are the same everywhere

# Ray's own processes and sockets are collected when they are: no warning of that is ours to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


def pause() -> None:
    """Waits for other processes."""
    threading.Event().wait(0.05)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a processor each, one also with what it takes for a GPU; the head has none, and gets no worker.

    A node that is lost is noticed after one second, and not after half a minute. Workers get as much of a busy machine
    as other processes: Ray gives them a niceness of 15, with which they took minutes beside other tests.
    """
    from ray.cluster_utils import Cluster as RayCluster

    noticed = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(FAULTS), *filter(None, sys.path)]))
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.setenv("RAY_worker_niceness", "0")
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": noticed}
        made = RayCluster(initialize_head=True, head_node_args=head)
        made.both = [made.add_node(num_cpus=1, num_gpus=count) for count in (1, 0)]
        made.wait_for_nodes()
        try:
            yield made
        finally:
            made.shutdown()


@pytest.fixture
def at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where workers leave their process ids when they are at work, and wait for the file `go on`."""
    monkeypatch.setenv("LIGHTKERAS_HUNTED", str(tmp_path))
    return tmp_path


def tuner(run_dir: Path, **settings: Any) -> lk.Tuner:
    given = {
        "objective": "val/accuracy",
        "trials": 3,
        "workers": 2,
        "pool": "ray",
        "runner": lk.Runner(max_epochs=3, progress=False, pictures=False),
        **settings,
    }
    return lk.Tuner(given.pop("task", hunted.Waiting), **given, run_dir=run_dir)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> lk.SearchResult:
    """The same search by a worker of this machine."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "continue").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTKERAS_HUNTED", str(folder))
        for name, count in ONE_THREAD.items():
            patch.setenv(name, count)
        return tuner(folder / "search", pool="local", workers=1).search()


def events(run_dir: Path, *kinds: str) -> list[dict[str, Any]]:
    journal = run_dir / "journal.jsonl"
    found = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    return [event for event in found if event["event"] in kinds]


def at_work_in(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.here")]


def node_of(process: int) -> str:
    """What a worker got from Ray of the node that it is on."""
    variables = Path(f"/proc/{process}/environ").read_text().split("\0")
    return next(variable for variable in variables if variable.startswith("RAY_RAYLET_PID="))


@contextlib.contextmanager
def meanwhile(condition: Callable[[], Any], act: Callable[[], Any]) -> Iterator[None]:
    """Calls a function as soon as a condition holds, while a search runs in this thread."""
    over, raised = threading.Event(), list[BaseException]()

    def watch() -> None:
        try:
            while not condition():
                if over.wait(0.05):
                    return
            act()
        except BaseException as error:
            raised.append(error)
        finally:
            over.set()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if raised:
        raise raised[0]


def test_a_search_on_two_nodes_gives_the_bits_of_one_on_this_machine(cluster, at_work, whole):
    nodes = set[str]()

    def both_work() -> None:
        (at_work / "continue").touch()
        nodes.update(node_of(process) for process in at_work_in(at_work))

    with meanwhile(lambda: len(at_work_in(at_work)) == 2, both_work):
        result = tuner(at_work / "search", address=cluster.address).search()
    assert len(nodes) == 2
    assert [(t.name, t.hparams, t.objective) for t in result.trials] == [
        (t.name, t.hparams, t.objective) for t in whole.trials
    ]
    assert (result.best.name, result.best.status) == (whole.best.name, "completed")
    assert (result.best_dir / "model.keras").exists()
    assert not ray.is_initialized()  # it was joined for the search, and left


@pytest.mark.long  # test_pool.py terminates one on this machine, and the two nodes above give the same bits
def test_a_terminated_search_saves_its_runs_and_resumes_exactly_here(cluster, at_work, whole):
    """The command line of a file; it is resumed without the cluster."""
    program = at_work / "program.py"
    program.write_text("import hunted, lightkeras as lk\nif __name__ == '__main__': lk.cli(hunted.Waiting)\n")
    search = at_work / "search"
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join([str(FAULTS), *filter(None, sys.path)])}
    command = [sys.executable, str(program), "tune", "--run_dir", str(search)]
    flags = ["--tuner.pool", "ray", "--tuner.address", cluster.address, "--tuner.workers", "2", "--tuner.trials", "3"]
    flags += ["--tuner.objective", "val/accuracy", "--runner.max_epochs", "3", "--runner.pictures", "false"]
    process = subprocess.Popen(
        [*command, *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while len(events(search, "reported")) < 2:
        assert process.poll() is None, process.communicate()[0]
        pause()
    process.send_signal(signal.SIGTERM)
    (at_work / "continue").touch()
    said = process.communicate()[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert not events(search, "ended", "lost")
    assert "ray" not in said.replace(str(at_work), "").replace("--tuner.pool ray", "").lower()  # its chatter
    here = [*command, "--resume", "--tuner.pool", "local", "--tuner.workers", "1"]
    done = subprocess.run(here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {event["run"]: event["outcome"]["value"] for event in events(search, "ended")}
    assert found == {f"trials/{trial.name}": trial.objective for trial in whole.trials}
    configs = [json.loads((search / "trials" / name / "config.json").read_text()) for name in ("0000", "0001")]
    assert all(config["resumed"][0]["step"] > 0 for config in configs)  # inside their runs


def test_a_worker_that_is_killed_is_one_lost_attempt_also_of_a_ray_that_was_joined_before(cluster, at_work):
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        fixed = {"fate": "dies once"}
        result = tuner(at_work / "search", task=hunted.Hunted, trials=1, workers=1, fixed=fixed).search()
        assert ray.is_initialized()
        with pytest.raises(ValueError, match=r"has joined the Ray cluster at .* already"):
            tuner(at_work / "other", address="127.0.0.1:1").search()
    finally:
        ray.shutdown()
    assert [trial.status for trial in result.trials] == ["completed"]
    (lost,) = [event["reason"] for event in events(result.run_dir, "lost")]
    assert lost == "was killed by SIGKILL, perhaps because memory ran out, with the output: the last words"


# ---------------------------------------------------------------------- without Keras in the workers


def launcher(cluster: Any, gpus: float = 0.0, module: str = TwoMoons.__module__, using: Path | None = None) -> Any:
    return RayLauncher(Setup(b"", module, None, None, using, "token"), 1, None, cluster.address, gpus)


def marked(mark: str) -> list[int]:
    """Worker processes with this in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            worker = b"multiprocessing" in (folder / "cmdline").read_bytes()
            if worker and f"LIGHTKERAS_MARK={mark}\0" in (folder / "environ").read_text():
                found.append(int(folder.name))
    return found


_DRIVER = """
import sys, threading
from lightkeras.search.workers.ray import RayLauncher
from lightkeras.search.workers.process import Setup
if __name__ == "__main__":
    launcher = RayLauncher(Setup(b"", "keras", None, None, None, ""), 1, None, sys.argv[1], 0.0)
    channel = launcher.start(0)
    while not channel.started():
        channel.received()
    threading.Event().wait()
"""


def test_workers_end_with_a_search_that_is_killed(cluster, tmp_path):
    program = tmp_path / "driver.py"
    program.write_text(_DRIVER)
    environment = {
        **os.environ,
        "LIGHTKERAS_MARK": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    process = subprocess.Popen([sys.executable, str(program), cluster.address], env=environment)
    while not marked(str(tmp_path)):
        assert process.poll() is None
        pause()
    process.kill()
    process.wait()
    while marked(str(tmp_path)):
        pause()


@pytest.mark.parametrize(("gpus", "expected"), [(0.0, {""}), (0.5, {"0"})])
def test_a_worker_sees_the_gpus_that_it_was_given_and_no_others(cluster, tmp_path, monkeypatch, gpus, expected):
    monkeypatch.setenv("LIGHTKERAS_MARK", str(tmp_path))
    made = launcher(cluster, gpus)
    try:
        channel = made.start(0)
        while not channel.started():
            channel.received()
        variables = [Path(f"/proc/{process}/environ").read_text().split("\0") for process in marked(str(tmp_path))]
        channel.end()
    finally:
        made.close()
    seen = {value for found in variables for name, _, value in (v.partition("=") for v in found) if "CUDA_V" in name}
    assert seen == expected


def test_a_node_that_does_not_see_the_directory_of_the_search_is_named_before_the_first_run(
    cluster, tmp_path, monkeypatch
):
    """A path that leads each process elsewhere, as one to a machine's own disk does."""
    monkeypatch.chdir(tmp_path)
    folder = Path("/proc/self/cwd/search")
    folder.mkdir()
    with (
        make_pool(TwoMoons, None, 1, WorkerLimits(), folder / "workers.lock", cluster=Cluster(cluster.address)) as pool,
        pytest.raises(OSError, match=rf"\([\d.]+\) cannot see {folder}\. Give a run_dir .* share") as caught,
    ):
        pool.begin()
    assert str(caught.value).count("cannot see") == 2  # both nodes; the head gets no worker


def test_a_node_that_cannot_import_the_task_is_named_before_anything_runs(cluster):
    with pytest.raises(ImportError, match=r"Not all nodes .* \([\d.]+\) cannot import nosuchtasks: install it"):
        launcher(cluster, module="nosuchtasks.moons")
    assert not ray.is_initialized()


def test_more_workers_than_the_cluster_has_places_are_refused(cluster, tmp_path):
    with pytest.raises(
        ValueError, match=r"the cluster has no place for 9 workers of 1 CPU each\. Its nodes have .*0 CPUs and 0 GPUs"
    ):
        tuner(tmp_path / "many", address=cluster.address, workers=9).search()
    assert not (tmp_path / "many").exists()
    assert not ray.is_initialized()


def test_a_worker_that_waits_for_a_place_is_reported_once(cluster, monkeypatch):
    monkeypatch.setattr("lightkeras.search.workers.ray.PATIENCE", 0.5)
    made = launcher(cluster)

    def holds() -> None:
        threading.Event().wait()

    try:
        holders = [ray.remote(num_cpus=1, max_retries=0)(holds).remote() for _ in range(2)]
        while ray.available_resources().get("CPU", 0.0):
            pause()
        channel = made.start(0)
        assert not channel.started()
        threading.Event().wait(0.6)
        with pytest.warns(UserWarning, match=r"lightkeras worker 0 has waited for a place .* 0\.5 s .* `ray status`"):
            channel.started()
        for holder in holders:
            ray.cancel(holder, force=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            while not channel.started():
                channel.received()
        channel.end()
    finally:
        made.close()


def test_joining_a_cluster_leaves_sigterm_as_it_was(cluster):
    before = signal.getsignal(signal.SIGTERM)
    made = launcher(cluster)
    assert signal.getsignal(signal.SIGTERM) is before
    made.close()


# ---------------------------------------------------------------------- without a cluster


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "expected"),
    [
        ([{"CPU": 8.0}], 2, 0.0, 4),
        ([{"CPU": 4.0}, {"CPU": 4.0}], 3, 0.0, 2),
        ([{}, {"CPU": 1.0}, {"CPU": 3.0}], 2, 0.0, 1),
        ([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0}], 4, 0.5, 4),
    ],
)
def test_each_worker_gets_as_many_threads_as_let_all_of_them_fit(nodes, workers, gpus, expected):
    assert threads_for(nodes, workers, gpus) == expected


@pytest.mark.parametrize(("gpus", "expected"), [(1.0, 3), (2.0, 1), (0.5, 6), (0.6, 3), (0.1, 30)])
def test_a_part_of_a_gpu_is_of_one_gpu(gpus, expected):
    assert places_on([{"CPU": 64.0, "GPU": 3.0}], 1, gpus) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": "rya"}, r"Tuner\(pool='rya'\) is not known\. Did you mean 'ray'"),
        ({"pool": "ray", "workers": 0}, r"Tuner\(pool='ray', workers=0\): on a cluster at least one worker"),
        ({"address": "auto"}, r"Tuner\(address='auto'\) needs a cluster: set pool='ray'"),
        ({"gpus": 1.0, "workers": 0}, r"Tuner\(gpus=1\.0, workers=0\): only worker processes have GPUs of their own"),
        ({"pool": "ray", "gpus": -1.0}, r"Tuner\(gpus=-1\.0\): expected a number of at least 0"),
        ({"pool": "ray", "gpus": 1.5}, r"Tuner\(gpus=1\.5\): above 1, expected a whole number"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        lk.Tuner(TwoMoons, **settings)


def test_without_ray_the_extra_is_named():
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "import lightkeras as lk\nfrom lightkeras.testing import TwoMoons\n"
        "lk.cli(TwoMoons, args=['tune', '--tuner.pool', 'ray'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Tuner(pool='ray') needs Ray, which is not installed: pip install 'lightkeras[ray]'." in done.stderr


# ---------------------------------------------------------------------- last: it takes a node away


@pytest.mark.long  # a worker that is killed is lost in the same way
def test_a_node_that_is_lost_in_mid_trial_is_one_lost_attempt(cluster, at_work):
    search = at_work / "search"

    def take_one_away() -> None:
        mine = ray.get_runtime_context().get_node_id()  # the search's own place, which Ray chose among all
        assert mine in {node.node_id for node in cluster.list_all_nodes()}
        theirs = next(node for node in reversed(cluster.both) if node.node_id != mine)
        cluster.remove_node(theirs, allow_graceful=False)
        for _ in range(600):  # its processes outlive it by a moment, in which a trial could come to its end
            if events(search, "lost"):
                break
            pause()
        (at_work / "continue").touch()

    with meanwhile(lambda: len(at_work_in(at_work)) == 2, take_one_away):
        result = tuner(search, address=cluster.address, trials=2, retries=1).search()
    assert [trial.status for trial in result.trials] == ["completed"] * 2
    (lost,) = [event["reason"] for event in events(result.run_dir, "lost")]
    assert lost.startswith("was lost with its node or its agent: ")
