"""What Keras mends in tf2onnx, which lacks NumPy 2, and the part of its backend whose `signbit` ONNX lacks."""

from keras.src.backend.tensorflow import numpy as tensorflow_numpy
from keras.src.export.tf2onnx_lib import patch_tf2onnx

__all__ = ["patch_tf2onnx", "tensorflow_numpy"]
