"""Keras callbacks, called as Keras's `fit` calls them."""

from lightkeras.training.callbacks.bridge import CallbackBridge

__all__ = ["CallbackBridge"]
