"""Figures as bytes and as files."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from lightkeras.system import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 130


def png(figure: Figure) -> bytes:
    """Renders a figure as a PNG image.

    Examples:
        >>> from lightkeras.plots import curves
        >>> png(curves({"train/loss": [0.9, 0.5], "val/loss": [1.0, 0.7]}))[:4]
        b'\\x89PNG'
    """
    return _drawn(figure, "png")


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure atomically.

    Args:
        figure: The figure.
        path: The file, with a suffix that matplotlib knows, such as `.png`, `.svg` or `.pdf`; folders are created.

    Raises:
        ValueError: matplotlib does not know the suffix.
        OSError: The file could not be written.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from lightkeras.plots import curves
        >>> figure = curves({"train/loss": [0.9, 0.5], "val/loss": [1.0, 0.7]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(figure, f"{folder}/curves.svg")
        ...     Path(folder, "curves.svg").read_text()[:5]
        '<?xml'
    """
    path = Path(path)
    drawn = _drawn(figure, path.suffix.removeprefix(".") or "png")
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, drawn)


def _drawn(figure: Figure, form: str) -> bytes:
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # Texts of users may have any character; one that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(drawn, format=form, dpi=DPI)
    return drawn.getvalue()
