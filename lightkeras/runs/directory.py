"""The run directory, which holds all files of a run."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from lightkeras.runs import formats
from lightkeras.system import files

_OURS = (  # names that a run, an experiment or a search writes
    *("config.json", "result.json", "metrics.csv", "encoder.safetensors", "run.lock", "report.html", "profile.json"),
    *("model.keras", "output.txt", "trials.csv", "journal.jsonl", "workers.lock"),
    *(
        "checkpoints",
        "figures",
        "hparams",
        "machine",
        "broken",
        "profile",
        "trials",
        "seeds",
        "refit",
        "replays",
        "best",
    ),
)


@final
@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths in a run directory, which need not exist yet, and its `config.json` and `result.json`."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def encoder_file(self) -> Path:
        """State of the encoder that was fitted on the train split."""
        return self.path / "encoder.safetensors"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def broken(self) -> Path:
        """Folder of the broken steps, one bundle each."""
        return self.path / "broken"

    @property
    def lock_file(self) -> Path:
        return self.path / "run.lock"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def profile_file(self) -> Path:
        return self.path / "profile.json"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def model_file(self) -> Path:
        return self.path / "model.keras"

    def outputs(self) -> list[Path]:
        """Files and folders of a finished run that are worth keeping elsewhere, as far as they exist."""
        found = (self.model_file, self.result_file, self.report_file, self.figures, self.metrics_file)
        return [path for path in found if path.exists()]

    def create(self, needed_bytes: int, purpose: str = "") -> None:
        """Creates the directory if it does not exist.

        Args:
            needed_bytes: Disk space that the run needs at least.
            purpose: What it is needed for, for the message.

        Raises:
            NotADirectoryError: The path is a file.
            OSError: It cannot be written to, or the disk is too full; nothing was created.
        """
        check_directory(self, needed_bytes, purpose)
        with files.explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def check_links(self) -> None:
        """Checks that nothing in the directory that a run writes is a link, which may lead anywhere.

        Raises:
            LinkError: A file or a folder is a link.
        """
        for name in _OURS:
            files.check_no_link(self.path / name)
        events = (path for folder in ("", "hparams/") for path in self.path.glob(f"{folder}events*.lightkeras"))
        for path in [*events, *self.figures.glob("*")]:
            files.check_no_link(path)

    def sweep(self) -> None:
        """Removes the temporary files of killed processes; the lock must be held."""
        for folder in (self.path, self.checkpoints, self.broken, self.figures):
            files.sweep(folder)
        for folder in self.figures.glob("*") if files.is_folder(self.figures) else ():
            files.sweep(folder)

    def check_unused(self) -> None:
        """Raises a FileExistsError if the directory holds a run or is part of one."""
        self.check_not_inside()
        if self.config_file.exists():
            raise FileExistsError(
                f"{self.path} already holds another run, which would be lost. "
                "Resume it with resume=True (--resume), give another run_dir, or remove it first."
            )

    def check_not_inside(self) -> None:
        """Raises a FileExistsError if the directory is part of a run, such as its `checkpoints` folder."""
        path = self.path.absolute()
        parts = ("checkpoints", "figures", "hparams", "machine", "broken", "profile")
        for folder in (path, *path.parents):
            if folder.name in parts and RunDirectory(folder.parent).config_file.exists():
                raise FileExistsError(f"{self.path} is part of the run in {folder.parent}. Give another run_dir.")

    def write_config(self, config: Mapping[str, Any]) -> None:
        files.write_json(self.config_file, config)

    def read_config(self) -> dict[str, Any]:
        """Reads the configuration that the run was started with.

        Raises:
            FileNotFoundError: The directory holds no run.
            ValueError: The file is damaged.
        """
        if not os.path.lexists(self.config_file):
            raise FileNotFoundError(
                f"{self.path} holds no run: there is no {self.config_file.name} in it. Give the directory of a run."
            )
        config: dict[str, Any] = files.read_json(self.config_file, formats.Config)
        return config

    def read_result(self) -> dict[str, Any]:
        """Reads the results so far; empty before the run has ended once.

        Raises:
            ValueError: The file is damaged.
        """
        if not os.path.lexists(self.result_file):
            return {}
        known: dict[str, Any] = files.read_json(self.result_file, formats.Result | formats.ExperimentResult)
        return known

    def update_result(self, part: Mapping[str, Any]) -> None:
        """Adds entries to `result.json`.

        Raises:
            ValueError: The file is damaged; it was not changed.
        """
        files.write_json(self.result_file, {**self.read_result(), **part})


def check_directory(directory: RunDirectory, needed_bytes: int, purpose: str = "") -> None:
    """Checks that a run can be written to a directory, by writing a temporary file.

    Args:
        directory: The run directory; it need not exist, and is not created.
        needed_bytes: Disk space that the run needs at least.
        purpose: What it is needed for, for the message.

    Raises:
        NotADirectoryError: The path, or a parent of it, is a file.
        OSError: It cannot be written to, or the disk is too full.
    """
    path = directory.path
    if os.path.lexists(path) and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; expected a directory. Give another run_dir.")
    folder = next(above for above in (path, *path.absolute().parents) if os.path.lexists(above))
    if not folder.is_dir():
        raise NotADirectoryError(f"{path} cannot be created: {folder} is a file, not a folder. Give another run_dir.")
    # Only a write finds out about permissions, quotas and read-only file systems.
    with files.explained(path), tempfile.NamedTemporaryFile(dir=folder, prefix=".lightkeras.") as file:
        file.write(b"\0")
        file.flush()
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OSError(
            f"{path}: {megabytes(free)} of disk are free, but the run needs about "
            f"{megabytes(needed_bytes)}{purpose and f' for {purpose}'}. Free disk space or give another run_dir."
        )


def holds_several(directory: RunDirectory) -> bool:
    """Returns True for the directory of an experiment of several runs."""
    return directory.config_file.exists() and "experiment" in directory.read_config()


def search_of(path: Path) -> Path | None:
    """Returns the directory of the search that a run in this directory is a part of; `None` for a run by itself."""
    for folder in list(path.absolute().parents)[:2]:  # SEARCH/refit, SEARCH/trials/0000
        above = RunDirectory(folder)
        if above.config_file.exists():
            return folder if "search" in above.read_config() else None
    return None


def runs_below(directory: RunDirectory) -> list[Path]:
    """Returns the run directories of an experiment in the order of their start, without searches."""
    found = []
    for path in directory.path.rglob("config.json"):
        config = RunDirectory(path.parent).read_config() if path.parent != directory.path else {}
        inside = any(RunDirectory(above).config_file.exists() for above in _between(path.parent, directory.path))
        if "data" in config and "search" not in config and not inside:
            found.append((str(config.get("started")), path.parent))
    return [path for _, path in sorted(found)]


def _between(path: Path, top: Path) -> list[Path]:
    return [above for above in path.parents if above.is_relative_to(top) and above != top]


def run_path(given: str | Path | None, name: str) -> Path:
    """Returns the given directory, or a new path such as `runs/imdb_hub/20261122-101500-ab12`."""
    if given is not None:
        return Path(given)
    return Path("runs") / name / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def find_broken(folder: Path) -> Path:
    """Returns the bundle of a broken step: the folder itself, or the newest bundle of a run directory.

    Raises:
        FileNotFoundError: The folder holds no bundle.
        ValueError: A bundle in the run directory is damaged.
    """
    if folder.name.startswith("step-") and files.is_file(folder / "state.json"):
        return folder
    found = [path for path in RunDirectory(folder).broken.glob("step-*") if files.is_file(path / "state.json")]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no broken step: expected a run directory with a folder 'broken', or one of the "
            "folders in it. A run writes one when a loss or a variable becomes NaN or infinite."
        )
    times = {
        path: files.read_json(path / "state.json", formats.BrokenState, files.decode_float)["at"] for path in found
    }
    return max(found, key=lambda path: (times[path], path.name))


def snake_case(name: str) -> str:
    """Converts `ImdbHub` to `imdb_hub`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def megabytes(size: int) -> str:
    """Formats a size in bytes for a message."""
    return f"{size / 1e6:,.1f} MB"
