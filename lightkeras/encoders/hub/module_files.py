"""Downloads, checks, repairs, fingerprints and loads the files of SavedModel modules."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import secrets
import shutil
import tarfile
import urllib.request
import uuid
import warnings
import zlib
from pathlib import Path
from typing import Any

from lightkeras.data.lookup import reachable
from lightkeras.system import files
from lightkeras.system.digest import Digest
from lightkeras.system.download import GIGABYTES, DownloadLimits, limited, limits
from lightkeras.system.messages import announce
from lightkeras.system.tensorflow import keep_gpus_free
from lightkeras.system.trust import check_trusted


def is_url(handle: str) -> bool:
    return handle.startswith(("http://", "https://"))


def import_tensorflow_hub() -> Any:
    """Imports `tensorflow_hub`, which uses setuptools' deprecated `pkg_resources`, without its warnings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*pkg_resources", category=UserWarning)
        warnings.filterwarnings("ignore", message=r".*pkg_resources", category=DeprecationWarning)
        import tensorflow_hub
    return tensorflow_hub


def fingerprint(path: str | os.PathLike[str]) -> str:
    """32 hexadecimal digits of BLAKE2b over the sorted relative file names and the contents of a folder.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "weights.bin").write_bytes(bytes(4))
        ...     len(fingerprint(folder))
        32
    """
    root = Path(path)
    digest = Digest()
    for file in sorted((entry for entry in root.rglob("*") if entry.is_file()), key=lambda file: file.parts):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "blake2b").digest()
        name = file.relative_to(root).as_posix().encode()
        # The length distinguishes "ab" + "c" from "a" + "bc".
        digest.update(len(name).to_bytes(4, "big"), name, content)
    return digest.hex()


def locate(handle: str) -> Path:
    """Returns the local folder of a module; downloads it if the handle is a URL.

    A FileNotFoundError if the folder does not exist, an UntrustedRunError if only a run directory names the module,
    else the errors of `fetch`.
    """
    if is_url(handle):
        return fetch(handle)
    folder = Path(handle).expanduser()
    check_trusted(handle, "run", [files.cache_dir().resolve()])
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(
            f"HubLayer got handle={handle!r}, which {kind}; expected a SavedModel folder or a http(s) URL. "
            "lightkeras.encoders.hub.find_module finds one by its short name."
        )
    if not any((folder / name).exists() for name in ("saved_model.pb", "saved_model.pbtxt", "tfhub_module.pb")):
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"The folder {handle!r} is not a SavedModel: it has no saved_model.pb (it holds: {found}). Give "
            "the folder that tf.saved_model.save or a download from TF-Hub wrote."
        )
    problem = damage(folder)
    if problem:
        raise ValueError(f"The module {handle!r} is damaged: {problem}. Copy or download the folder again.")
    return folder


def damage(folder: Path) -> str | None:
    """Returns what a SavedModel folder lacks, without loading it; `None` if nothing.

    The system may delete single files of a cache in the temporary folder, while the folder stays: TensorFlow Hub takes
    it for a complete module.
    """
    if (folder / "tfhub_module.pb").exists():
        return None  # the format of TF1, which `load_module` refuses
    if (folder / "saved_model.pbtxt").exists():
        return None
    if not (folder / "saved_model.pb").exists():
        return "saved_model.pb is missing"
    graph = _meta_graph(folder)
    if graph is None:
        return "saved_model.pb cannot be read (cut short or overwritten)"
    for asset in graph.asset_file_def:
        if not (folder / "assets" / asset.filename).exists():
            return f"assets/{asset.filename} is missing"
    if not graph.HasField("object_graph_def"):
        return None
    if not (folder / "variables" / "variables.index").exists():
        return "variables/variables.index is missing"
    shards = [file.name for file in folder.glob("variables/variables.data-*-of-*")]
    count = int(shards[0].rsplit("-", 1)[1]) if shards else 1
    absent = {f"variables.data-{shard:05d}-of-{count:05d}" for shard in range(count)} - set(shards)
    return f"variables/{min(absent)} is missing" if absent else None


