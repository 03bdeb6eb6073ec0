"""Callbacks for `Runner(callbacks=[...])`, beside those of Keras (`lk.callbacks`)."""

import lazy_loader

# The modules of a fit import `bridge`, and these callbacks import modules of a fit.
_NAMES = {"average_weights": ["AverageWeights"], "unfreeze": ["Unfreeze"]}

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
