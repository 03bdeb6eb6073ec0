"""Keras without TensorFlow, in a process of its own."""

import subprocess
import sys


def test_keras_takes_tensorflow_for_missing_only_inside_and_unless_it_is_loaded():
    program = """
import os, sys
os.environ["KERAS_BACKEND"] = "numpy"
from keras.src.utils import module_utils
from lightkeras._lazily import tensorflow_only_if_loaded
with tensorflow_only_if_loaded() as loaded:
    print(loaded, module_utils.tensorflow.available, "tensorflow" in sys.modules)
print(module_utils.tensorflow.available, "tensorflow" in sys.modules)
with tensorflow_only_if_loaded() as loaded:
    print(loaded, module_utils.tensorflow.available)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False False False\nTrue True\nTrue True\n", "")
