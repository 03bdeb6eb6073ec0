"""The seed generator of random numbers that are drawn without a seed; no public name reaches or resets it."""

from keras.src.random import seed_generator as seed_generator
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR as GLOBAL_SEED_GENERATOR
from keras.src.random.seed_generator import global_seed_generator as global_seed_generator
