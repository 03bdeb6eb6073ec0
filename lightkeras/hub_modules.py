"""Text and image modules on disk: finding, downloading, healing, fingerprinting, and the built-in sample."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import tarfile
import uuid
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lightkeras._messages import did_you_mean
from lightkeras.data.lookup import Lookup, announce, cache_dir, reachable

NNLM_URL = "https://tfhub.dev/google/nnlm-en-dim50/2"
SAMPLE_NAME = "sample-text-50d-v1"
SAMPLE_BUCKETS = 4096
SAMPLE_WIDTH = 50


@dataclasses.dataclass(frozen=True)
class FoundModule:
    """A module that was found, ready for `HubLayer(found.handle)`.

    Args:
        handle: Folder or URL to load.
        name: Short name for reports, such as `"nnlm-en-dim50"`, or `"sample"`.
        is_sample: Whether this is the built-in sample, whose results must not be presented as real.
    """

    handle: str
    name: str
    is_sample: bool = False


def find_module(
    handle: str | None,
    lookup: Lookup,
    *,
    default_url: str = NNLM_URL,
    known: tuple[str, ...] = ("nnlm-en-dim50", "glove-6b-50d"),
) -> FoundModule:
    """Finds the module to use: in the data folder, in TF-Hub's cache, by download, or the built-in sample.

    Args:
        handle: A local SavedModel folder, a name under `<data folder>/hub/`, or a URL. `None` and
            `"auto"` mean the default: the first of `known` in the data folder, else `default_url`
            from TF-Hub's cache, else its download, else the sample.
        lookup: Which sources may be used. `source="sample"` gives the sample whatever the handle.
        default_url: The module to download where none was named.
        known: Names under `<data folder>/hub/` that stand for the default, best first.

    Returns:
        What to load and what to call it. The fall to the sample is announced on standard error.

    Raises:
        FileNotFoundError: The named module does not exist, or nothing was found and the sample is
            not allowed.
    """
    if not lookup.may_use_real:
        named = "" if handle in (None, "auto") else f" in place of {handle!r}"
        return _sample(f"source='sample': using the built-in sample text module{named}")
    if handle is not None and handle != "auto":
        return _named_module(handle, lookup)

    tried = []
    folder = lookup.folder
    for name in known if folder else ():
        candidate = folder / "hub" / name if folder else Path(name)
        if candidate.is_dir():
            return FoundModule(str(candidate), name)
        tried.append(f"{candidate}: no such folder")
    if folder is None:
        tried.append("<data folder>/hub: no data folder is named (data_dir, LIGHTKERAS_DATA_DIR)")
    try:
        fetch(default_url)
        return FoundModule(default_url, _name_of(default_url))
    except (OSError, ValueError) as error:
        tried.append(str(error))
    if lookup.may_use_sample:
        return _sample(f"no real text module ({'; '.join(tried)}): using the built-in sample text module")
    lines = "\n".join(f"  - {line}" for line in tried)
    raise FileNotFoundError(
        f"No text module was found and source='real' forbids the built-in sample. Tried:\n{lines}\n"
        f"Put a SavedModel folder at <data folder>/hub/{known[0]}, name one by its path or URL, or allow the "
        "sample with source='auto'."
    )


def _named_module(handle: str, lookup: Lookup) -> FoundModule:
    if is_url(handle):
        return FoundModule(handle, _name_of(handle))
    local = Path(handle).expanduser()
    if local.is_dir():
        return FoundModule(str(local.resolve()), local.resolve().name)
    if len(local.parts) > 1:
        raise FileNotFoundError(f"The module folder {handle!r} does not exist. {_FORMS}")
    shelf = lookup.folder / "hub" if lookup.folder else None
    if shelf is None:
        raise FileNotFoundError(
            f"No module is called {handle!r}: it is not a folder here, and no data folder is named "
            f"(data_dir, LIGHTKERAS_DATA_DIR) to look into. {_FORMS}"
        )
    if (shelf / handle).is_dir():
        return FoundModule(str(shelf / handle), handle)
    names = [entry.name for entry in shelf.iterdir() if entry.is_dir()] if shelf.is_dir() else []
    raise FileNotFoundError(
        f"No module is called {handle!r} in {shelf}. {did_you_mean(handle, names)} {_FORMS}"
    )


_FORMS = "A module is named by a SavedModel folder, a name under <data folder>/hub/, or a http(s) URL."


def _name_of(url: str) -> str:
    """`https://tfhub.dev/google/nnlm-en-dim50/2` is called `nnlm-en-dim50`: the version number is no name."""
    parts = [part for part in url.split("?")[0].split("/") if part]
    named = [part for part in parts if not part.isdigit()]
    return re.sub(r"\.(tar\.gz|tgz|tar)$", "", named[-1])


def _sample(why: str) -> FoundModule:
    announce(f"{why}; its results say nothing about real embeddings.")
    return FoundModule(str(sample_text_module()), "sample", is_sample=True)


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
    """Digests a SavedModel folder: equal for equal files, wherever they lie and whenever they were written.

    Args:
        path: The folder.

    Returns:
        32 hexadecimal digits of BLAKE2b over the sorted relative file names and the files' contents.
    """
    root = Path(path)
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted((entry for entry in root.rglob("*") if entry.is_file()), key=lambda file: file.parts):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "blake2b").digest()
        name = file.relative_to(root).as_posix().encode()
        # The length keeps "ab" + "c" apart from "a" + "bc".
        digest.update(len(name).to_bytes(4, "big") + name + content)
    return digest.hexdigest()


def locate(handle: str) -> Path:
    """Gives the local folder of a module, downloading it where the handle is a URL.

    Args:
        handle: A local SavedModel folder or a http(s) URL.

    Returns:
        A folder that holds a complete SavedModel.

    Raises:
        FileNotFoundError: The local folder does not exist.
        ValueError: The folder holds no complete SavedModel.
        ConnectionError: The URL could not be downloaded.
    """
    if is_url(handle):
        return fetch(handle)
    folder = Path(handle).expanduser()
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(
            f"HubLayer got handle={handle!r}, which {kind}; expected a SavedModel folder or a http(s) URL. "
            "lightkeras.hub.find_module finds one by its short name."
        )
    if not any(
        (folder / name).exists() for name in ("saved_model.pb", "saved_model.pbtxt", "tfhub_module.pb")
    ):
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
    """Tells what a SavedModel folder lacks, without loading it.

    A cache in the temporary folder loses files one by one to the system's cleaning, while the folder
    stays: TensorFlow Hub takes it for a complete module.

    Args:
        folder: The folder to look at.

    Returns:
        The first thing that is wrong, or `None` where nothing is.
    """
    if (folder / "tfhub_module.pb").exists():
        return None  # TF1's own format: `load_module` refuses it for what it is.
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
    """The first graph of a SavedModel, or `None` where the file is no readable SavedModel."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString((folder / "saved_model.pb").read_bytes())
    except DecodeError:
        return None
    return model.meta_graphs[0] if model.meta_graphs else None


