"""What launchers tell a process."""

from __future__ import annotations

import pytest

from lightkeras.engine.launchers import Launch, launched

OF_TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "host", "MASTER_PORT": "29500", "LOCAL_RANK": "0"}
CONFIG = '{"cluster": {"chief": ["a:1"], "worker": ["b:2", "c:3"]}, "task": {"type": "worker", "index": 1}}'
OF_SLURM = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_NODELIST": "node[001-004]",
}


def test_the_variables_of_torchrun_and_of_tf_config_are_read():
    assert launched(OF_TORCHRUN) == Launch("WORLD_SIZE", 1, 2, 0, "host", 29500)
    assert launched({"TF_CONFIG": CONFIG}) == Launch("TF_CONFIG", 2, 3, 0, "a", 1)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("a,b", "a"),
        ("node[007-012,020],other3", "node007"),
        ("rack1-n[3,5]-ib", "rack1-n3-ib"),
    ],
)
def test_the_tasks_of_srun_are_read(nodes, first):
    found = launched(OF_SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert found == Launch("SLURM_STEP_NUM_TASKS", 5, 8, 1, first, 61440 + 5000 % 4096)
    placed = OF_SLURM | {"MASTER_ADDR": "login", "MASTER_PORT": "29500"}
    assert launched(placed) == Launch("SLURM_STEP_NUM_TASKS", 5, 8, 1, "login", 29500)
    assert launched(OF_SLURM | {"CUDA_VISIBLE_DEVICES": "3"}).local_rank == 0
    assert launched(OF_SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"}).local_rank == 1


def test_a_job_of_slurm_is_not_a_task_of_it():
    """A batch script, or a shell that `salloc` opened, has variables of the job; a task may start torchrun."""
    assert launched({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "5000", "SLURM_LOCALID": "0"}) is None
    assert launched(OF_SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert launched(OF_SLURM | OF_TORCHRUN).variable == "WORLD_SIZE"
    assert launched(OF_SLURM | {"WORLD_SIZE": "1"}) is None


def test_one_process_has_no_launch():
    assert launched({}) is None
    assert launched({"WORLD_SIZE": "1"}) is None
    assert launched(OF_TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert launched({"TF_CONFIG": '{"cluster": {"worker": ["b:2"]}, "task": {"type": "worker", "index": 0}}'}) is None


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (OF_TORCHRUN | {"TF_CONFIG": CONFIG}, "WORLD_SIZE and TF_CONFIG both tell of several processes: two launchers"),
        (
            {"WORLD_SIZE": "2", "RANK": "0"},
            r"WORLD_SIZE=2 .* and MASTER_ADDR, MASTER_PORT is not set\. Start them with",
        ),
        (OF_TORCHRUN | {"RANK": "2"}, r"RANK=2: expected a number from 0 to 1, because WORLD_SIZE=2"),
        (OF_TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE='two': expected a whole number of at least 1"),
        (OF_TORCHRUN | {"MASTER_PORT": "70000"}, "MASTER_PORT='70000': expected a whole number from 1 to 65535"),
        ({"TF_CONFIG": "{"}, r"TF_CONFIG='\{' is malformed \(JSONDecodeError: .*Expected JSON such as"),
        ({"TF_CONFIG": CONFIG.replace("1}", "7}")}, r"is malformed \(IndexError"),
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"},
            r"SLURM_STEP_NUM_TASKS=4 .* and SLURM_LOCALID, SLURM_JOB_ID, SLURM_STEP_NODELIST is not set\. .* srun",
        ),
        (OF_SLURM | {"SLURM_PROCID": "x"}, "SLURM_PROCID='x': expected a whole number of at least 0"),
        (OF_SLURM | {"SLURM_STEP_NODELIST": "[1-2]"}, r"SLURM_STEP_NODELIST='\[1-2\]': expected names of hosts"),
    ],
)
def test_wrong_variables_are_refused(variables, message):
    with pytest.raises(ValueError, match=message):
        launched(variables)
