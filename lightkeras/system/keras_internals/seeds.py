"""The seed generator of random numbers that are drawn without a seed; no public name reaches or resets it."""

from keras.src.random import seed_generator as seed_generator
from keras.src.random.seed_generator import global_seed_generator as global_seed_generator

# Keras 3.10 has the same name of the attribute, and none for it.
GLOBAL_SEED_GENERATOR: str = getattr(seed_generator, "GLOBAL_SEED_GENERATOR", "global_seed_generator")