def cached_folder(url: str) -> Path:
    """The folder in which TensorFlow Hub keeps the module of a URL, whether it is there or not."""
    import_tensorflow_hub()
    from tensorflow_hub import resolver

    return Path(resolver.tfhub_cache_dir(use_temp=True)) / hashlib.sha1(url.encode("utf8")).hexdigest()


def fetch(url: str) -> Path:
    """Gives the module of a URL from TensorFlow Hub's cache, or downloads it into there.

    A complete cached module is used without touching the network. A cached module that has lost files
    is removed and downloaded again.

    Args:
        url: Address of a module, as TF-Hub understands it.

    Returns:
        The module's folder in the cache.

    Raises:
        ConnectionError: The server does not answer, or the download failed.
        ValueError: What was downloaded is not a complete SavedModel.
    """
    folder = cached_folder(url)
    lost = ""
    if folder.is_dir() and any(folder.iterdir()):
        problem = damage(folder)
        if problem is None:
            return folder
        announce(f"the cached copy of {url} is damaged ({problem}); removing {folder} to download it again.")
        _remove(folder)
        lost = f" Its cached copy was damaged ({problem}) and has been removed."
    if not reachable(url):
        raise ConnectionError(
            f"The module {url} is not in the cache ({folder}) and its server does not answer.{lost} Connect "
            "to the network, or give the folder of a copy (find_module looks into <data folder>/hub/<name>)."
        )
    return _download(url, folder, lost)


def _download(url: str, folder: Path, lost: str) -> Path:
    hub = import_tensorflow_hub()
    import tensorflow as tf

    announce(f"downloading {url} into {folder}")
    try:
        hub.resolve(url)
    except (OSError, ValueError, EOFError, tarfile.TarError, zlib.error, tf.errors.OpError) as error:
        raise ConnectionError(
            f"Downloading the module {url} failed: {error}.{lost} "
            "Check the URL, or give the folder of a copy."
        ) from error
    problem = damage(folder) if folder.is_dir() else f"{folder} was not written"
    if problem:
        # Left in place it would be taken for a module by every later run.
        _remove(folder)
        raise ValueError(f"What {url} gave is not a complete SavedModel: {problem}. Check the URL.")
    return folder


def _remove(folder: Path) -> None:
    """Removes a folder so that no other process ever sees it half removed under its own name."""
    if not folder.is_dir():
        return
    aside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.removed")
    folder.rename(aside)
    shutil.rmtree(aside)


