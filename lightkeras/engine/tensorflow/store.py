"""A store of the processes of a run, which the process with rank 0 keeps, by XML-RPC of the standard library.

    store = connect("host1", 29500, keeps=rank == 0)
    store.set("beat/1", "7")
    blocks = store.wait(["exchange/0/0", "exchange/0/1"], seconds=1)     # [] if not all have values by then

The store of TensorFlow's coordination service has no way to ask whether a key has a value, and begins only when every
process knows the addresses of all.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import socketserver
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final
from xml.parsers.expat import ExpatError
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from lightkeras.engine.world import JOIN_SECONDS, LOST_SECONDS, WorldError

_LOST = (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError)  # the last of half an answer


@final
class Values:
    """The values, which several threads use."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._unanswered = 0

    def set(self, key: str, value: bytes, anew: bool = False) -> bool:
        """Sets a key, with `anew` only if it has no value; returns whether it did."""
        with self._changed:
            if anew and key in self._values:
                return False
            self._values[key] = value
            self._changed.notify_all()
            return True

    def wait(self, keys: Sequence[str], seconds: float) -> list[bytes]:
        """See `Store.wait`."""
        with self._changed:
            there = self._changed.wait_for(lambda: all(key in self._values for key in keys), seconds)
            return [self._values[key] for key in keys] if there else []

    def delete(self, keys: Sequence[str]) -> bool:
        """Deletes keys, if they have values."""
        with self._changed:
            for key in keys:
                self._values.pop(key, None)
        return True

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Context of a request of another process, until it is answered."""
        with self._changed:
            self._unanswered += 1
        try:
            yield
        finally:
            with self._changed:
                self._unanswered -= 1
                self._changed.notify_all()

    def wait_until_answered(self) -> None:
        """Waits until no request is unanswered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unanswered)


@final
class Store:
    """The store, as a process uses it; see `lightkeras.engine.watch.Store`.

    Args:
        values: Returns the values, or a connection to them, for the thread that calls it.
        address: Address of this process, as the one that keeps the values sees it.
    """

    def __init__(self, values: Callable[[], Any], address: str) -> None:
        self._values, self.address = values, address

    def set(self, key: str, value: str | bytes) -> None:
        self._call("set", key, value.encode() if isinstance(value, str) else value)

    def get(self, key: str) -> bytes:
        found = self.wait([key], LOST_SECONDS)
        if not found:
            raise RuntimeError(f"The store has no {key}.")
        return found[0]

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def check(self, keys: Sequence[str]) -> bool:
        return bool(self.wait(keys, 0.0))

    def compare_set(self, key: str, expected: str, value: str) -> bool:
        """Sets a key that has no value; returns whether it did."""
        done: bool = self._call("set", key, value.encode(), not expected)
        return done

    def wait(self, keys: Sequence[str], seconds: float) -> list[bytes]:
        """The values of keys, when all have one; none if that takes longer."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            found: list[bytes] = self._call("wait", list(keys), min(max(left, 0.0), 1.0))
            if found or left <= 0:
                return found

    def delete(self, keys: Sequence[str]) -> None:
        """Deletes keys."""
        self._call("delete", list(keys))

    def wait_until_answered(self) -> None:
        """Waits, in the process that keeps the store, until all requests so far are answered."""
        self._call("wait_until_answered")

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._values(), name)(*arguments)
        except _LOST as error:
            raise RuntimeError(f"The store does not answer: {error}") from error


def connect(address: str, port: int, keeps: bool) -> Store:
    """Connects to the store, which this process `keeps`, or another one.

    Raises:
        ValueError: It cannot be kept there.
        WorldError: It does not answer.
    """
    place = f"MASTER_ADDR={address}, MASTER_PORT={port}"
    if keeps:
        values = Values()
        try:
            server = _Server(address, port, values)
        except OSError as error:
            raise ValueError(
                f"{place}: rank 0 cannot listen there; another program may use the port. Choose another one. ({error})"
            ) from error
        threading.Thread(target=server.serve_forever, name="lightkeras-store", daemon=True).start()
        return Store(lambda: values, address)
    own = threading.local()  # a connection is used by one thread at a time

    def connection() -> Any:
        if "to" not in vars(own):
            host = f"[{address}]" if ":" in address else address
            own.to = xmlrpc.client.ServerProxy(f"http://{host}:{port}", _Transport(), use_builtin_types=True)
        return own.to

    return Store(connection, _address_to(address, port))


class _Requests(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"  # one connection for all requests of a thread
    server: _Server

    def do_POST(self) -> None:  # noqa: N802, the name that the base class has
        with self.server.values.request():
            super().do_POST()
            self.wfile.flush()


class _Server(socketserver.ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True

    def __init__(self, address: str, port: int, values: Values) -> None:
        self.address_family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        # On all addresses: a launcher may give this process another name of its host than the others.
        super().__init__(("", port), _Requests, logRequests=False, use_builtin_types=True)
        self.values = values
        self.register_instance(values)


class _Transport(xmlrpc.client.Transport):
    def __init__(self) -> None:
        super().__init__(use_builtin_types=True)

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = LOST_SECONDS  # the process that keeps the store may be stopped
        return connection


def _address_to(address: str, port: int) -> str:
    """Waits for the process that keeps the store; returns the address of this one on the way to it."""
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            with socket.create_connection((address, port), timeout=LOST_SECONDS) as connection:
                return str(connection.getsockname()[0])
        except OSError as error:
            if time.monotonic() > deadline:
                raise WorldError(
                    f"MASTER_ADDR={address}, MASTER_PORT={port}: rank 0 did not answer there within "
                    f"{JOIN_SECONDS:.0f} s. Was it started? ({error})"
                ) from error
        time.sleep(0.1)
