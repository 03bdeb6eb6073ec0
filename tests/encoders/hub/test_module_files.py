import contextlib
import functools
import http.server
import io
import os
import shutil
import socket
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from lightkeras.encoders.hub import HubLayer, fingerprint, module_files, sample_text_module
from lightkeras.encoders.hub.module_files import cached_folder, damage, fetch, import_tensorflow_hub
from lightkeras.system.trust import Untrusted, UntrustedRunError, trusting


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "tfhub"))
    return tmp_path / "tfhub"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A web server on loopback that gives the sample module as `/words/1.tar.gz`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    root = tmp_path / "www"
    (root / "words").mkdir(parents=True)
    with tarfile.open(root / "words" / "1.tar.gz", "w:gz") as archive:
        archive.add(sample_text_module(), arcname=".")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            asked.append(self.command)

        def log_error(self, *args):
            """Says nothing: the terminal belongs to pytest."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def stop():
        if thread.is_alive():
            server.shutdown()
            thread.join()
            server.server_close()

    with contextlib.ExitStack() as stack:
        stack.callback(stop)
        yield Served(f"http://127.0.0.1:{server.server_port}/words/1.tar.gz", asked, root, stop)


class Served:
    def __init__(self, url, asked, root, stop):
        self.url, self.asked, self.root, self.stop = url, asked, root, stop


@pytest.fixture
def nobody():
    """A URL on loopback at which nothing answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return f"http://127.0.0.1:{port}/words/1.tar.gz"


def test_a_url_is_downloaded_once_and_then_used_without_the_network(served, capsys):
    layer = HubLayer(served.url)
    assert layer.fingerprint == fingerprint(sample_text_module())
    assert served.asked == ["HEAD", "GET"]
    assert f"downloading {served.url} into" in capsys.readouterr().err
    served.stop()
    again = HubLayer(served.url)
    assert served.asked == ["HEAD", "GET"]
    np.testing.assert_array_equal(again(tf.constant(["a b"])), layer(tf.constant(["a b"])))


@pytest.mark.parametrize(
    "lost",
    ["saved_model.pb", "variables", "variables/variables.index", "variables/variables.data-00000-of-00001"],
)
def test_a_half_deleted_module_in_the_cache_is_downloaded_again(served, capsys, lost):
    folder = fetch(served.url)
    whole = fingerprint(folder)
    shutil.rmtree(folder / lost) if (folder / lost).is_dir() else (folder / lost).unlink()
    capsys.readouterr()
    assert fetch(served.url) == folder
    assert fingerprint(folder) == whole
    said = capsys.readouterr().err.splitlines()
    assert "is damaged" in said[0]
    assert lost.split("/")[0] in said[0]
    assert [entry for entry in folder.parent.iterdir() if entry.name.endswith(".removed")] == []


def test_an_empty_folder_in_the_cache_is_filled(served):
    cached_folder(served.url).mkdir(parents=True)
    assert damage(fetch(served.url)) is None


def test_a_half_deleted_module_that_cannot_be_downloaded_again_is_reported(served):
    folder = fetch(served.url)
    (folder / "saved_model.pb").unlink()
    served.stop()
    with pytest.raises(
        ConnectionError, match=rf"{served.url} .*does not answer.*was damaged \(saved_model\.pb is missing\)"
    ):
        fetch(served.url)
    assert not folder.exists()


def test_a_server_that_does_not_answer_is_reported(nobody):
    with pytest.raises(ConnectionError, match=rf"{nobody} is not in the cache .* its server does not answer"):
        HubLayer(nobody)


def test_an_address_that_the_server_does_not_know_is_reported(served):
    url = served.url.replace("words", "wrods")
    with pytest.raises(ConnectionError, match=rf"Downloading the module {url} failed: .*404"):
        fetch(url)


def test_a_file_that_is_not_an_archive_is_reported_and_not_kept(served):
    (served.root / "words" / "1.tar.gz").write_bytes(b"<html>sign in</html>")
    with pytest.raises(ConnectionError, match=rf"Downloading the module {served.url} failed"):
        fetch(served.url)
    assert not cached_folder(served.url).exists()


def test_an_archive_that_is_cut_short_is_reported_and_not_kept(served):
    archive = served.root / "words" / "1.tar.gz"
    archive.write_bytes(archive.read_bytes()[:100_000])
    with pytest.raises(ConnectionError, match=rf"Downloading the module {served.url} failed"):
        fetch(served.url)
    assert not cached_folder(served.url).exists()


