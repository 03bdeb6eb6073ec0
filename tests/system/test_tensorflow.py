"""Keras without what it imports to see whether it is there, in a process of its own."""

import subprocess
import sys


def test_tensorflow_is_left_out_only_inside_and_unless_it_is_imported():
    program = """
import os, sys
os.environ["KERAS_BACKEND"] = "numpy"
from keras.src.utils import module_utils
from lightkeras.system.tensorflow import tensorflow_left_out
with tensorflow_left_out():
    print(module_utils.tensorflow.available, "tensorflow" in sys.modules)
print(module_utils.tensorflow.available, "tensorflow" in sys.modules)
with tensorflow_left_out():
    print(module_utils.tensorflow.available)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False False\nTrue True\nTrue\n", "")
