"""The journal of a search: one line of JSON per event, written before the event has any effect.

A process may be killed, and a disk may fill up, at any instant. Text after the last line end is an event that was
being written and had no effect yet; it is removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, final

from lightkeras.system import files, portable

Event = dict[str, Any]


@dataclasses.dataclass
class _Event:
    event: str


NAME = "journal.jsonl"


@final
class Journal:
    """A journal, open for writing; a context manager.

    `events` are those in the file when it was opened. Raises a ValueError if a line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.events: list[Event] = []
        with files.explained(path):
            files.check_no_link(path)
            self._descriptor = os.open(
                path, os.O_RDWR | os.O_CREAT | portable.NO_FOLLOW | portable.NO_WAIT | portable.PLAIN, 0o644
            )
            content = files.read_bytes(path)
            self._size = content.rfind(b"\n") + 1
            os.ftruncate(self._descriptor, self._size)
            files.sync(path.parent)
        try:
            self.events = [_parsed(path, number, line) for number, line in enumerate(content.split(b"\n")[:-1], 1)]
        except ValueError:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, event: Mapping[str, Any], durable: bool = True) -> None:
        """Appends an event, plain data; NaN and infinities become `null`. After an OSError the journal is unchanged.

        With `durable` it is fsynced, so that it survives a power failure and not only the end of the process.
        """
        line = json.dumps(json.loads(files.json_bytes(event)), ensure_ascii=False).encode() + b"\n"
        with files.explained(self._path):
            try:
                done = 0
                while done < len(line):
                    done += os.pwrite(self._descriptor, line[done:], self._size + done)
                if durable:
                    os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, self._size)  # the next line would continue half a line
                raise
        self._size += len(line)


@contextlib.contextmanager
def explained_line(path: Path, number: int) -> Iterator[None]:
    """Re-raises a ValueError about an event with the name of the journal and the number of the line, from 1."""
    try:
        yield
    except ValueError as error:
        raise files.DamagedFileError(
            f"{path} is damaged: line {number}: {error} Restore the file, or start the search in another directory."
        ) from error


def _parsed(path: Path, number: int, line: bytes) -> Event:
    try:
        event: Event = files.decode_json(line, _Event)
    except ValueError as error:
        raise files.DamagedFileError(
            f"{path} is damaged: line {number} is not an event ({error}). "
            "Restore the file, or start the search in another directory."
        ) from error
    return event
