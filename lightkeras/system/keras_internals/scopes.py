"""Attributes that Keras keeps for a thread, such as its own seed generator, and the scope of a call without state."""

from keras.src.backend.common import global_state as global_state
from keras.src.backend.common.stateless_scope import get_stateless_scope as get_stateless_scope