def _meta_graph(folder: Path) -> Any:
    """The first graph of a SavedModel, or `None` if the file is not a readable SavedModel."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString((folder / "saved_model.pb").read_bytes())
    except DecodeError:
        return None
    return model.meta_graphs[0] if model.meta_graphs else None


def cached_folder(url: str) -> Path:
    """The folder of a URL in the cache of modules, whether it exists or not.

    The cache is `$TFHUB_CACHE_DIR` if that is set, as TensorFlow Hub has it, else a private folder of the user.
    TensorFlow Hub's default, a folder of a known name in the shared temporary folder, can be filled by anybody.

    Raises:
        PermissionError: The private folder belongs to another user.
    """
    named = os.environ.get("TFHUB_CACHE_DIR")
    folder = (
        Path(named).expanduser() if named else files.private_folder(files.private_folder(files.cache_dir()) / "tfhub")
    )
    return folder / hashlib.sha1(url.encode("utf8")).hexdigest()


def fetch(url: str) -> Path:
    """Returns the folder of a URL's module in the cache; downloads it if it is not there.

    A complete cached module is used without touching the network. A cached module that has lost files is removed and
    downloaded again. A ConnectionError if the download failed, a ValueError if it is not a complete SavedModel, an
    UntrustedRunError if it is not cached and only a run directory names it.
    """
    folder = cached_folder(url)
    lost = ""
    if folder.is_dir() and any(folder.iterdir()):
        if not os.environ.get("TFHUB_CACHE_DIR"):
            files.check_own(folder)
        problem = damage(folder)
        if problem is None:
            return folder
        announce(f"the cached copy of {url} is damaged ({problem}); removing {folder} to download it again.")
        remove(folder)
        lost = f" Its cached copy was damaged ({problem}) and has been removed."
    check_trusted(url, "download")
    if not reachable(url):
        raise ConnectionError(
            f"The module {url} is not in the cache ({folder}) and its server does not answer.{lost} Connect "
            "to the network, or give the folder of a copy (find_module looks into <data folder>/hub/<name>)."
        )
    return _download(url, folder, lost)


def _download(url: str, folder: Path, lost: str) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    announce(f"downloading {url} into {folder}, {limits()}")
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    beside.mkdir()
    try:
        with limited(url) as meter, urllib.request.urlopen(_compressed(url)) as response:
            _unpack(response, beside, meter.limits)
        if problem := damage(beside):
            raise ValueError(f"What {url} gave is not a complete SavedModel: {problem}. Check the URL.")
        remove(folder)
        with contextlib.suppress(OSError):  # another process downloaded it meanwhile
            beside.rename(folder)
    except (OSError, EOFError, tarfile.TarError, zlib.error, http.client.HTTPException) as error:
        raise ConnectionError(
            f"Downloading the module {url} failed: {error}.{lost} Check the URL, or give the folder of a copy."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _compressed(url: str) -> str:
    """The address of a module's archive: TF-Hub's servers give one where the query asks for it."""
    if url.endswith((".tar.gz", ".tgz", ".tar")):
        return url
    return f"{url}{'&' if '?' in url else '?'}tf-hub-format=compressed"


def _unpack(stream: Any, folder: Path, found: DownloadLimits) -> None:
    """Unpacks the files of an archive below a folder; an archive may be larger than what was downloaded."""
    left = found.bytes
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            name = Path(member.name)
            if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                raise tarfile.TarError(f"the archive has {member.name!r}, which is not a file or folder in it")
            left -= max(member.size, 512)
            if left < 0:
                raise tarfile.TarError(f"unpacked it is larger than {found.bytes / 1e9:g} GB: set {GIGABYTES}")
            path = folder / name
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(member)
            if source is not None:
                with open(path, "xb") as target:
                    shutil.copyfileobj(source, target)


def remove(folder: Path) -> None:
    """Removes a folder; no other process ever sees half of it under its name."""
    if not folder.is_dir():
        return
    aside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.removed")
    folder.rename(aside)
    shutil.rmtree(aside)


def load_module(folder: Path, handle: str) -> Any:
    """Loads a callable TF2 module as `hub.load` does; two loads share nothing.

    A ValueError says why that fails: it is a TF1 module, cannot be called, or its files are corrupt.
    """
    if (folder / "tfhub_module.pb").exists() or _is_tf1(folder):
        raise ValueError(
            f"The module {handle!r} is in the TF1 format, which has no callable object; expected a TF2 "
            "SavedModel. On TF-Hub a later version of the same module often is one: "
            "nnlm-en-dim50/2 is TF2, nnlm-en-dim50/1 is TF1."
        )
    keep_gpus_free()
    import tensorflow as tf

    load = tf.saved_model.load if _has_plain_objects(folder) else import_tensorflow_hub().load

    try:
        # A layer may be made inside a graph that is being traced; its variables must outlive that.
        with tf.init_scope():
            module = load(str(folder))
    except (tf.errors.OpError, OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"The module {handle!r} cannot be loaded from {folder}; its files are corrupt, or written by a "
            f"newer TensorFlow: {error}. Remove the folder and copy or download it again."
        ) from error
    if not callable(module):
        raise ValueError(
            f"The module {handle!r} cannot be called: the SavedModel has no `__call__` function, only the "
            f"signatures {sorted(module.signatures)}. Expected a reusable TF2 module; for what "
            "`model.export` wrote use keras.layers.TFSMLayer."
        )
    return module


def _has_plain_objects(folder: Path) -> bool:
    """Whether all objects of a module are TensorFlow's own: only others may need Keras 2, which TF Hub imports."""
    graph = _meta_graph(folder) if (folder / "saved_model.pb").exists() else None
    kinds = {
        "",
        "_generic_user_object",
        "signature_map",
        *(f"trackable_{kind}_wrapper" for kind in ("list", "dict", "tuple")),
    }
    return graph is not None and {node.user_object.identifier for node in graph.object_graph_def.nodes} <= kinds


def _is_tf1(folder: Path) -> bool:
    if not (folder / "saved_model.pb").exists():
        return False
    graph = _meta_graph(folder)
    return graph is not None and not graph.HasField("object_graph_def")
