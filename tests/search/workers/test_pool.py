"""Searches on real worker processes, which die, hang, run out of memory and are terminated."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import forked
import hunted
import pytest

import lightkeras as lk
from lightkeras.search.workers.pool import WorkerLimits

PROGRAM = Path(__file__).parents[2] / "faults" / "searching.py"


@pytest.fixture
def hunted_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTKERAS_HUNTED", str(tmp_path))
    return tmp_path


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_a_worker_that_dies_or_eats_memory_is_one_lost_attempt_and_never_a_lost_search(hunted_in):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a machine with one core
        result = lk.Tuner(
            hunted.Hunted,
            objective="val/accuracy",
            oracle="grid",
            trials=None,
            fixed={"hidden_units": 4},
            space={"fate": {"values": ["well", "dies once", "eats", "raises"]}},
            workers=2,
            retries=1,
            limits=WorkerLimits(silence=None, memory_gb=2.5),
            runner=lk.Runner(max_epochs=3, progress=False, pictures=False),
            run_dir=hunted_in / "search",
        ).search()
    found = {trial.hparams["fate"]: trial for trial in result.trials}
    assert len(result.trials) == 4
    statuses = {fate: trial.status for fate, trial in found.items()}
    assert statuses == {"well": "completed", "dies once": "completed", "eats": "failed", "raises": "failed"}
    assert found["well"].objective == found["dies once"].objective  # a lost attempt leaves no trace in the numbers
    assert found["raises"].reason == "RuntimeError: no such model, of this name"
    assert found["eats"].reason.startswith("its worker was lost 2 times, the last time: it ran out of memory: it held ")
    assert found["eats"].reason.endswith(" GB, more than its 2.50 GB")
    lost = {event["run"]: event["reason"] for event in events(result.run_dir) if event["event"] == "lost"}
    names = {fate: f"trials/{trial.name}" for fate, trial in found.items()}
    assert set(lost) == {names["dies once"], names["eats"]}
    # Native libraries may print lines between.
    assert lost[names["dies once"]].startswith(
        "was killed by SIGKILL, perhaps because memory ran out, with the output: "
    )
    assert lost[names["dies once"]].endswith("the last words")
    assert "the last words" in (found["dies once"].run_dir / "output.txt").read_text()


@pytest.mark.long
def test_a_worker_without_a_heartbeat_is_killed_and_its_trial_tried_again(hunted_in, monkeypatch):
    class Clock:
        """A day has passed when the trial hangs."""

        @staticmethod
        def monotonic() -> float:
            return time.monotonic() + 86400 * (hunted_in / "hangs once").exists()

    monkeypatch.setattr("lightkeras.search.workers.pool.time", Clock)
    result = lk.Tuner(
        hunted.Hunted,
        objective="val/accuracy",
        trials=1,
        fixed={"fate": "hangs once"},
        retries=1,
        limits=WorkerLimits(silence=3600.0),
        runner=lk.Runner(max_epochs=3, progress=False, pictures=False),
        run_dir=hunted_in / "search",
    ).search()
    assert [trial.status for trial in result.trials] == ["completed"]
    (lost,) = [event["reason"] for event in events(result.run_dir) if event["event"] == "lost"]
    assert re.fullmatch(r"hung: it sent no heartbeat for 86\d{3} s, more than silence=3600", lost)
    config = json.loads((result.trials[0].run_dir / "config.json").read_text())
    assert config["resumed"][0]["step"] == 2  # it resumed after its first epoch


@pytest.mark.long
@pytest.mark.parametrize(("kills", "retries"), [(1, 1), (1, 0)])
def test_a_worker_killed_while_it_checks_the_task_is_replaced(hunted_in, monkeypatch, capfd, kills, retries):
    monkeypatch.setenv("LIGHTKERAS_KILLS", str(kills))
    runner = lk.Runner(max_epochs=1, progress=False, pictures=False, export=False)
    tuner = lk.Tuner(hunted.Checked, trials=1, retries=retries, runner=runner, run_dir=hunted_in / "search")
    if retries < kills:
        with pytest.raises(RuntimeError, match=r"task could not be checked: its worker was killed by SIGKILL"):
            tuner.search()
        assert not (hunted_in / "search").exists()
    else:
        assert [trial.status for trial in tuner.search().trials] == ["completed"]
        assert "checking the task again, because its worker was killed by SIGKILL" in capfd.readouterr().err


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> lk.SearchResult:
    """The search of `searching.py` as it is in this process."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "continue").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTKERAS_HUNTED", str(folder))
        runner = lk.Runner(max_epochs=3, progress=False, pictures=False)
        return lk.Tuner(
            hunted.Waiting, objective="val/accuracy", trials=3, workers=0, runner=runner, run_dir=folder / "search"
        ).search()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROGRAM.parent), *sys.path])}


