"""The outbox of loggers that send values to a service, with a service in memory."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from lightkeras.runs.loggers import Run
from lightkeras.runs.loggers.histogram import histogram_of
from lightkeras.runs.loggers.remote import Remote, RemoteLogger, require
from lightkeras.system import files

NAMES = ["train/loss", "val/loss"]


class Service:
    """Keeps what it got, by run and by name."""

    def __init__(self):
        self.runs, self.calls, self.reachable, self.got = {}, [], True, threading.Event()

    def points(self, name, run="run-0"):
        return [(step, value) for step, value in self.runs[run].get(name, [])]


class InMemory(Remote):
    def __init__(self, service, run, resumed):
        super().__init__(resumed)
        self.service, self.run = service, run

    def last_step(self, name):
        self.service.calls.append(("last_step", name))
        return max((step for step, _ in self.service.runs[self.run].get(name, [])), default=-1)

    def send(self, entries):
        for entry in entries:
            for step, row in entry.rows():
                for name, value in row.items():
                    if not self.service.reachable:
                        raise TimeoutError("no answer")
                    if self.is_new(name, step):
                        self.service.runs[self.run].setdefault(name, []).append((step, value))
                        self.sent(name, step)
        self.service.got.set()

    def send_artifacts(self, paths):
        self.service.calls.append(("artifacts", [path.name for path in paths]))

    def close(self, failed):
        self.service.calls.append(("close", failed))


class ToMemory(RemoteLogger):
    def __init__(self, service, every_steps=1):
        super().__init__("memory", every_steps)
        self.service = service

    def connect(self, run, known):
        name = known or f"run-{len(self.service.runs)}"
        self.service.runs.setdefault(name, {})
        return InMemory(self.service, name, known is not None), name


@pytest.fixture
def service():
    return Service()


def opened(service, folder: Path, position=None, step=0, **settings) -> ToMemory:
    logger = ToMemory(service, **settings)
    logger.open(Run(folder, NAMES, position, step))
    return logger


def lost(logger):
    """Ends the logger as SIGKILL does: nothing more is written or sent."""
    logger._file.close()
    sender = logger._sender
    with sender._changed:
        sender._send_next = lambda: None
        sender._released = sender._sent
        sender._ending = True
        sender._remote = type("Dead", (), {"send_artifacts": lambda *_: None, "close": lambda *_: None})()
        sender._changed.notify()
    sender._thread.join()


def log(logger, steps):
    for step in steps:
        logger.log_steps(1, 2 * step - 1, {"train/loss": [step + 0.25, step + 0.5]})
        logger.log_validation(1, 2 * step, {"val/loss": -float(step)})


EXPECTED = [(step, (step + 1) // 2 + (0.5 if step % 2 == 0 else 0.25)) for step in range(1, 9)]


def test_nothing_is_sent_before_a_checkpoint_that_has_it_and_everything_at_the_end(service, tmp_path):
    logger = opened(service, tmp_path)
    log(logger, [1, 2])
    position = logger.position()
    assert position == {"memory.outbox": (tmp_path / "memory.outbox").stat().st_size}
    log(logger, [3])
    logger.flush()
    assert service.runs == {"run-0": {}}
    logger.saved(position)
    assert service.got.wait(30)
    assert service.points("train/loss") == EXPECTED[:4]
    log(logger, [4])
    logger.close()
    assert service.points("train/loss") == EXPECTED
    assert service.points("val/loss") == [(2, -1), (4, -2), (6, -3), (8, -4)]
    assert service.calls == [("artifacts", []), ("close", False)]


@pytest.mark.parametrize("sent_before", [True, False])
def test_a_killed_and_resumed_run_has_each_point_once(service, tmp_path, sent_before):
    """Killed after its checkpoint: before or after the values before it were sent."""
    logger = opened(service, tmp_path)
    log(logger, [1, 2])
    position = logger.position()
    log(logger, [3])
    if sent_before:
        logger.saved(position)
        assert service.got.wait(30)
    lost(logger)
    again = opened(service, tmp_path, position, step=4)
    log(again, [3, 4])
    again.close()
    assert list(service.runs) == ["run-0"]
    assert service.points("train/loss") == EXPECTED
    assert service.points("val/loss") == [(2, -1), (4, -2), (6, -3), (8, -4)]


def test_values_that_were_sent_at_an_error_are_not_sent_again_by_the_resumed_run(service, tmp_path):
    logger = opened(service, tmp_path)
    log(logger, [1])
    position = logger.position()
    log(logger, [2, 3])
    logger.close(failed=True)
    assert service.points("train/loss") == EXPECTED[:6]
    again = opened(service, tmp_path, position, step=2)
    log(again, [2, 3, 4])
    again.close()
    assert service.points("train/loss") == EXPECTED
    assert [call for call in service.calls if call[0] == "close"] == [("close", True), ("close", False)]


def test_a_run_without_a_checkpoint_continues_its_run_of_the_service(service, tmp_path):
    logger = opened(service, tmp_path)
    log(logger, [1])
    logger.close(failed=True)
    again = opened(service, tmp_path, {})
    log(again, [1, 2])
    again.close()
    assert service.points("train/loss") == EXPECTED[:4]


def test_a_copy_of_the_directory_without_the_id_is_a_run_of_its_own_with_all_values(service, tmp_path):
    logger = opened(service, tmp_path)
    log(logger, [1])
    position = logger.position()
    logger.close()
    (tmp_path / "memory.run.json").unlink()
    again = opened(service, tmp_path, position, step=2)
    log(again, [2])
    again.close()
    assert service.points("train/loss", "run-1") == EXPECTED[:4]


def test_a_service_that_cannot_be_reached_gets_everything_at_the_next_checkpoint(service, tmp_path):
    logger = opened(service, tmp_path)
    log(logger, [1])
    service.reachable = False
    logger.saved(logger.position())
    while logger._sender._problem is None:
        pass
    with pytest.warns(
        UserWarning, match=r"^ToMemory could not send values: TimeoutError: no answer\. They are kept in"
    ):
        logger.flush()
    logger.flush()
    service.reachable = True
    log(logger, [2])
    logger.saved(logger.position())
    assert service.got.wait(30)
    assert service.points("train/loss") == EXPECTED[:4]
    logger.close()


def test_values_that_cannot_be_sent_at_the_end_are_an_error_and_are_sent_when_the_run_is_resumed(service, tmp_path):
    logger = opened(service, tmp_path)
    log(logger, [1])
    position, service.reachable = logger.position(), False
    with pytest.raises(ConnectionError, match=r"TimeoutError: no answer\. [\d,]+ bytes are left in .*memory\.outbox"):
        logger.close()
    service.reachable = True
    again = opened(service, tmp_path, position, step=2)
    again.close()
    assert service.points("train/loss") == EXPECTED[:2]


def test_steps_of_a_skipped_batch_are_logged_once_and_not_sent_before(service, tmp_path):
    logger = opened(service, tmp_path)
    log(logger, [1])
    marked = logger.position()
    logger.log_best(2, {"val/loss": 1.0})
    saved = logger.position()
    logger.saved(saved)
    log(logger, [2, 3])
    logger.rewind(Run(tmp_path, NAMES, marked, 2))
    logger.log_best(2, {"val/loss": 1.0})
    log(logger, [2])
    logger.close()
    assert service.points("train/loss") == EXPECTED[:4]
    assert service.points("best/val/loss") == [(2, 1.0)]


def test_every_steps_leaves_out_the_steps_between(service, tmp_path):
    logger = opened(service, tmp_path, every_steps=3)
    logger.log_steps(1, 1, {"train/loss": [1.0, 2.0]})
    logger.log_steps(1, 3, {"train/loss": [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]})
    logger.log_steps(2, 10, {"train/loss": [10.0, 11.0, 12.0, 13.0]})
    logger.close()
    assert service.points("train/loss") == [(3, 3), (6, 6), (9, 9), (12, 12)]
    with pytest.raises(ValueError, match=r"ToMemory\(every_steps=0\): expected a whole number of at least 1"):
        ToMemory(service, every_steps=0)


def test_every_kind_of_value_has_its_name_and_its_step(service, tmp_path):
    logger = opened(service, tmp_path)
    logger.log_epoch(2, 8, {"train/loss": 1.5, "val/loss": 0.5})
    logger.log_best(8, {"val/loss": 0.5})
    logger.log_best(8, {"val/loss": 0.5}, again=True)
    logger.log_images(8, {"validation/confusion": b"png"})
    logger.log_text(8, "notes", "a text")
    logger.log_diagnostics(8, {"run/learning_rate": 0.25})
    logger.log_measurements(8, {"run/memory_gb": 2.0})
    logger.log_histograms(8, {"weights/kernel": histogram_of(np.float32([0, 1]))})
    logger.log_artifacts([tmp_path / "model.keras"])
    logger.close()
    found = service.runs["run-0"]
    (histogram,) = found.pop("weights/kernel")
    assert (histogram[0], len(histogram[1][0]), sum(histogram[1][1])) == (8, 31, 2)
    assert found == {
        "val/loss": [(8, 0.5)],
        "epoch/train/loss": [(8, 1.5)],
        "epoch/val/loss": [(8, 0.5)],
        "best/val/loss": [(8, 0.5)],
        "validation/confusion": [(8, "cG5n")],
        "notes": [(8, "a text")],
        "run/learning_rate": [(8, 0.25)],
        "run/memory_gb": [(8, 2.0)],
    }
    lines = [json.loads(line) for line in (tmp_path / "memory.outbox").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [2]
    assert ("artifacts", ["model.keras"]) in service.calls


def test_a_damaged_outbox_is_named(service, tmp_path):
    logger = opened(service, tmp_path)
    log(logger, [1])
    position = logger.position()
    logger.close()
    size = (tmp_path / "memory.outbox").stat().st_size
    (tmp_path / "memory.outbox").write_bytes(b"x" * (size - 1) + b"\n")
    again = opened(service, tmp_path, position)
    with pytest.raises(ConnectionError, match=r"DamagedFileError: .*memory\.outbox is damaged after byte 0"):
        again.close()


def test_a_link_in_the_place_of_a_file_is_refused(service, tmp_path):
    os.symlink("/dev/null", tmp_path / "memory.outbox")
    with pytest.raises(files.LinkError):
        opened(service, tmp_path, {})


def test_a_file_that_is_there_is_not_written_over(service, tmp_path):
    (tmp_path / "memory.outbox").write_text("another run")
    with pytest.raises(FileExistsError, match=r"could not write .*memory\.outbox"):
        opened(service, tmp_path)
    assert service.runs == {}


def test_a_value_before_the_run_is_refused(service):
    with pytest.raises(RuntimeError, match=r"ToMemory: open\(run\) must be called before the first value"):
        ToMemory(service).log_validation(1, 1, {"val/loss": 1.0})


def test_a_package_that_is_missing_is_named_with_how_to_install_it():
    with pytest.raises(ImportError, match=r'lk\.loggers\.Nothing needs .* pip install "lightkeras\[nothing_here\]"'):
        require("nothing_here", "Nothing")
