"""What only a run directory names: modules and addresses that are executed or fetched when it is used.

A run directory may come from somebody else. `config.json` of a run names the hyperparameters and the data folder, and a
task may take a TF Hub module, which is code, from either. Such a module is used if the user has it (in a data folder or
a cache of theirs), gives it on the command line, or trusts the run.

    with trusting(None):                   # of one command
        distrust(Untrusted(run_dir, names=("https://...",), data_dir=None))
        check_trusted("https://...", "download")   # raises UntrustedRunError
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_current: Untrusted | None = None


class UntrustedRunError(ValueError):
    """A run directory, and nothing else, names code that would be executed, or an address that would be fetched."""


@dataclasses.dataclass(frozen=True)
class Untrusted:
    """What a run directory names.

    Args:
        run_dir: The run directory.
        names: Texts among its hyperparameters that are neither defaults of the task nor given by the user.
        data_dir: Its data folder, if the user did not give it; `None` if they did.
        own: Folders of the user, whose modules are trusted.
    """

    run_dir: str
    names: tuple[str, ...]
    data_dir: str | None = None
    own: tuple[str, ...] = ()


@contextlib.contextmanager
def trusting(untrusted: Untrusted | None) -> Iterator[None]:
    """Sets what is not trusted in this process, until the end of the block or until `distrust`; `None` for nothing."""
    global _current
    before, _current = _current, untrusted
    try:
        yield
    finally:
        _current = before


def distrust(untrusted: Untrusted | None) -> None:
    """Sets what is not trusted, until the end of the block of `trusting`."""
    global _current
    _current = untrusted


def current() -> Untrusted | None:
    """What is not trusted now, for a process that works for this one."""
    return _current


def check_trusted(handle: str, action: str, own: Sequence[Path] = ()) -> None:
    """Checks that a module or an address may be used.

    Args:
        handle: A folder or a URL.
        action: What would be done with it, a verb: `"run"`, `"download"`.
        own: Further folders of the user.

    Raises:
        UntrustedRunError: Only a run directory that is not trusted names it.
    """
    if _current is None:
        return
    is_url = re.match(r"[a-z][a-z0-9+.-]*://", handle) is not None
    path = None if is_url else Path(handle).expanduser().resolve()
    if path is not None and any(path.is_relative_to(folder) for folder in [*map(_resolved, _current.own), *own]):
        return
    within = path is not None and _current.data_dir is not None and path.is_relative_to(_resolved(_current.data_dir))
    if within or any(_leads_to(name, handle, path) for name in _current.names):
        raise UntrustedRunError(
            f"This would {action} {handle}, which only {Path(_current.run_dir) / 'config.json'} names. A run directory "
            f"may come from somebody else, and this could {action} anything with your rights. If you trust it, add "
            "--trust_run, give the hyperparameter or --data_dir on the command line, or set "
            "LIGHTKERAS_DATA_DIR to the folder that has it."
        )


def _leads_to(name: str, handle: str, path: Path | None) -> bool:
    """Whether a handle was made from a text: it has one of its parts."""
    given = Path(name).expanduser()
    if path is not None and (os.path.lexists(given) and given.resolve() == path):
        return True
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..", "~", "http:", "https:")]
    places = handle if path is None else f"{handle} {path}"
    return any(part in places for part in parts)


def _resolved(folder: str) -> Path:
    return Path(folder).expanduser().resolve()
