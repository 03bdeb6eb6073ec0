"""Modules from TensorFlow Hub: finding them, checking them, and using them as Keras 3 layers."""

# First: importing Keras imports `encoders.text` (see `system.import_hook`), which imports modules of this package.
import keras  # noqa: F401

from lightkeras.encoders.hub.bag_embedding import BagEmbedding
from lightkeras.encoders.hub.find import NNLM_URL, FoundModule, find_module, sample_text_module
from lightkeras.encoders.hub.layer import HubLayer
from lightkeras.encoders.hub.module_files import fingerprint
from lightkeras.encoders.hub.record import check_modules, modules_in
from lightkeras.encoders.hub.text_encoder import TextEncoder

__all__ = [
    "NNLM_URL",
    "BagEmbedding",
    "FoundModule",
    "HubLayer",
    "TextEncoder",
    "check_modules",
    "find_module",
    "fingerprint",
    "modules_in",
    "sample_text_module",
]
