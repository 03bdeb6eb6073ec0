from .average_weights import AverageWeights as AverageWeights
from .unfreeze import Unfreeze as Unfreeze
