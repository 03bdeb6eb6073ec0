"""The TensorFlow that Keras imports when a model is saved."""

from keras.src.utils import module_utils as module_utils
