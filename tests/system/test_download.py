"""Limits of downloads, with a fake clock and with servers on loopback."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from lightkeras.system.download import DownloadError, DownloadLimits, Meter, limited, limits


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "count", "problem"),
    [
        (1.0, 1001, "is larger than 1e-06 GB: set LIGHTKERAS_DOWNLOAD_GB"),
        (101.0, 1000, "takes longer than 100 s: set LIGHTKERAS_DOWNLOAD_SECONDS"),
        (61.0, 61, "is too slow: 61 bytes in 61 s"),
    ],
)
def test_a_download_past_a_limit_is_given_up(seconds, count, problem):
    clock = Clock()
    meter = Meter("x", DownloadLimits(100.0, 1000.0), clock)
    meter.add(0)
    clock.now = seconds
    with pytest.raises(DownloadError, match=f"the download of x {problem}"):
        meter.add(count)


def test_the_environment_sets_the_limits(monkeypatch):
    assert (limits().seconds, limits().bytes) == (3600.0, 20e9)
    monkeypatch.setenv("LIGHTKERAS_DOWNLOAD_SECONDS", "5")
    monkeypatch.setenv("LIGHTKERAS_DOWNLOAD_GB", "0.5")
    assert limits() == DownloadLimits(5.0, 5e8, 5.0)
    monkeypatch.setenv("LIGHTKERAS_DOWNLOAD_GB", "much")
    with pytest.raises(ValueError, match=r"LIGHTKERAS_DOWNLOAD_GB='much': expected a number above 0"):
        limits()


@contextlib.contextmanager
def server(answer: Any) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                answer(self)

        def log_message(self, *args: Any) -> None:
            """Says nothing: the terminal belongs to pytest."""

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}/x"
    finally:
        made.shutdown()
        thread.join()
        made.socket.close()


def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
    while True:
        handler.wfile.write(bytes(10_000))


def silent(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"x")
    handler.rfile.read(1)  # until the client closes


def trickling(handler: http.server.BaseHTTPRequestHandler) -> None:
    while True:
        handler.wfile.write(b"x")
        threading.Event().wait(0.05)


def by_urllib(url: str) -> bytes:
    with urllib.request.urlopen(url) as response:
        return bytes(response.read())


def by_requests(url: str) -> bytes:
    with requests.Session() as session, session.get(url, stream=True) as response:
        return b"".join(response.iter_content(8192))


@pytest.mark.parametrize("get", [by_urllib, by_requests])
@pytest.mark.parametrize(("answer", "seconds"), [(endless, "60"), (silent, "0.5"), (trickling, "0.5")])
def test_a_server_that_does_not_end_is_given_up(monkeypatch, get, answer, seconds):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("LIGHTKERAS_DOWNLOAD_SECONDS", seconds)
    monkeypatch.setenv("LIGHTKERAS_DOWNLOAD_GB", "0.001")

    def begin(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        answer(handler)

    began = time.monotonic()
    with server(begin) as url, pytest.raises((OSError, requests.RequestException)), limited("x"):
        get(url)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("get", [by_urllib, by_requests])
def test_what_ends_is_read_whole_and_the_opener_of_before_is_back(monkeypatch, get):
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(302 if handler.path == "/x" else 200)
        if handler.path == "/x":
            handler.send_header("Location", "/y")
        handler.end_headers()
        handler.wfile.write(b"" if handler.path == "/x" else b"abc" * 100_000)

    before = urllib.request._opener
    with server(answer) as url, limited("x"):
        assert get(url) == b"abc" * 100_000
    assert urllib.request._opener is before
