"""Callbacks for `Runner(callbacks=[...])`, beside those of Keras (`lk.callbacks`)."""

import lazy_loader

# When first used: the modules of a fit import `bridge`, and these callbacks import modules of a fit.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
