"""How figures look: every property that a reader sees, compared with the recorded ones in `looks.json`.

A difference that is meant is recorded anew with `LIGHTKERAS_RECORD_LOOKS=1 pytest tests/plots`; look at the figure
before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from packaging.version import Version

LOOKS = Path(__file__).with_name("looks.json")
MOST = 4  # axes of a figure, and parts of a kind in one, that are recorded


@pytest.fixture
def assert_look() -> Callable[[str, Figure], None]:
    """A function that compares a figure with the one recorded by that name."""
    if Version(matplotlib.__version__) < Version("3.11"):
        pytest.skip("The record is of Matplotlib 3.11; others lay out some texts and shapes differently.")

    def check(name: str, figure: Figure) -> None:
        recorded = json.loads(LOOKS.read_text()) if LOOKS.exists() else {}
        found = look(figure)
        if os.environ.get("LIGHTKERAS_RECORD_LOOKS"):
            LOOKS.write_text(json.dumps(recorded | {name: found}, indent=1, sort_keys=True) + "\n")
        else:
            assert found == recorded[name]

    return check


def look(figure: Figure) -> list[str]:
    """A line for each part of a figure."""
    engine = figure.get_layout_engine()
    lines = [f"figure {shown(figure.get_size_inches())} {type(engine).__name__} {engine.get() if engine else ''}"]
    for legend in figure.legends:
        text = [text.get_text() for text in legend.get_texts()]
        handles = [
            shown([handle.get_label(), getattr(handle, "get_markersize", float)()]) for handle in legend.legend_handles
        ]
        lines.append(f"legend {text} {handles} {legend._ncols} {legend.get_frame_on()} {legend._loc}")
    if figure.get_supxlabel():
        lines.append(f"label below: {figure.get_supxlabel()} {figure._supxlabel.get_color()}")
    return lines + [line for axes in figure.axes[:MOST] for line in look_of_axes(axes)]


def look_of_axes(axes: Axes) -> list[str]:
    grid = axes.get_subplotspec()
    place = grid.get_geometry() if grid else axes.get_position().bounds
    lines = [f"axes {shown(place)} {axes.axison} {axes.get_axisbelow()} {axes.get_aspect()}"]
    lines += [f"  title {look_of_text(text)}" for text in (axes.title, axes._left_title) if text.get_text()]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        ticks = [tick for tick in axis.get_majorticklocs() if min(low, high) <= tick <= max(low, high)]
        labels = [look_of_text(label) for label in axis.get_ticklabels()[:1]]
        grid_line = axis.get_gridlines()[:1]
        drawn = [(line.get_visible(), line.get_alpha()) for line in grid_line]
        size = [tick.tick1line.get_markersize() for tick in axis.get_major_ticks()[:1]]
        label = look_of_text(axis.get_label())
        lines.append(
            f"  axis {label} {axis.get_scale()} {shown([low, high])} {shown(ticks)} {drawn} {shown(size)} {labels}"
        )
    spines = {name: (spine.get_visible(), spine.get_linewidth()) for name, spine in axes.spines.items()}
    lines.append(f"  spines {spines}")
    for line in axes.lines[:MOST]:
        style = (line.get_color(), line._unscaled_dash_pattern, line.get_linewidth(), line.get_alpha(), line.zorder)
        marks = (line.get_marker(), line.get_markersize(), line.get_markevery(), line.get_drawstyle())
        lines.append(f"  line {line.get_label()} {shown(line.get_xydata())} {style} {marks}")
    for patch in axes.patches[:MOST]:
        lines.append(f"  patch {shown(patch.get_bbox().bounds)} {shown(patch.get_facecolor())} {patch.get_edgecolor()}")
    for points in axes.collections:
        lines.append(
            f"  points {shown(points.get_sizes() if hasattr(points, 'get_sizes') else [])} {points.get_alpha()}"
        )
    for image in axes.images:
        lines.append(f"  image {image.get_cmap().name} {image.get_clim()} {shown(image.get_array())}")
    return lines + [f"  text {look_of_text(text)}" for text in axes.texts[:MOST]]


def look_of_text(text: Text) -> str:
    place = (text.get_position(), text.get_ha(), text.get_va(), text.get_rotation())
    return f"{text.get_text()!r} {shown(place)} {text.get_color()} {text.get_fontsize()} {text.get_fontweight()}"


def shown(value: Any) -> str:
    """Numbers rounded to 4 digits, so that the platform does not matter."""
    if isinstance(value, str):
        return value
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple, np.ndarray)):
        return f"[{' '.join(map(shown, value))}]"
    return str(value)
