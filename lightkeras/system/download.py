"""Limits of downloads: a server that hangs, trickles or never ends is given up.

with limited("the module https://..."):
    urllib.request.urlopen(...)     # of this process: urllib and requests, which Keras and TFDS use
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.message
import os
import sys
import time
import urllib.request
import urllib.response
from collections.abc import Callable, Iterator
from typing import Any, final

SECONDS, GIGABYTES = "LIGHTKERAS_DOWNLOAD_SECONDS", "LIGHTKERAS_DOWNLOAD_GB"
_SLOW_AFTER, _SLOWEST = 60.0, 1024.0  # seconds, and bytes per second on average that a server must send after them
_AT_ONCE = 1 << 16


class DownloadError(OSError):
    """A download took too long, or was too large."""


@dataclasses.dataclass(frozen=True)
class DownloadLimits:
    """Limits of one download.

    Args:
        seconds: Seconds in all.
        bytes: Size in all, also after it is unpacked.
        silence: Seconds without an answer of the server.
    """

    seconds: float = 3600.0
    bytes: float = 20e9
    silence: float = 30.0

    def __str__(self) -> str:
        return f"at most {self.seconds:g} s ({SECONDS}) and {self.bytes / 1e9:g} GB ({GIGABYTES})"


def limits() -> DownloadLimits:
    """The limits: `$LIGHTKERAS_DOWNLOAD_SECONDS` and `$LIGHTKERAS_DOWNLOAD_GB`, else an hour and 20 GB.

    Raises:
        ValueError: A variable is not a number above 0.
    """
    found = DownloadLimits()
    for name, field, scale in ((SECONDS, "seconds", 1.0), (GIGABYTES, "bytes", 1e9)):
        if not (text := os.environ.get(name)):
            continue
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            raise ValueError(f"{name}={text!r}: expected a number above 0.")
        found = dataclasses.replace(found, **{field: number * scale})
    return dataclasses.replace(found, silence=min(found.silence, found.seconds))


@final
class Meter:
    """Counts a download, and raises when it is past its limits.

    Args:
        what: What is downloaded, for errors.
        found: The limits.
        clock: Returns monotonic time in seconds.
    """

    def __init__(self, what: str, found: DownloadLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = found
        self._what, self._clock, self._began, self._bytes = what, clock, clock(), 0

    def add(self, count: int) -> None:
        """Counts bytes.

        Raises:
            DownloadError: A limit is passed.
        """
        self._bytes += count
        seconds = self._clock() - self._began
        problem = None
        if self._bytes > self.limits.bytes:
            problem = f"is larger than {self.limits.bytes / 1e9:g} GB: set {GIGABYTES} to allow more"
        elif seconds > self.limits.seconds:
            problem = f"takes longer than {self.limits.seconds:g} s: set {SECONDS} to allow more"
        elif seconds > _SLOW_AFTER and self._bytes < _SLOWEST * seconds:
            problem = f"is too slow: {self._bytes:,} bytes in {seconds:.0f} s"
        if problem is not None:
            raise DownloadError(f"the download of {self._what} {problem}")


@contextlib.contextmanager
def limited(what: str) -> Iterator[Meter]:
    """Limits the downloads of this process by `urllib.request` and by `requests`.

    Args:
        what: What is downloaded, for errors.
    """
    meter = Meter(what, limits())
    before = urllib.request._opener  # type: ignore[attr-defined]
    urllib.request.install_opener(urllib.request.build_opener(_Limiter(meter)))
    try:
        with _limited_requests(meter):
            yield meter
    finally:
        urllib.request.install_opener(before)


class _Limiter(urllib.request.BaseHandler):
    handler_order = 1000  # after those that follow redirections

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def http_request(self, request: Any) -> Any:
        request.timeout = self._meter.limits.silence
        return request

    def http_response(self, request: Any, response: Any) -> Any:
        if not 200 <= response.status < 300:
            return response
        reader = _Reader(response, response.read1, self._meter)
        return _Response(reader, response.headers, response.url, response.status)

    https_request, https_response = http_request, http_response


class _Response(urllib.response.addinfourl):
    msg = "OK"

    def __init__(self, reader: _Reader, headers: email.message.Message, url: str, status: int) -> None:
        super().__init__(reader, headers, url, status)  # type: ignore[arg-type]


class _Reader:
    """A response whose reads return what has arrived, and are counted."""

    def __init__(self, response: Any, read_some: Callable[[int], bytes], meter: Meter) -> None:
        self._response, self._some, self._meter = response, read_some, meter

    def read(self, amount: int | None = -1, **_: Any) -> bytes:
        """Reads up to an amount of bytes; all with -1 or `None`."""
        wanted = None if amount is None or amount < 0 else amount
        parts: list[bytes] = []
        while wanted is None or wanted > 0:
            part = self._some(_AT_ONCE if wanted is None else min(wanted, _AT_ONCE))
            self._meter.add(len(part))
            if not part:
                break
            parts.append(part)
            wanted = None if wanted is None else wanted - len(part)
        return b"".join(parts)

    def readline(self, *_: Any) -> bytes:
        return b""

    def readable(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)


@contextlib.contextmanager
def _limited_requests(meter: Meter) -> Iterator[None]:
    """Limits `requests`, if it is imported."""
    adapters = getattr(sys.modules.get("requests"), "adapters", None)
    if adapters is None:
        yield
        return
    send = adapters.HTTPAdapter.send

    def limited_send(self: Any, request: Any, *arguments: Any, **named: Any) -> Any:
        named["timeout"] = named.get("timeout") or meter.limits.silence
        response = send(self, request, *arguments, **named)
        raw = response.raw

        def counted(amount: int = _AT_ONCE, decode_content: bool | None = None) -> Iterator[bytes]:
            # `read1` returns what has arrived, so that a server that trickles is noticed.
            while part := raw.read1(amount, decode_content):
                meter.add(len(part))
                yield part

        raw.stream = counted
        return response

    adapters.HTTPAdapter.send = limited_send
    try:
        yield
    finally:
        adapters.HTTPAdapter.send = send
