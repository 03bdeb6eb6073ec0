from __future__ import annotations

import socket
import threading

import pytest

from lightkeras.system.ray_cluster import join

pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.mark.parametrize("by_environment", [False, True])
def test_an_address_at_which_nothing_listens_is_refused_at_once(monkeypatch, by_environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    if by_environment:
        monkeypatch.setenv("RAY_ADDRESS", address)
    said = f"RAY_ADDRESS={address}" if by_environment else rf"a search, address='{address}'"
    port = address.rpartition(":")[2]
    with pytest.raises(ConnectionError, match=rf"^{said}: nothing listens at [\d.]+:{port} \(.*ray start --head"):
        join("a search", None if by_environment else address)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
def test_an_address_at_which_something_else_listens_is_refused(monkeypatch, answer):
    """One hangs up, one answers in another language, one says nothing."""
    monkeypatch.setattr("lightkeras.system.ray_cluster.REACH", 2.0)
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        answered = list[socket.socket]()

        def serve() -> None:
            answered.append(server.accept()[0])
            if answer is not None:
                with answered[0] as connection:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(
            ConnectionError, match=rf"^a search, address='{address}': the server at .* is not a Ray cluster"
        ):
            join("a search", address)
        thread.join()
        for connection in answered:
            connection.close()


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ConnectionError, match=r"a search, address='nonsense': could not join a Ray cluster"):
        join("a search", "nonsense")
