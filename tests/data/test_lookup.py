"""The order of look-up."""

import http.server
import socket
import threading
from pathlib import Path

import pytest

from lightkeras.data.lookup import Lookup, reachable
from lightkeras.system.files import cache_dir
from lightkeras.system.messages import announce


@pytest.fixture(autouse=True)
def _no_folder_from_outside(monkeypatch):
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_without_an_argument_or_the_environment_there_is_no_folder():
    assert Lookup().folder is None


def test_the_environment_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTKERAS_DATA_DIR", str(tmp_path))
    assert Lookup().folder == tmp_path.resolve()


def test_the_argument_goes_before_the_environment(monkeypatch, tmp_path):
    (tmp_path / "argument").mkdir()
    monkeypatch.setenv("LIGHTKERAS_DATA_DIR", str(tmp_path))
    assert Lookup(data_dir=str(tmp_path / "argument")).folder == (tmp_path / "argument").resolve()


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sets").mkdir()
    assert Lookup(data_dir="~/sets").folder == (tmp_path / "sets").resolve()


def test_a_folder_that_does_not_exist_is_an_error_that_names_its_origin(monkeypatch, tmp_path):
    gone = str(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"data_dir names '.*gone', which is not a folder\. Give an"):
        _ = Lookup(data_dir=gone).folder
    monkeypatch.setenv("LIGHTKERAS_DATA_DIR", gone)
    with pytest.raises(FileNotFoundError, match="LIGHTKERAS_DATA_DIR names"):
        _ = Lookup().folder


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="which is not a folder"):
        _ = Lookup(data_dir=str(tmp_path / "file")).folder


def test_an_unknown_source_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"source='reel' is not known\. Did you mean 'real'\? Valid names: auto"):
        Lookup(source="reel")


@pytest.mark.parametrize(
    ("source", "real", "sample"), [("auto", True, True), ("real", True, False), ("sample", False, True)]
)
def test_a_source_decides_what_may_be_used(source, real, sample):
    assert (Lookup(source).may_use_real, Lookup(source).may_use_sample) == (real, sample)


def test_the_cache_follows_the_xdg_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("LIGHTKERAS_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "lightkeras"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == Path(tmp_path) / ".cache" / "lightkeras"


def closed_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def test_a_port_where_nobody_listens_is_not_reachable():
    assert not reachable(f"http://127.0.0.1:{closed_port()}")


def test_a_server_that_answers_404_is_reachable():
    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *arguments):
            """Stays silent."""

    with http.server.HTTPServer(("127.0.0.1", 0), Nothing) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert reachable(f"http://127.0.0.1:{server.server_port}")
        thread.join()


def test_a_server_that_speaks_something_else_is_not_reachable():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail.example ESMTP\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert not reachable(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_a_value_that_is_not_an_address_is_not_reachable():
    assert not reachable("no address")


def test_an_announcement_is_one_line_on_standard_error(capsys):
    announce("using the sample")
    assert capsys.readouterr() == ("", "lightkeras: using the sample\n")
