"""BLAKE2b digests of texts, bytes and arrays."""

from __future__ import annotations

import hashlib
from typing import final

import numpy as np

Part = str | bytes | memoryview | np.ndarray


@final
class Digest:
    """The digest, of `size` bytes, of what it was updated with, one part after the other."""

    def __init__(self, *parts: Part, size: int = 16) -> None:
        self._hash = hashlib.blake2b(digest_size=size)
        self.update(*parts)

    def update(self, *parts: Part) -> None:
        """Adds texts (in UTF-8), bytes, or the values of arrays (without dtype and shape)."""
        for part in parts:
            if isinstance(part, str):
                part = part.encode()
            elif isinstance(part, np.ndarray):
                part = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            self._hash.update(part)

    def hex(self) -> str:
        """The digest in hexadecimal digits, two per byte."""
        return self._hash.hexdigest()
