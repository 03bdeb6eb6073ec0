"""Modules from TensorFlow Hub: finding them, checking them, and using them as Keras 3 layers."""

from lightkeras.hub.bags import BagEmbedding
from lightkeras.hub.find import NNLM_URL, FoundModule, find_module, sample_text_module
from lightkeras.hub.layer import HubLayer
from lightkeras.hub.modules import fingerprint
from lightkeras.hub.text import TextEncoder
from lightkeras.hub.used import check_modules, modules_in

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
