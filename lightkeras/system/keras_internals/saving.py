"""How a `.keras` file is written, and the object that a layer without a configuration is read as."""

from keras.src.saving import saving_lib as saving_lib
from keras.src.saving import serialization_lib as serialization_lib
