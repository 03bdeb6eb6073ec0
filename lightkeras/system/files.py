"""The reader and the writer of lightkeras's own files.

A run directory may come from somebody else, and a disk may damage it. The reader opens regular files only, of limited
size, and checks JSON against a dataclass. The writer is atomic: after a crash, a file has either its old content or its
new content. Neither follows a link.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from lightkeras.system import portable, schema
from lightkeras.system.messages import printable
from lightkeras.system.portable import sync as sync

JSON_BYTES = 256 * 2**20
"""Largest JSON file that is read; the state of a run of many epochs has a few megabytes."""

_PIECE = 1 << 23
"""Bytes of a file that are written at once."""

_DEPTH, _DIGITS = 200, 320  # of JSON: nesting, and digits of a number
_PART = re.compile(r"\..+\.[0-9a-f]{4,8}\.part|\.[0-9a-f]{8}\.part\.keras|\.lightkeras\.\w{8}")


class UnwritableError(Exception):
    """An optional place, such as a cache, cannot be written to."""


class DamagedFileError(ValueError):
    """A file has not the content that lightkeras wrote, or is not a file."""


class LinkError(OSError):
    """A file or a folder of a run is a link: what is written or deleted there would be somewhere else."""


def open_to_read(path: Path, most: int | None = None) -> BufferedReader:
    """Opens a regular file; does not follow a link at its name, and does not wait for a pipe.

    Args:
        path: The file.
        most: Largest size in bytes; `None` for no limit.

    Raises:
        FileNotFoundError: The file does not exist.
        DamagedFileError: It is a link, a folder, a pipe or a device, or too large.
        OSError: It cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | portable.NO_FOLLOW | portable.NO_WAIT | portable.PLAIN)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # ENXIO: a socket
            raise DamagedFileError(f"{path} is a {_kind(path)}, expected a file. Put the file back.") from error
        raise
    except ValueError as error:  # a null byte in a name
        raise DamagedFileError(f"{str(path)!r} is not the name of a file.") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise DamagedFileError(f"{path} is a {_kind(path)}, expected a file. Put the file back.")
    if most is not None and found.st_size > most:
        os.close(descriptor)
        raise DamagedFileError(f"{path} has {found.st_size:,} bytes, expected at most {most:,}.")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """Reads a regular file; see `open_to_read`.

    Args:
        path: The file.
        most: Largest size in bytes; `None` for no limit.

    Raises:
        FileNotFoundError: The file does not exist.
        DamagedFileError: It is not a regular file, or too large.
        OSError: It cannot be read.
    """
    with open_to_read(path, most) as file:
        return file.read() if most is None else file.read(most)


def is_file(path: Path) -> bool:
    """Whether there is a regular file at a path that is not a link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder at a path that is not a link."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_no_link(path: Path) -> None:
    """Checks that a path is not a link, before something is written or deleted there.

    Raises:
        LinkError: It is.
    """
    if path.is_symlink():
        raise LinkError(
            errno.ELOOP,
            f"{path} is a link (to {os.readlink(path)!r}), and lightkeras writes and deletes nothing behind links. "
            "Remove the link, or give another run directory",
        )


def make_folder(path: Path) -> None:
    """Creates a folder and its parents, if it does not exist.

    Raises:
        LinkError: The path is a link.
        OSError: It cannot be created.
    """
    check_no_link(path)
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)


def remove_folder(path: Path) -> None:
    """Removes a folder, which is never half removed under its own name. Links in it are removed, not followed."""
    check_no_link(path)
    aside = path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(4)}.part")
    path.rename(aside)
    shutil.rmtree(aside)


def truncate(path: Path, size: int) -> None:
    """Cuts a file to a size; does not follow a link."""
    with explained(path):
        descriptor = os.open(path, os.O_WRONLY | portable.NO_FOLLOW | portable.NO_WAIT | portable.PLAIN)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)


def sweep(folder: Path) -> None:
    """Removes the temporary files and folders that killed processes left in a folder.

    Only names that the writer makes are removed. Nobody else may be writing into the folder.
    """
    if not is_folder(folder):
        return
    for path in list(folder.iterdir()):
        if _PART.fullmatch(path.name):
            with explained(path):
                shutil.rmtree(path) if is_folder(path) else path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a temporary file, fsyncs and renames it: after an OSError an existing file is unchanged."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with explained(path):
        try:
            write_synced(beside, content)
            move_synced(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def write_synced(path: Path, *parts: bytes | memoryview) -> None:
    """Writes a new file, one part after the other, and fsyncs it.

    The disk begins with each piece at once, and its memory is used again for a later one: a file of a gigabyte took a
    third to a fifth of the time.
    """
    with open(path, "xb", buffering=0) as file:
        for part in parts:
            left = memoryview(part).cast("B")
            while left:
                left = left[file.write(left[:_PIECE]) :]
                if left and sys.platform == "linux":
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.fsync(file.fileno())


def move_synced(source: Path, target: Path) -> None:
    """Renames a written file into place and fsyncs its folder."""
    os.replace(source, target)
    sync(target.parent)


def json_bytes(data: Any, encode_float: Callable[[float], Any] = lambda value: None) -> bytes:
    """Encodes plain data as JSON, for people and for other programs.

    `encode_float` gives what is written for NaN and the infinities, which JSON does not have; `null` unless given.
    `plain_values.encode_float` loses nothing.
    """
    return (json.dumps(_finite(data, encode_float), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, data: Any) -> None:
    """Writes JSON atomically; see `json_bytes`."""
    write_bytes(path, json_bytes(data))


def encode_float(value: float) -> Any:
    """Encodes a float as JSON: itself, or an object such as `{"float": "nan"}` where JSON has no number for it."""
    return value if math.isfinite(value) else {"float": repr(float(value))}


def decode_float(data: dict[str, Any]) -> Any:
    """Decodes what `encode_float` made an object of; other objects are returned. An `object_hook` of `json.loads`.

    Older checkpoints have `{"$float": "nan"}`.
    """
    if len(data) == 1 and data.get("float", data.get("$float")) in ("nan", "inf", "-inf"):
        (text,) = data.values()
        return float(text)
    return data


def read_json(path: Path, kind: Any = Any, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Reads JSON that lightkeras wrote.

    Args:
        path: The file.
        kind: Type of the content, such as a dataclass; see `schema.find_problem`. `Any` accepts all JSON.
        object_hook: As in `json.loads`.

    Returns:
        The content as JSON values.

    Raises:
        FileNotFoundError: The file does not exist.
        DamagedFileError: It is not a regular file, not JSON, or has other content; the message names the key.
    """
    return parse_json(read_bytes(path, JSON_BYTES), path, kind, object_hook)


