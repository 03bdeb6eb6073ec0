"""Joins a Ray cluster: an address at which none listens is an error at once."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

REACH = 10.0
"""Timeout of the check of an address, in seconds."""
_PASSED_ON = ("KERAS_", "LIGHTKERAS_", "TF_", "TFDS_", "TFHUB_", "JAX_", "XLA_", "OMP_", "OPENBLAS_", "MKL_")
_SETTINGS = 4  # type of a frame of HTTP/2
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def passed_on() -> dict[str, str]:
    """The environment variables that processes on other nodes get too."""
    return {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}


def join(purpose: str, address: str | None = None, show_output: bool = False) -> tuple[Any, bool]:
    """Joins a Ray cluster, unless this process has joined one.

    Args:
        purpose: What needs it, in errors.
        address: Address for `ray.init`. `None` uses `RAY_ADDRESS`, else the cluster that `ray start` started on this
            machine, else starts one.
        show_output: Whether what workers print is printed here too.

    Returns:
        The module `ray`, and whether this call joined the cluster.

    Raises:
        ImportError: Ray is not installed.
        ValueError: This process has joined another cluster.
        ConnectionError: The cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"{purpose} needs Ray, which is not installed: pip install 'lightkeras[ray]'.") from error
    if ray.is_initialized():
        joined = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", joined):
            raise ValueError(
                f"{purpose}, address={address!r}: this process has joined the Ray cluster at {joined} already. Leave "
                "the address out, or call ray.shutdown() before."
            )
        return ray, False
    where = _known_address(address)
    source = f"RAY_ADDRESS={where}" if where != address else f"{purpose}, address={address!r}"
    _check_reachable(ray, where, source)
    settings: dict[str, Any] = {"address": address, "log_to_driver": show_output, "logging_level": logging.ERROR}
    if where is None:
        settings["include_dashboard"] = False
    if show_output:  # of the programs, and only errors of Ray
        settings["logging_config"] = ray.LoggingConfig(log_level="ERROR")
    try:
        with _sigterm_handler_kept():
            ray.init(**settings)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ImportError) as error:
        if where is None:
            raise ConnectionError(f"Ray could not be started on this machine: {error}") from error
        raise ConnectionError(f"{source}: could not join a Ray cluster there: {error}") from error
    return ray, True


def _known_address(address: str | None) -> str | None:
    """Returns the address that Ray will connect to; `None` if it searches for a cluster or starts one."""
    return address if address not in (None, "auto") else os.environ.get("RAY_ADDRESS") or address


@contextlib.contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Restores the handler of SIGTERM: Ray's own exits with status 15 instead of 143."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_reachable(ray: Any, where: str | None, source: str) -> None:
    """Checks that a Ray cluster listens at an address: `ray.init` would try for more than three minutes."""
    host, _, port = (where or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # such as "auto", which Ray resolves
        return
    host = host.strip("[]")
    if host in _THIS_MACHINE and not str(where).startswith("ray://"):
        host = ray.util.get_node_ip_address()  # Ray connects to this address instead, and hung for minutes
    how = (
        "Start a cluster with `ray start --head`, which prints its address, or leave the address out to start one on "
        "this machine."
    )
    try:
        with contextlib.closing(socket.create_connection((host, int(port)), timeout=REACH)) as connection:
            speaks = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(connection)
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"{source}: nothing listens at {host}:{port} ({error}). {how}") from error
    if not speaks:
        raise ConnectionError(f"{source}: the server at {host}:{port} is not a Ray cluster. {how}")


def _speaks_http2(connection: socket.socket) -> bool:
    """Returns True if a server answers like gRPC, with a SETTINGS frame of HTTP/2 (RFC 9113, section 3.4)."""
    empty_settings = bytes([0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0])
    try:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
        with connection.makefile("rb") as answer:
            head = answer.read(9)  # length (3), type, flags, stream (4)
    except OSError:  # no answer, or the connection was closed
        return False
    return len(head) == 9 and head[3] == _SETTINGS and head[5:] == bytes(4)