def test_an_archive_without_a_saved_model_is_reported_and_not_kept(served, tmp_path):
    (tmp_path / "README").write_text("words")
    with tarfile.open(served.root / "words" / "1.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "README", arcname="README")
    with pytest.raises(ValueError, match=r"is not a complete SavedModel: saved_model\.pb is missing"):
        fetch(served.url)
    assert not cached_folder(served.url).exists()


def test_the_cache_is_a_private_folder_where_none_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("TFHUB_CACHE_DIR")
    monkeypatch.delenv("LIGHTKERAS_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cached_folder("https://x/1").parent
    assert folder == tmp_path / "lightkeras" / "tfhub"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_module_that_another_user_planted_in_the_cache_is_not_run(served, monkeypatch, tmp_path):
    monkeypatch.delenv("TFHUB_CACHE_DIR")
    monkeypatch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    folder = fetch(served.url)
    os.chown(folder, 12345, -1)
    with pytest.raises(PermissionError, match="belongs to the user 12345 and not to you"):
        fetch(served.url)
    os.chown(folder, 0, -1)
    os.chown(folder.parent, 12345, -1)
    with pytest.raises(PermissionError, match="tfhub belongs to the user 12345"):
        fetch(served.url)


def test_a_module_that_only_a_run_directory_names_is_neither_run_nor_fetched(served, tmp_path):
    folder = Path(shutil.copytree(sample_text_module(), tmp_path / "planted"))
    with trusting(Untrusted("RUN", (served.url, str(folder)))):
        with pytest.raises(UntrustedRunError, match=f"would download {served.url}"):
            HubLayer(served.url)
        with pytest.raises(UntrustedRunError, match=f"would run {folder}"):
            HubLayer(str(folder))
        assert served.asked == []
    HubLayer(served.url)
    with trusting(Untrusted("RUN", (served.url,))):
        HubLayer(served.url)  # from the user's own cache


@pytest.mark.parametrize("kind", ["link", "outside", "endless"])
def test_an_archive_that_would_write_elsewhere_or_too_much_is_refused(served, monkeypatch, kind):
    member = tarfile.TarInfo("../evil" if kind == "outside" else "a")
    content = b"" if kind == "link" else bytes(20_000_000 if kind == "endless" else 5)
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    member.size = len(content)
    with tarfile.open(served.root / "words" / "1.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.addfile(member, io.BytesIO(content))
    monkeypatch.setenv("LIGHTKERAS_DOWNLOAD_GB", "0.01")
    with pytest.raises(ConnectionError, match="unpacked it is larger" if kind == "endless" else "not a file or folder"):
        fetch(served.url)
    cache = cached_folder(served.url).parent
    assert list(cache.iterdir()) == []
    assert not (cache.parent / "evil").exists()


def test_a_missing_asset_is_damage(tmp_path):
    (tmp_path / "words.txt").write_text("good\nbad\n")
    module = tf.Module()
    module.table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            str(tmp_path / "words.txt"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, -1
        ),
        1,
    )
    module.look_up = tf.function(module.table.lookup, input_signature=[tf.TensorSpec((None,), tf.string)])
    tf.saved_model.save(module, str(tmp_path / "module"))
    assert damage(tmp_path / "module") is None
    (tmp_path / "module" / "assets" / "words.txt").unlink()
    assert damage(tmp_path / "module") == "assets/words.txt is missing"


def test_one_missing_shard_of_many_is_damage(tmp_path):
    folder = Path(shutil.copytree(sample_text_module(), tmp_path / "module"))
    data = folder / "variables" / "variables.data-00000-of-00001"
    data.rename(data.with_name("variables.data-00001-of-00002"))
    assert damage(folder) == "variables/variables.data-00000-of-00002 is missing"


def test_a_fingerprint_depends_on_names_and_contents_only(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "a").write_text("x")
        (tmp_path / name / "sub" / "b").write_text("y")
    os.utime(tmp_path / "two" / "a", (0, 0))
    first = fingerprint(tmp_path / "one")
    assert fingerprint(str(tmp_path / "two")) == first
    assert len(first) == 32
    (tmp_path / "two" / "a").write_text("z")
    assert fingerprint(tmp_path / "two") != first
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "c")
    (tmp_path / "two" / "c").write_text("x")
    assert fingerprint(tmp_path / "two") != first


def test_only_a_module_with_objects_of_others_needs_tf_hub_which_imports_keras_2(tmp_path, monkeypatch):
    from tensorflow.core.protobuf import saved_model_pb2

    folder = tmp_path / "module"
    shutil.copytree(sample_text_module(), folder)
    asked = []
    monkeypatch.setattr(module_files, "import_tensorflow_hub", lambda: asked.append(1) or import_tensorflow_hub())
    plain = module_files.load_module(folder, "plain")
    assert asked == []
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((folder / "saved_model.pb").read_bytes())
    model.meta_graphs[0].object_graph_def.nodes[0].user_object.identifier = "_tf_keras_layer"
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    other = module_files.load_module(folder, "of Keras 2")
    assert asked == [1]
    texts = tf.constant(["a good film", "", "dull"])
    np.testing.assert_array_equal(plain(texts).numpy(), other(texts).numpy())