def start(folder: Path) -> forked.Process:
    with open(folder / "printed.txt", "w") as printed:  # nobody reads while the search is at work
        arguments = [PROGRAM, folder / "search", "2"]
        return forked.Process(arguments, env=environment(), stdout=printed.fileno(), stderr=printed.fileno())


def wait_for(condition: Any, process: forked.Process | None = None) -> None:
    """Waits for other processes."""
    while not condition():
        assert process is None or process.poll() is None, process.returncode
        threading.Event().wait(0.02)


def both_are_in_their_second_epoch(folder: Path) -> bool:
    """Both reported their first epoch, and its checkpoint, which a thread writes, is on the disk."""
    search = folder / "search"
    if len(list(search.glob("trials/*/checkpoints/last"))) < 2:
        return False
    return sum(event["event"] == "reported" for event in events(search)) == 2


def same(folder: Path, whole: lk.SearchResult, workers: str) -> None:
    """Resumes the search with a number of workers, 0 for its own process."""
    done = forked.run([PROGRAM, folder / "search", workers], env=environment())
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "search" / "result.json").read_text())["search"]
    assert (found["trials"], found["completed"]) == (3, 3)
    assert found["best"]["trial"] == whole.best.name
    assert found["best"]["value"] == pytest.approx(whole.best.objective, abs=1e-6)
    for trial in whole.trials:
        run_dir = folder / "search" / "trials" / trial.name
        config = json.loads((run_dir / "config.json").read_text())
        assert config["hparams"] == trial.hparams
        rows = [row for row in (run_dir / "metrics.csv").read_text().splitlines() if row.startswith("epoch")]
        assert len(rows) == 3


@pytest.mark.long
def test_a_search_killed_with_its_workers_at_work_resumes_inside_their_runs(hunted_in, whole):
    process = start(hunted_in)
    wait_for(lambda: both_are_in_their_second_epoch(hunted_in), process)
    workers = [int(path.stem) for path in hunted_in.glob("*.here")]
    assert len(workers) == 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))  # they end with their parent
    (hunted_in / "continue").touch()
    same(hunted_in, whole, "1")
    resumed = [
        json.loads(path.read_text()).get("resumed") for path in sorted(hunted_in.glob("search/trials/*/config.json"))
    ]
    assert [found[0]["step"] for found in resumed[:2]] == [2, 2]  # after their first epochs


def test_a_terminated_search_saves_its_runs_and_exits_with_the_status_of_the_signal(hunted_in, whole):
    process = start(hunted_in)
    wait_for(lambda: both_are_in_their_second_epoch(hunted_in), process)
    process.send_signal(signal.SIGTERM)
    (hunted_in / "continue").touch()
    assert process.wait() == 128 + signal.SIGTERM
    assert not any(event["event"] in ("ended", "lost") for event in events(hunted_in / "search"))
    same(hunted_in, whole, "0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"silence": 0}, r"WorkerLimits\(silence=0\): expected a number above 0, or None"),
        ({"memory_gb": -1.0}, r"WorkerLimits\(memory_gb=-1\.0\): expected a number above 0, or None"),
        ({"runs": 0}, r"WorkerLimits\(runs=0\): expected a whole number of at least 1"),
    ],
)
def test_limits_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WorkerLimits(**settings)
