"""The engine of the active backend, and its processes."""

import keras
import pytest

from lightkeras.engine import active, current_world, make_engine, over_devices
from lightkeras.engine.world import ALONE

TWO = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def test_one_process_has_the_engine_of_the_backend_and_no_others(monkeypatch):
    for name in (*TWO, "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    assert current_world() is ALONE
    assert make_engine().backend == keras.backend.backend()
    assert make_engine().world is ALONE
    with over_devices(None):
        pass


@pytest.mark.backends("tensorflow", reason="torch would wait for the other process")
def test_processes_that_could_not_be_joined_are_not_kept(monkeypatch):
    keras.ops.ones(1)
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="WORLD_SIZE tells of 2 processes, but TensorFlow was used before"):
        current_world()
    assert active._joined is ALONE


def test_an_unknown_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(NotImplementedError, match="KERAS_BACKEND is 'numpy'; lightkeras trains on"):
        make_engine()
