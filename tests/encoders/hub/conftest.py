"""What the tests of text modules share."""

import pytest
import tensorflow as tf

from lightkeras.encoders.hub.linear_table import find_table
from lightkeras.encoders.hub.module_files import load_module


@pytest.fixture(scope="module")
def table_of(tmp_path_factory):
    """A function that saves a module, loads it, and finds its table."""

    def build(kind):
        folder = tmp_path_factory.mktemp("module")
        tf.saved_model.save(kind(), str(folder))
        return find_table(load_module(folder, kind.__name__))

    return build
