"""Joining the processes of a run; what needs several of them is tests/scenarios/test_ranks.py."""

import pytest
import ranked

from lightkeras.engine.jax import world
from lightkeras.engine.launchers import Launch
from lightkeras.engine.world import ALONE

JOINED = """
import os, sys, time
import jax

rank = int(os.environ["RANK"])
jax.distributed.initialize(f"127.0.0.1:{os.environ['MASTER_PORT']}", 2, rank)
jax.devices()  # waits for the other process
time.sleep(9 * rank)  # longer than LIGHTKERAS_LOST_SECONDS

import lightkeras as lk

lk.Runner(run_dir=sys.argv[1], max_epochs=1, pictures=False, export=False).fit(lk.testing.TwoMoons())
"""


def test_nothing_is_joined_without_a_launcher():
    assert world.join(None) is ALONE


def test_launchers_that_jax_cannot_use_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"TF_CONFIG tells of 2 processes; on JAX, start them with `lightkeras launch"):
        world.join(Launch("TF_CONFIG", 0, 2, 0, "localhost", 1))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(ValueError, match=r"torchrun keeps MASTER_PORT=29500 for itself, which JAX needs"):
        world.join(Launch("WORLD_SIZE", 0, 2, 0, "localhost", 29500))


def test_processes_cannot_be_joined_after_jax_was_used():
    world.jax.devices()
    with pytest.raises(ValueError, match="but JAX was used before they were joined"):
        world.join(Launch("WORLD_SIZE", 0, 2, 0, "localhost", 29500))


@pytest.mark.long
def test_a_process_that_the_user_joined_may_come_to_the_run_late(tmp_path):
    ranks = ranked.Ranks(["-c", JOINED, tmp_path / "run"], "jax", env={"LIGHTKERAS_LOST_SECONDS": "6"})
    assert ranks.wait() == [0, 0], ranks.printed(0, error=True)
