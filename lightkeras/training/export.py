"""Export of the best model to `model.keras`."""

from __future__ import annotations

import secrets
from pathlib import Path

import keras

from lightkeras.system import files
from lightkeras.system.tensorflow import tensorflow_left_out


def export_model(model: keras.Model, path: Path) -> None:
    """Saves a model atomically. An optimizer that was only lent to it for callbacks stays out."""
    beside = path.with_name(f".{secrets.token_hex(4)}.part.keras")
    lent = None if model.compiled else vars(model).get("optimizer")
    try:
        if not model.compiled:
            model.optimizer = None
        with files.explained(path), tensorflow_left_out():
            model.save(beside)
            files.sync(beside)
            files.move_synced(beside, path)
    finally:
        if not model.compiled:
            model.optimizer = lent
        beside.unlink(missing_ok=True)
