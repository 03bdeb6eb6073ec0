"""Figures, from plain arrays, drawn with matplotlib and without a display.

Each function takes arrays and returns a `matplotlib.figure.Figure`, which `save` writes. Colours are those of Okabe and
Ito (https://jfly.uni-koeln.de/color/), which are distinguishable with any colour vision; right and wrong are marked by
a symbol besides.
"""

from lightkeras.plots.curves import curves, learning_rates, overlay
from lightkeras.plots.evaluation import confusion_matrix, error_histogram, true_against_predicted
from lightkeras.plots.images import before_after, image_grid, prediction_bars
from lightkeras.plots.saving import DPI, png, save
from lightkeras.plots.search import importance, objective_over_hyperparameters, objective_over_trials
from lightkeras.plots.texts import text_panel

__all__ = [
    "DPI",
    "before_after",
    "confusion_matrix",
    "curves",
    "error_histogram",
    "image_grid",
    "importance",
    "learning_rates",
    "objective_over_hyperparameters",
    "objective_over_trials",
    "overlay",
    "png",
    "prediction_bars",
    "save",
    "text_panel",
    "true_against_predicted",
]
