"""GPUs of workers, by the variables that a process gets; no GPU is needed for that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lightkeras.search.workers.gpus import environment_of_gpus, environments_of_slots, visible_gpus
from lightkeras.search.workers.launch import make_pool
from lightkeras.search.workers.pool import WorkerLimits
from lightkeras.testing import TwoMoons


def test_workers_that_share_a_gpu_do_not_take_all_its_memory():
    assert environment_of_gpus(0.5, {"TF_FORCE_GPU_ALLOW_GROWTH": "false"}) == {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false"
    }
    assert environment_of_gpus(1.0, {}) == {}


@pytest.fixture
def four(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5,6,7")
    for name in ("TF_FORCE_GPU_ALLOW_GROWTH", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("four")
def test_each_worker_of_a_machine_has_gpus_of_its_own():
    def visible(gpus, workers):
        return [found.get("CUDA_VISIBLE_DEVICES") for found in environments_of_slots(gpus, workers)]

    assert visible(1, 4) == ["3", "5", "6", "7"]
    assert visible(2, 2) == ["3,5", "6,7"]
    assert visible(0.5, 3) == ["3", "3", "5"]
    assert visible(0, 2) == [None, None]
    assert environments_of_slots(0.5, 1)[0].keys() - {"CUDA_VISIBLE_DEVICES"} == {
        "TF_FORCE_GPU_ALLOW_GROWTH",
        "XLA_PYTHON_CLIENT_PREALLOCATE",
    }
    assert environments_of_slots(1, 1) == [{"CUDA_VISIBLE_DEVICES": "3"}]


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(("gpus", "workers"), [(1, 5), (2, 3), (3, 2), (0.5, 9)])
def test_fewer_gpus_than_the_workers_need_are_refused(gpus, workers):
    message = rf"Tuner\(workers={workers}, gpus={gpus}\): this machine has 4 GPUs \(3, 5, 6, 7\) for this process"
    with pytest.raises(ValueError, match=message):
        make_pool(TwoMoons, None, workers, WorkerLimits(), gpus=gpus)


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_gpus_that_are_hidden_from_this_process_are_none(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    with pytest.raises(ValueError, match=r"this machine has no GPU of NVIDIA for this process"):
        environments_of_slots(1, 1)


def test_without_a_variable_the_driver_is_asked(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert visible_gpus() == ["0", "1"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert shutil.which("nvidia-smi") is None
    assert visible_gpus() == []


@pytest.mark.usefixtures("four")
def test_a_process_of_a_worker_sees_its_gpus_alone(tmp_path):
    with make_pool(TwoMoons, None, 2, WorkerLimits(), tmp_path / "using", gpus=1) as pool:
        channel = pool._launcher.start(1)
        try:
            environment = b""
            while not environment:  # the kernel has not yet copied it into the new program
                environment = Path(f"/proc/{channel.process.pid}/environ").read_bytes()
        finally:
            channel.end()
    assert b"CUDA_VISIBLE_DEVICES=5" in environment.split(b"\0")