def load_module(folder: Path, handle: str) -> Any:
    """Loads a callable TF2 module with `hub.load`, and says clearly what is wrong where that fails.

    Args:
        folder: The module's folder.
        handle: What the user wrote, for the messages.

    Returns:
        The loaded object. Two loads share nothing.

    Raises:
        ValueError: It is a TF1 module, it cannot be called, or its files are corrupt.
    """
    if (folder / "tfhub_module.pb").exists() or _is_tf1(folder):
        raise ValueError(
            f"The module {handle!r} is in the TF1 format, which has no callable object; expected a TF2 "
            "SavedModel. On TF-Hub a later version of the same module often is one: "
            "nnlm-en-dim50/2 is TF2, nnlm-en-dim50/1 is TF1."
        )
    hub = import_tensorflow_hub()
    import tensorflow as tf

    try:
        # A layer may be made inside a graph that is being traced; its variables must outlive that.
        with tf.init_scope():
            module = hub.load(str(folder))
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


def _is_tf1(folder: Path) -> bool:
    if not (folder / "saved_model.pb").exists():
        return False
    graph = _meta_graph(folder)
    return graph is not None and not graph.HasField("object_graph_def")


def sample_text_module() -> Path:
    """Gives the built-in sample text module, writing it into the user's cache on first use.

    A TF2 SavedModel like `nnlm-en-dim50`: `module(strings [batch]) -> float32 [batch, 50]`. Words are
    lower-cased, freed of punctuation, split at white space and hashed into 4096 rows of a random, trainable
    table; a text is the sum of its rows divided by the root of their number. An empty text is all zeros.
    The rows are the same on every machine.

    Returns:
        The module's folder.
    """
    folder = cache_dir() / "hub" / SAMPLE_NAME
    if folder.is_dir():
        if damage(folder) is None:
            return folder
        _remove(folder)
    beside = folder.with_name(f"{SAMPLE_NAME}.{uuid.uuid4().hex}.tmp")
    beside.mkdir(parents=True)
    try:
        _write_sample(beside)
        beside.rename(folder)
    except OSError:
        # Another process that wrote the same module at the same time was first: its copy is as good.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _write_sample(folder: Path) -> None:
    import tensorflow as tf

    # RandomState's stream is frozen for good; a Generator's may change between NumPy versions.
    # With rows of length 1, texts have about length 1 too: a scale at which Adam trains them well.
    rows = np.random.RandomState(1729).standard_normal((SAMPLE_BUCKETS, SAMPLE_WIDTH)) / np.sqrt(SAMPLE_WIDTH)
    # A bare Checkpoint, because tf.Module does not write its lists of variables into a SavedModel.
    module = tf.train.Checkpoint()
    with tf.init_scope():
        module.embeddings = tf.Variable(rows.astype("float32"), name="embeddings")

    def embed(sentences: Any) -> Any:
        plain = tf.strings.regex_replace(
            tf.strings.lower(sentences, encoding="utf-8"), r"<br ?/?>|[[:punct:]]", " "
        )
        words = tf.strings.split(plain)
        buckets = tf.strings.to_hash_bucket_fast(words.flat_values, SAMPLE_BUCKETS)
        return tf.sparse.segment_sqrt_n(
            module.embeddings, buckets, words.value_rowids(), num_segments=words.nrows()
        )

    sentences = tf.TensorSpec((None,), tf.string, name="sentences")
    module.__call__ = tf.function(embed, input_signature=[sentences], autograph=False)
    module.variables = [module.embeddings]
    module.trainable_variables = [module.embeddings]
    module.regularization_losses = []
    tf.saved_model.save(module, str(folder))
    _make_reproducible(folder)


def _make_reproducible(folder: Path) -> None:
    """Removes from a SavedModel what differs from one writing to the next, so that its fingerprint is stable.

    That is `fingerprint.pb`, which holds a random id and which loading does not need, and the numbers in
    the names of functions, which count everything the process has traced before.
    """
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    (folder / "fingerprint.pb").unlink(missing_ok=True)
    file = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    names = sorted(
        (function.signature.name for function in model.meta_graphs[0].graph_def.library.function),
        key=lambda name: int(name.rsplit("_", 1)[1]),
    )
    renamed = {name: f"{name.rsplit('_', 1)[0]}_{position}" for position, name in enumerate(names)}
    text = re.sub(
        r'"([^"\\]*)"',
        lambda match: f'"{renamed.get(match[1], match[1])}"',
        text_format.MessageToString(model),
    )
    model = text_format.Parse(text, saved_model_pb2.SavedModel())
    file.write_bytes(model.SerializeToString(deterministic=True))
