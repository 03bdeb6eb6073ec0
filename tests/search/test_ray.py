"""Searches on a real Ray cluster of two nodes, which are processes of this machine and speak over its loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hunted
import pytest

import lightkeras as lk
from lightkeras.search.cluster import threads_for
from lightkeras.testing import TwoMoons

ray = pytest.importorskip("ray", reason="the extra ray is not installed")

FAULTS = Path(__file__).parents[1] / "faults"
EXPERIMENTS = Path(__file__).parents[2] / "experiments"

# Ray's own processes and sockets are collected when they are: no warning of that is ours to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all processes of the cluster share, and know by their environment."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Any]:
    """Two nodes with a processor each; the head has none, so that no worker is on it."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(FAULTS), *filter(None, sys.path)]))
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
        made.wait_for_nodes()
        try:
            yield made
        finally:
            made.shutdown()


def search(cluster: Any, run_dir: Path, **settings: Any) -> lk.SearchResult:
    given = {
        "objective": "val/accuracy",
        "trials": 4,
        "workers": 2,
        "pool": "ray",
        "address": cluster.address,
        "runner": lk.Runner(max_epochs=2, progress=False, pictures=False),
        **settings,
    }
    return lk.Tuner(given.pop("task", TwoMoons), **given, run_dir=run_dir).search()


def events(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "journal.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("threads", [1])
def test_a_search_on_two_nodes_gives_the_bits_of_one_on_this_machine(cluster, folder, threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(threads)))  # as many as a node has
    here = lk.Tuner(
        TwoMoons,
        objective="val/accuracy",
        trials=4,
        workers=1,
        runner=lk.Runner(max_epochs=2, progress=False, pictures=False),
        run_dir=folder / "here",
    ).search()
    there = search(cluster, folder / "there")
    assert [trial.status for trial in there.trials] == ["completed"] * 4
    assert sorted((str(t.hparams), t.objective) for t in there.trials) == sorted(
        (str(t.hparams), t.objective) for t in here.trials
    )
    assert there.best.objective == here.best.objective
    assert (there.best_dir / "model.keras").exists()
    assert not ray.is_initialized()  # it was joined for the search, and left


def test_a_node_that_is_lost_in_mid_trial_is_one_lost_attempt(cluster, folder, monkeypatch):
    monkeypatch.setenv("LIGHTKERAS_HUNTED", str(folder))
    extra = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()

    class Remove:
        """Takes the node away when all three workers are in their second epoch."""

        done = False

        def __call__(self) -> None:
            if not self.done and len(list(folder.glob("*.here"))) == 3:
                self.done = True
                cluster.remove_node(extra, allow_graceful=False)
                (folder / "go on").touch()

    remove = Remove()
    from lightkeras.search import view

    show = view.View.show
    monkeypatch.setattr(view.View, "show", lambda self: (remove(), show(self))[1])
    result = search(cluster, folder / "node", task=hunted.Waiting, trials=3, workers=3, retries=1)
    assert remove.done
    assert [trial.status for trial in result.trials] == ["completed"] * 3
    (lost,) = [event["reason"] for event in events(result.run_dir) if event["event"] == "lost"]
    assert lost.startswith("was lost with its node or its agent: ")


def test_a_worker_that_is_killed_is_one_lost_attempt_with_its_reason(cluster, folder, monkeypatch):
    monkeypatch.setenv("LIGHTKERAS_HUNTED", str(folder))
    fixed = {"fate": "dies once"}
    result = search(cluster, folder / "dies", task=hunted.Hunted, trials=1, workers=1, fixed=fixed)
    assert [trial.status for trial in result.trials] == ["completed"]
    (lost,) = [event["reason"] for event in events(result.run_dir) if event["event"] == "lost"]
    assert lost == "was killed by SIGKILL, perhaps because memory ran out, saying: the last words"


