"""What Keras mends in tf2onnx, which lacks NumPy 2."""

from keras.src.backend.tensorflow import numpy as tensorflow_numpy
from keras.src.export.tf2onnx_lib import patch_tf2onnx as patch_tf2onnx
