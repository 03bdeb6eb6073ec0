"""One fit: its setup, its steps, its state, and what is written about it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["callbacks"])
