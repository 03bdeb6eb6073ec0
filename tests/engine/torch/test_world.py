"""Joining the processes of a run; what needs several of them is tests/scenarios/test_ranks.py."""

import pytest
import torch

from lightkeras.engine.launchers import Launch
from lightkeras.engine.torch import world
from lightkeras.engine.world import ALONE


def test_nothing_is_joined_without_a_launcher():
    assert world.join(None) is ALONE


def test_another_launcher_and_too_few_gpus_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="TF_CONFIG tells of 2 processes; torch is started with torchrun"):
        world.join(Launch("TF_CONFIG", 0, 2, 0, "localhost", 1))
    # A mock, because the machine of the tests has no GPU.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"LOCAL_RANK=1: this host has 1 GPU, one for each process\. Start fewer"):
        world.join(Launch("WORLD_SIZE", 1, 2, 1, "localhost", 1))
