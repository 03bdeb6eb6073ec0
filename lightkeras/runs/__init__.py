"""What a run leaves on disk: directory, checkpoints, logs, results and report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["loggers", "report"])
