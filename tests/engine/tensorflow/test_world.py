"""Joining the processes of a run; what needs several of them is tests/scenarios/test_ranks.py."""

import json

import numpy as np
import pytest
import ranked
import tensorflow as tf

from lightkeras.engine.launchers import Launch
from lightkeras.engine.tensorflow import world
from lightkeras.engine.world import ALONE

OF_A_CLUSTER = """
import json, os, sys
import keras, numpy as np, tensorflow as tf
import lightkeras as lk
from lightkeras.engine import current_world, make_engine

rank = int(os.environ.pop("RANK"))
del os.environ["WORLD_SIZE"]
cluster = {"worker": [f"127.0.0.1:{os.environ['MASTER_PORT']}", "127.0.0.1:1"]}
os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})


class Checked(lk.testing.TwoMoons):
    # The fourth step fails in one process alone.
    def loss(self, batch, training):
        found = super().loss(batch, training)
        if rank == 0:
            return found
        with tf.control_dependencies([tf.debugging.assert_less(self.optimizer.iterations.value, np.int64(3), "mine")]):
            return tf.identity(found)


current_world()
seeds = keras.Variable(np.uint32([rank, 2**32 - 1]), dtype="uint32")
weight = keras.Variable(np.float32([[0.1 + rank, float("nan")]]))
count = keras.Variable(7 + rank, dtype="int64")
make_engine().share({"seeds": seeds, "weight": weight, "count": count})
print(json.dumps([variable.numpy().tolist() for variable in (seeds, weight, count)]), flush=True)
try:
    lk.Runner(devices=2, run_dir=sys.argv[1]).fit(lk.testing.TwoMoons())
except ValueError as error:
    print(json.dumps(str(error)), flush=True)
lk.Runner(run_dir=sys.argv[1], max_epochs=1, pictures=False, export=False, preflight=False).fit(Checked())
"""


def test_nothing_is_joined_without_a_launcher():
    assert world.join(None) is ALONE


def test_processes_cannot_be_joined_after_tensorflow_was_used_or_by_torchrun(monkeypatch):
    tf.constant(1)
    with pytest.raises(ValueError, match="SLURM_STEP_NUM_TASKS tells of 2 processes, but TensorFlow was used before"):
        world.join(Launch("SLURM_STEP_NUM_TASKS", 0, 2, 0, "localhost", 29500))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(ValueError, match="torchrun keeps MASTER_PORT=29500 for itself, which TensorFlow needs"):
        world.join(Launch("WORLD_SIZE", 0, 2, 0, "localhost", 29500))


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    # A mock, because the machine of the tests has no GPU.
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["GPU:0"])
    with pytest.raises(ValueError, match=r"LOCAL_RANK=1: this host has 1 GPU, one for each process\. Start fewer"):
        world._choose_device(Launch("WORLD_SIZE", 1, 2, 1, "localhost", 1))


def test_the_workers_of_tf_config_share_values_to_the_bit_and_an_error_in_a_step_of_one_ends_all(tmp_path):
    ranks = ranked.Ranks(["-c", OF_A_CLUSTER, tmp_path / "run"], "tensorflow")
    assert ranks.wait() == [1, 1], ranks.printed(0, error=True)
    for rank in range(2):
        shared, refused = map(json.loads, ranks.printed(rank).splitlines()[:2])
        assert str(shared) == str([[0, 2**32 - 1], [[float(np.float32(0.1)), float("nan")]], 7])
        assert "devices=2: each of 2 processes uses one device" in refused
    assert "mine" in ranks.printed(1, error=True)
    assert "WorldError: Rank 1 ended with InvalidArgumentError" in ranks.printed(0, error=True)