def parse_json(
    content: bytes, path: Path, kind: Any = Any, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """Decodes JSON that lightkeras wrote to a file; see `read_json`.

    Raises:
        DamagedFileError: See `decode_json`.
    """
    try:
        return decode_json(content, kind, object_hook)
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged: {error}.") from error


def decode_json(content: bytes, kind: Any = Any, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Decodes JSON.

    Args:
        content: The JSON, in UTF-8.
        kind: As in `read_json`.
        object_hook: As in `json.loads`.

    Raises:
        ValueError: It is not JSON, is nested too deeply, has a number or a text that no file of lightkeras has, or has
            other content than `kind`.
    """
    try:
        data = json.loads(
            content.decode(),
            object_hook=object_hook,
            parse_int=_parsed_int,
            parse_float=_parsed_float,
            parse_constant=_refused_constant,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except MemoryError:
        raise ValueError("it is too large") from None
    _check_values(data)
    if (problem := schema.find_problem(data, kind)) is not None:
        raise ValueError(printable(problem))
    return data


def _parsed_int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _parsed_float(text: str) -> float:
    number = float(text) if len(text) <= 2 * _DIGITS else math.inf
    if not math.isfinite(number):
        raise ValueError("a number is too large, or has too many digits")
    return number


def _refused_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number in JSON")


def _check_values(data: Any) -> None:
    """Raises ValueError for what `json` accepts, but what cannot be written again."""
    level = [data]
    for _ in range(_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii():
                item.encode()  # raises for half a surrogate pair
        if not below:
            return
        level = below
    raise ValueError(f"it is nested more than {_DEPTH} levels deep")


def _kind(path: Path) -> str:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return "socket"
    kinds = {stat.S_IFLNK: "link", stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Re-raises an `OSError` of a write with the file's name and advice."""
    try:
        yield
    except OSError as error:
        if isinstance(error, LinkError):
            raise
        raise type(error)(
            error.errno,
            f"could not write {path}: {error.strerror or error}. Existing files are unchanged; "
            "free disk space or give another run directory",
        ) from error


def _finite(data: Any, encode_float: Callable[[float], Any]) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _finite(value, encode_float) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value, encode_float) for value in data]
    return encode_float(data) if isinstance(data, float) and not math.isfinite(data) else data


def cache_dir() -> Path:
    """`$LIGHTKERAS_CACHE_DIR`, else `$XDG_CACHE_HOME/lightkeras`, else `~/.cache/lightkeras`."""
    named = os.environ.get("LIGHTKERAS_CACHE_DIR")
    if named:
        return Path(named).expanduser()
    return _user_cache()


def compiled_code(backend: str) -> Path:
    """Creates the folder of a backend's compiled code, `$XDG_CACHE_HOME/lightkeras/BACKEND` or in `~/.cache`.

    Raises:
        OSError: It cannot be created, or is another user's.
    """
    return private_folder(_user_cache() / backend)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightkeras"


def private_folder(path: Path) -> Path:
    """Creates a folder of the user's own, for files that are run as code, or makes an existing one private (mode 700).

    Returns:
        The folder.

    Raises:
        PermissionError: It is a link, or belongs to another user.
        OSError: It cannot be created.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_own(path)
    if os.lstat(path).st_mode & 0o022:
        path.chmod(0o700)
    return path


def check_own(path: Path) -> None:
    """Checks that a file or folder whose content is run as code belongs to the user, or to root, and is not a link.

    Raises:
        PermissionError: It does not.
    """
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        problem = "is a link"
    elif found.st_uid not in (os.geteuid(), 0):
        problem = f"belongs to the user {found.st_uid} and not to you ({os.geteuid()})"
    else:
        return
    raise PermissionError(
        errno.EACCES,
        f"{path} {problem}, and what is in this cache is run as code. Remove it, or name another folder with "
        "LIGHTKERAS_CACHE_DIR",
    )
