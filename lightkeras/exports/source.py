"""The model that is exported: that of a run directory, or one in memory."""

from __future__ import annotations

import dataclasses
import warnings
import zipfile
from pathlib import Path
from typing import Any

from lightkeras.exports.errors import ExportError
from lightkeras.runs.directory import RunDirectory, runs_below
from lightkeras.system import environment, files


@dataclasses.dataclass(frozen=True)
class Source:
    """A `.keras` file and what is known of it.

    Args:
        model_file: The file.
        run_dir: Its run; `None` for a model in memory.
        backend: Backend of the run.
        config: `config.json` of the run; empty without one.
    """

    model_file: Path
    run_dir: Path | None
    backend: str
    config: dict[str, Any]

    def backend_that_runs(self) -> str:
        """The backend of the run; TensorFlow for a model that takes text, which no other has."""
        return "tensorflow" if '"string"' in content_of(self.model_file) else self.backend


def source_of(path: Path) -> Source:
    """Finds the model of a run directory; of a search the best trial's, refitted if it was.

    Raises:
        FileNotFoundError: The directory holds no run, or the run no `model.keras`.
        ExportError: It holds several runs.
    """
    directory = RunDirectory(_run_of(path))
    config = directory.read_config()
    if "experiment" in config:
        runs = ", ".join(map(str, runs_below(directory)))
        raise ExportError(f"{path} holds the runs of an experiment. Give one of them: {runs or 'there are none yet'}.")
    fit = directory.read_result().get("fit") or {}
    if not files.is_file(directory.model_file):
        diverged = "it diverged" if fit.get("diverged") else "it ended early, was made with export=False, or has a "
        rest = "" if fit.get("diverged") else "model that Keras cannot save"
        raise FileNotFoundError(
            f"{directory.path} has no {directory.model_file.name}: {diverged}{rest}. Give a run that has one."
        )
    if fit.get("diverged"):
        best = (fit.get("best") or {}).get("epoch")
        warnings.warn(
            f"{directory.path} diverged: its model.keras has the weights of epoch {best}, before that.", stacklevel=3
        )
    _warn_of_versions(directory.path, config)
    return Source(directory.model_file, directory.path, config.get("backend") or "tensorflow", config)


def _run_of(path: Path) -> Path:
    if "search" not in RunDirectory(path).read_config():
        return path
    if not files.is_file(path / "best" / "config.json"):
        raise ExportError(f"{path} holds a search without a {path / 'best'}: no trial of it has completed yet.")
    return path / "best"


def _warn_of_versions(path: Path, config: dict[str, Any]) -> None:
    before, now = config.get("versions", {}), environment.versions()
    names = ("lightkeras", "keras", "tensorflow", "jax", "torch")
    changed = [
        f"{name} {before[name]}, here {now.get(name, 'none')}"
        for name in names
        if name in before and before[name] != now.get(name)
    ]
    if changed:
        warnings.warn(f"{path} was trained with other versions: {'; '.join(changed)}.", stacklevel=4)


def content_of(path: Path) -> str:
    """Returns the content of `config.json` in a `.keras` file; a DamagedFileError if it is not one."""
    try:
        with files.open_to_read(path) as file, zipfile.ZipFile(file) as packed:
            size = packed.getinfo("config.json").file_size
            if size > files.JSON_BYTES:
                raise files.DamagedFileError(f"{path} holds {size:,} bytes of configuration.")
            return packed.read("config.json").decode()
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        raise files.DamagedFileError(f"{path} is damaged: it is not a .keras file ({error}).") from error
