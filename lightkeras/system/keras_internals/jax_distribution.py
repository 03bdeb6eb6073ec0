"""How a distribution places a value on JAX, which is replaced where there are several processes."""

from keras.src.backend.jax import distribution_lib as distribution_lib
