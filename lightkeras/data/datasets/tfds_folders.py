"""Where prepared data sets of TensorFlow Datasets lie: in a folder, or downloaded into TFDS's own."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lightkeras.data.lookup import Lookup, reachable
from lightkeras.system.messages import announce

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def default_folder() -> Path:
    """The folder TFDS keeps its data sets in: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def newest_version(folder: Path) -> Path | None:
    """Finds the newest version of a prepared data set.

    Args:
        folder: Folder of the data set and its configuration, such as `.../imdb_reviews/plain_text`,
            with one folder for each version inside.

    Returns:
        The folder of the newest version, or `None` if there is none. Downloads that TFDS did not
        finish (`incomplete.AB12_1.0.0`) do not count.
    """
    if not folder.is_dir():
        return None
    versions = [
        (tuple(int(part) for part in match.groups()), path)
        for path in folder.iterdir()
        if (match := _VERSION.fullmatch(path.name)) and path.is_dir()
    ]
    return max(versions)[1] if versions else None


def find(name: str, lookup: Lookup, host: str, tried: list[str]) -> Path | None:
    """Finds a prepared data set in the data folder, else in TFDS's own, else lets TFDS download it.

    Args:
        name: Data set, with configuration and version where they are wanted: `"imdb_reviews/plain_text"`,
            `"mnist:3.0.1"`.
        lookup: Names the data folder.
        host: Web address that answers where the download can succeed.
        tried: Is given what was tried, in words.

    Returns:
        The folder of the newest version, or of the one that is named; `None` if there is none to be had.

    Raises:
        ValueError: The data set is there in several configurations, and none is named.
    """
    folder = lookup.folder
    if folder is None:
        tried.append("no data folder is named by LIGHTKERAS_DATA_DIR or --data_dir")
    for base in (folder, default_folder()):
        if base is None:
            continue
        path, _, version = name.partition(":")
        found = _version_in(base / path, version)
        if found is not None:
            return found
        tried.append(f"no version{f' {version}' * bool(version)} in {base / path}")
    if not reachable(host):
        tried.append(f"{host} does not answer")
        return None
    announce(f"downloading {name} with TFDS to {default_folder()}")
    try:
        return download(name)
    except OSError as error:
        tried.append(str(error))
        return None


def download(name: str) -> Path:
    """Lets TFDS download and prepare a data set in its default folder.

    Args:
        name: Data set and configuration, such as `"imdb_reviews/plain_text"`.

    Returns:
        The folder of the version that was prepared.

    Raises:
        OSError: The download did not succeed.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=str(default_folder()))
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises bare exceptions, its own, and those of three HTTP libraries
        raise OSError(f"TFDS could not download {name!r}: {type(error).__name__}: {error}") from error
    return Path(builder.data_dir)


def _version_in(folder: Path, version: str) -> Path | None:
    """A version of a data set; where no configuration is named, of the only one there is."""
    if version:
        return folder / version if (folder / version).is_dir() else None
    found = newest_version(folder)
    if found is not None or not folder.is_dir():
        return found
    configurations = {path.name: newest for path in sorted(folder.iterdir()) if (newest := newest_version(path))}
    if len(configurations) > 1:
        names = ", ".join(f"{folder.name}/{name}" for name in configurations)
        raise ValueError(f"{folder} has several configurations: name one of them, {names}.")
    return next(iter(configurations.values()), None)
