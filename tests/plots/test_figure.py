"""Figures as notebooks show them."""

import pickle

import pytest

from lightkeras import plots
from lightkeras.plots.figure import ShownFigure

FIGURES = {"axes": plots.curves({"train/loss": [1.0, 0.5]}), "text": plots.text_panel([("title", "text", True)])}


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_a_figure_is_shown_as_a_picture_also_after_pickling(figure):
    assert isinstance(figure, ShownFigure)
    assert figure._repr_png_() == plots.png(figure)
    assert pickle.loads(pickle.dumps(figure))._repr_png_().startswith(b"\x89PNG")
