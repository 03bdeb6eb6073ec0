"""The TF Hub modules of a task are recorded and checked."""

import keras
import pytest

from lightkeras.encoders.hub import HubLayer, TextEncoder
from lightkeras.encoders.hub.record import check_modules, modules_in


class Layer(HubLayer):
    """A layer that loads no module."""

    def __init__(self, handle, fingerprint):
        keras.layers.Layer.__init__(self)
        self.handle, self.fingerprint = handle, fingerprint

    def call(self, x):
        return x


class Encoder(TextEncoder):
    """An encoder that loads no module."""

    def __init__(self, handle, fingerprint, encodes):
        self.handle, self.module_fingerprint, self.encodes = handle, fingerprint, encodes


def entry(handle, fingerprint):
    return {"handle": handle, "fingerprint": fingerprint}


def test_modules_are_found_inside_of_models_and_in_encoders_that_encode():
    inner = keras.Sequential([Layer("b", "2")])
    model = keras.Sequential([Layer("a", "1"), inner])
    found = modules_in([model, Encoder("c", "3", True), Encoder("a", "1", False), "anything else"])
    assert found == [entry("a", "1"), entry("b", "2"), entry("c", "3")]


def test_another_module_is_refused_with_both_names_and_another_handle_of_the_same_one_is_not():
    model = keras.Sequential([Layer("here/a", "1234567890")])
    check_modules([model], [entry("there/a", "1234567890")])
    message = r"used the hub modules there/b \(00000000\), but this task has here/a \(12345678\)\. Put the original"
    with pytest.raises(ValueError, match=message):
        check_modules([model], [entry("there/b", "0000000000")])
    with pytest.raises(ValueError, match=r"used the hub modules none, but"):
        check_modules([model], [])
