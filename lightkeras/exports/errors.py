"""Errors of an export."""

from __future__ import annotations


class ExportError(ValueError):
    """A model cannot be exported, or its artifact does not compute what the model does; nothing was written."""
