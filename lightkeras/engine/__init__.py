"""Engines: n train steps in one compiled call, one implementation per backend."""

from __future__ import annotations

from lightkeras.engine.active import current_world, make_engine, over_devices

__all__ = ["current_world", "make_engine", "over_devices"]