def test_a_search_that_is_told_to_end_saves_its_runs_and_goes_on(cluster, folder, tmp_path):
    """The command line of a file, whose task the workers import by its name; told to end in its second epoch."""
    program = tmp_path / "program.py"
    program.write_text("import hunted, lightkeras as lk\nif __name__ == '__main__': lk.cli(hunted.Waiting)\n")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(FAULTS), *filter(None, sys.path)]),
        "LIGHTKERAS_HUNTED": str(tmp_path),
    }
    flags = ["--tuner.pool", "ray", "--tuner.address", cluster.address, "--tuner.workers", "2", "--tuner.trials", "2"]
    flags += ["--tuner.objective", "val/accuracy", "--runner.max_epochs", "3", "--runner.pictures", "false"]
    command = [sys.executable, str(program), "tune", "--run_dir", str(tmp_path / "search")]
    process = subprocess.Popen(
        [*command, *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    journal = tmp_path / "search" / "journal.jsonl"
    while not (journal.exists() and sum(e["event"] == "reported" for e in events(tmp_path / "search")) == 2):
        assert process.poll() is None, process.communicate()[0]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    process.send_signal(signal.SIGTERM)
    (tmp_path / "go on").touch()
    said = process.communicate()[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert not any(event["event"] in ("ended", "lost") for event in events(tmp_path / "search"))
    done = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "search" / "result.json").read_text())["search"]
    assert (found["trials"], found["completed"]) == (2, 2)
    configs = [json.loads(path.read_text()) for path in tmp_path.glob("search/trials/*/config.json")]
    assert all(config["resumed"][0]["step"] > 0 for config in configs)  # inside their runs


def test_a_ray_that_is_joined_already_is_used_and_left_as_it_is(cluster, folder):
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        result = search(cluster, folder / "joined", address=None, trials=1, workers=1)
        assert result.best is not None
        assert ray.is_initialized()
        with pytest.raises(ValueError, match=r"has joined the Ray cluster at .* already"):
            search(cluster, folder / "other", address="127.0.0.1:1", trials=1, workers=1)
    finally:
        ray.shutdown()


def test_more_workers_than_the_cluster_has_places_are_refused(cluster, folder):
    with pytest.raises(
        ValueError, match=r"the cluster has no place for 9 workers of 1 CPU each\. Its nodes have .*0 CPUs and 0 GPUs"
    ):
        search(cluster, folder / "many", workers=9)
    assert not (folder / "many").exists()
    assert not ray.is_initialized()


def test_an_address_at_which_nothing_listens_is_refused_at_once(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=rf"address='{address}'\): nothing listens there .*ray start --head"):
        lk.Tuner(TwoMoons, pool="ray", address=address, run_dir=folder / "nowhere").search()
    assert not (folder / "nowhere").exists()


def test_a_node_that_does_not_see_the_directory_of_the_search_is_named(cluster, folder):
    """Its agent is asked to hold a file of another directory, as on a node that has another file system."""
    from lightkeras.search.launching import Cluster, make_pool
    from lightkeras.search.pool import WorkerLimits
    from lightkeras.search.work import Job

    using = folder / "not shared" / "workers.lock"
    job = Job("trials/0", {}, lk.Runner(run_dir=folder / "not shared" / "trials" / "0"), None)
    with make_pool(TwoMoons, None, 1, WorkerLimits(), using, cluster=Cluster(cluster.address)) as pool:
        pool.hand(0, job)
        while not (said := pool.wait()):
            pass
    assert said[0].kind == "full"
    assert "does not see" in said[0].content
    assert "file system that all nodes of the cluster share" in said[0].content


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": "rya"}, r"Tuner\(pool='rya'\) is not known\. Did you mean 'ray'"),
        ({"pool": "ray", "workers": 0}, r"Tuner\(pool='ray', workers=0\): on a cluster at least one worker"),
        ({"address": "auto"}, r"Tuner\(address='auto'\) is for a cluster: say pool='ray'"),
        ({"gpus": 1.0}, r"Tuner\(gpus=1\.0\) is for a cluster"),
        ({"pool": "ray", "gpus": -1.0}, r"Tuner\(gpus=-1\.0\): expected a number of at least 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        lk.Tuner(TwoMoons, **settings)


def test_without_ray_the_extra_is_named():
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "import lightkeras as lk\nfrom lightkeras.testing import TwoMoons\n"
        "lk.Tuner(TwoMoons, pool='ray').search()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Tuner(pool='ray') needs Ray, which is not installed: pip install 'lightkeras[ray]'." in done.stderr
