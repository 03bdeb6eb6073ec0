"""Random numbers on torch, whose functions are replaced in steps."""

from keras.src.backend.torch import random as keras_random

__all__ = ["keras_random"]
