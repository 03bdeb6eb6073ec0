"""Callbacks for `Runner(callbacks=[...])`, beside those of Keras (`lk.callbacks`)."""

from lightkeras.training.callbacks.unfreeze import Unfreeze

__all__ = ["Unfreeze"]
