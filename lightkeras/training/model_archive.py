"""Writes the weights of a `.keras` file straight into it; Keras encodes them in memory or in a second file first."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
import zipfile
from pathlib import Path
from typing import IO, Any, final

from lightkeras.engine.replacing import replaced
from lightkeras.system.keras_internals.saving import saving_lib

_PIECE = 1 << 20
"""Bytes of the weights whose checksum is computed at once."""


def weights_written_in_place() -> contextlib.AbstractContextManager[None]:
    """Context in which Keras writes weights to their place in the archive: no second file, and no copy in memory."""
    return replaced({(saving_lib, "H5IOStore"): _Store, (saving_lib, "is_memory_sufficient"): lambda _: True})


@final
class _Store(saving_lib.H5IOStore):  # type: ignore[misc]
    """Writes HDF5 to the place of a member of an archive, then passes the member what is there, for its checksum."""

    _member: IO[bytes] | None = None

    def _get_h5_file(self, path_or_io: Any) -> Any:
        archive: zipfile.ZipFile | None = self.archive
        if self.mode == "r" or archive is None or archive.fp is None or archive.filename is None:
            return super()._get_h5_file(path_or_io)
        self._member = archive.open(zipfile.ZipInfo(str(path_or_io), time.localtime()[:6]), "w", force_zip64=True)
        archive.fp.flush()
        # HDF5 expects that a write is never partial, as that of a buffered file.
        self.io_file = io.BufferedRandom(_Rest(Path(archive.filename), archive.fp.tell()))
        return saving_lib.h5py.File(self.io_file, "w")

    def close(self) -> None:
        if self._member is None:
            super().close()
            return
        with self._member, self.io_file:
            self.h5_file.close()
            self.io_file.seek(0)
            if self.archive is not None:  # Keras sets it to None after an error
                shutil.copyfileobj(self.io_file, self._member, _PIECE)


@final
class _Rest(io.FileIO):
    """The rest of a file from a position on, as a file."""

    def __init__(self, path: Path, start: int) -> None:
        super().__init__(path, "r+")
        self._start = start
        self.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(offset + (self._start if whence == io.SEEK_SET else 0), whence) - self._start

    def tell(self) -> int:
        return super().tell() - self._start

    def truncate(self, size: int | None = None) -> int:
        return super().truncate(self._start + (self.tell() if size is None else size)) - self._start
