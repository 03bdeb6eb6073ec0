"""The class of all figures; a module of its own, because it imports matplotlib."""

from __future__ import annotations

from matplotlib.figure import Figure

from lightkeras.plots.saving import png


class ShownFigure(Figure):  # type: ignore[misc]  # matplotlib has no types here
    """A figure that notebooks show as a picture: matplotlib's own is text there, unless pyplot was imported."""

    def _repr_png_(self) -> bytes:
        return png(self)
