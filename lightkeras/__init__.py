"""lightkeras: the structured trainer for Keras 3.

The public names are listed in `__init__.pyi` and imported when they are first used: `import lightkeras` alone loads
neither Keras nor TensorFlow.
"""

import lazy_loader

from lightkeras.system import import_hook

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

import_hook.install()
