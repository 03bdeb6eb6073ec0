"""Keras callbacks, called as `fit` would call them."""

from lightkeras.callbacks.bridge import CallbackBridge

__all__ = ["CallbackBridge"]
