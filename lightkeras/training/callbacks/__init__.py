"""Keras callbacks, called as `fit` would call them."""

from lightkeras.training.callbacks.bridge import CallbackBridge

__all__ = ["CallbackBridge"]
