"""Where data sets and modules are looked for, and whether the built-in sample may replace them."""

from __future__ import annotations

import dataclasses
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from lightkeras.system.messages import did_you_mean

SOURCES = ("auto", "real", "sample")


@dataclasses.dataclass(frozen=True)
class Lookup:
    """The order of look-up: the data folder, the libraries' caches, a download, the built-in sample.

    Args:
        source: `"auto"` walks the whole order, `"real"` stops before the sample and raises,
            `"sample"` takes the sample at once.
        data_dir: Folder that is searched first. `None` means the folder named by the
            environment variable `LIGHTKERAS_DATA_DIR`, if it is set.

    Raises:
        ValueError: `source` is not one of the three.

    Examples:
        >>> Lookup(source="sample").may_use_real
        False
        >>> Lookup(source="real").may_use_sample
        False
    """

    source: str = "auto"
    data_dir: str | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source={self.source!r} is not known. {did_you_mean(self.source, SOURCES)}")

    @property
    def folder(self) -> Path | None:
        """The data folder; `None` if neither the argument nor the environment names one.

        Raises:
            FileNotFoundError: The folder that was named does not exist.
        """
        named = self.data_dir or os.environ.get("LIGHTKERAS_DATA_DIR")
        if not named:
            return None
        folder = Path(named).expanduser()
        if not folder.is_dir():
            origin = "data_dir" if self.data_dir else "LIGHTKERAS_DATA_DIR"
            raise FileNotFoundError(
                f"{origin} names {named!r}, which is not a folder. Give an existing folder, or leave it out."
            )
        return folder.resolve()

    def record(self) -> dict[str, str | None]:
        """Source and resolved folder, as `config.json` records them."""
        return {"source": self.source, "data_dir": None if self.folder is None else str(self.folder)}

    @property
    def may_use_real(self) -> bool:
        return self.source != "sample"

    @property
    def may_use_sample(self) -> bool:
        return self.source != "real"


def reachable(url: str, timeout: float = 3.0) -> bool:
    """Whether a web server answers a HEAD request: a machine without a network should not wait for retries.

    Proxies of the environment are honoured; `timeout` is in seconds.
    """
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout):
            return True
    except urllib.error.HTTPError:
        return True  # any answer will do, an error status too
    except (OSError, ValueError, http.client.HTTPException):
        return False  # no server, no such address, or not an HTTP server
