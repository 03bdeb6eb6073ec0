"""Encoders: features that are computed once per example instead of in every epoch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["hub", "text"])
