"""Finds prepared data sets of TensorFlow Datasets, or downloads them into TFDS's own folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lightkeras.data.lookup import Lookup, reachable
from lightkeras.system.download import limited, limits
from lightkeras.system.messages import announce
from lightkeras.system.trust import check_trusted

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def default_folder() -> Path:
    """The folder TFDS keeps its data sets in: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def newest_version(folder: Path) -> Path | None:
    """Returns the folder of the newest version of a prepared data set, without unfinished downloads, or `None`.

    `folder` is that of the data set and its configuration, such as `.../imdb_reviews/plain_text`; an unfinished
    download is called `incomplete.AB12_1.0.0`.
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
    """Finds a prepared data set in the data folder, else in TFDS's own, else downloads it with TFDS.

    `name` may have a configuration and a version; `host` is checked before the download, and each failed attempt is
    appended to `tried`. Returns the folder of the newest or of the named version, or `None`. A ValueError if the data
    set has several configurations, and `name` none.
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
    check_trusted(f"tfds://{name}", "download")  # its code may be fetched too
    announce(f"downloading {name} with TFDS to {default_folder()}, {limits()}")
    try:
        return download(name)
    except OSError as error:
        tried.append(str(error))
        return None


def download(name: str) -> Path:
    """Downloads and prepares a data set in TFDS's folder; returns that of the version, or raises an OSError."""
    import requests  # noqa: F401  (TFDS downloads with it; imported first, so that its downloads are limited)
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=str(default_folder()))
        with limited(name):
            builder.download_and_prepare()
    except Exception as error:  # TFDS raises bare exceptions, its own, and those of three HTTP libraries
        raise OSError(f"TFDS could not download {name!r}: {type(error).__name__}: {error}") from error
    return Path(builder.data_dir)


def _version_in(folder: Path, version: str) -> Path | None:
    """The folder of a version; without a configuration in the name, that of the only configuration."""
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
