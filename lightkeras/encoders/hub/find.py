"""Finds text modules in the data folder or TF-Hub's cache, by download, or uses the built-in sample."""

from __future__ import annotations

import dataclasses
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from lightkeras.data.lookup import Lookup
from lightkeras.encoders.hub.module_files import damage, fetch, is_url, remove
from lightkeras.system.files import cache_dir, check_own, private_folder
from lightkeras.system.messages import announce, did_you_mean
from lightkeras.system.trust import UntrustedRunError

NNLM_URL = "https://tfhub.dev/google/nnlm-en-dim50/2"
SAMPLE_NAME = "sample-text-50d-v1"
SAMPLE_BUCKETS = 4096
SAMPLE_WIDTH = 50


@dataclasses.dataclass(frozen=True)
class FoundModule:
    """A module that was found, for `HubLayer(found.handle)`.

    Args:
        handle: Folder or URL to load.
        name: Short name for reports, such as `"nnlm-en-dim50"`, or `"sample"`.
        is_sample: Whether this is the built-in sample, whose results must not be presented as real.

    Example: `lk.hub.find_module`.
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
    """Finds a module in the data folder or TF-Hub's cache, by download, or uses the built-in sample.

    Args:
        handle: A local SavedModel folder, a name under `<data folder>/hub/`, or a URL. `None` and
            `"auto"` mean the default: the first of `known` in the data folder, else `default_url`
            from TF-Hub's cache, else its download, else the sample.
        lookup: Sources for the default. A module that is named is always used.
        default_url: The default module for the download.
        known: Names under `<data folder>/hub/` of default modules, best first.

    Returns:
        Handle and name of the module. Use of the sample is printed on standard error.

    Raises:
        FileNotFoundError: The named module does not exist, or nothing was found and the sample is
            not allowed.

    Examples:
        >>> from lightkeras.data import Lookup
        >>> found = find_module("auto", Lookup(source="sample"))
        >>> found.name, found.is_sample
        ('sample', True)
    """
    if handle is not None and handle != "auto":
        return _named_module(handle, lookup)
    if not lookup.may_use_real:
        return _sample("source='sample': using the built-in sample text module")

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
    except UntrustedRunError:
        raise
    except (OSError, ValueError) as error:
        tried.append(str(error))
    if lookup.may_use_sample:
        return _sample(
            f"no real text module was found (no data folder has one, and {default_url} is not available): "
            "using the built-in sample text module"
        )
    lines = "\n".join(f"  - {line}" for line in tried)
    raise FileNotFoundError(
        f"No text module was found, and source='real' does not allow the built-in sample. Tried:\n{lines}\n"
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
    raise FileNotFoundError(f"No module is called {handle!r} in {shelf}. {did_you_mean(handle, names)} {_FORMS}")


_FORMS = "A module is named by a SavedModel folder, a name under <data folder>/hub/, or a http(s) URL."


def _name_of(url: str) -> str:
    """Short name of a URL: `https://tfhub.dev/google/nnlm-en-dim50/2` gives `nnlm-en-dim50`, without the version."""
    parts = [part for part in url.split("?")[0].split("/") if part]
    named = [part for part in parts if not part.isdigit()]
    return re.sub(r"\.(tar\.gz|tgz|tar)$", "", named[-1])


def _sample(why: str) -> FoundModule:
    announce(f"{why}; its results say nothing about real embeddings.")
    return FoundModule(str(sample_text_module()), "sample", is_sample=True)


def sample_text_module() -> Path:
    """Returns the built-in sample text module; writes it into the user's cache on first use.

    A TF2 SavedModel like `nnlm-en-dim50`: `module(strings [batch]) -> float32 [batch, 50]`. Texts are
    lower-cased, stripped of punctuation, split at white space and hashed into 4096 rows of a random, trainable
    table; a text is the sum of its rows divided by the root of their number. An empty text is all zeros.
    The rows are the same on every machine.

    Returns:
        The module's folder.

    Examples:
        >>> sample_text_module().joinpath("saved_model.pb").exists()
        True
    """
    folder = private_folder(private_folder(cache_dir()) / "hub") / SAMPLE_NAME
    if folder.is_dir():
        check_own(folder)
        if damage(folder) is None:
            return folder
        remove(folder)
    beside = folder.with_name(f"{SAMPLE_NAME}.{uuid.uuid4().hex}.tmp")
    beside.mkdir()
    try:
        _write_sample(beside)
        beside.rename(folder)
    except OSError:
        # Another process wrote the same module first: its copy is equal.
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
        plain = tf.strings.regex_replace(tf.strings.lower(sentences, encoding="utf-8"), r"<br ?/?>|[[:punct:]]", " ")
        words = tf.strings.split(plain)
        buckets = tf.strings.to_hash_bucket_fast(words.flat_values, SAMPLE_BUCKETS)
        return tf.sparse.segment_sqrt_n(module.embeddings, buckets, words.value_rowids(), num_segments=words.nrows())

    sentences = tf.TensorSpec((None,), tf.string, name="sentences")
    module.__call__ = tf.function(embed, input_signature=[sentences], autograph=False)
    module.variables = [module.embeddings]
    module.trainable_variables = [module.embeddings]
    module.regularization_losses = []
    tf.saved_model.save(module, str(folder))
    _make_reproducible(folder)


def _make_reproducible(folder: Path) -> None:
    """Removes from a SavedModel what differs each time it is written, so that its fingerprint is stable.

    That is `fingerprint.pb`, which holds a random id and which loading does not need, and the numbers in
    names, which count everything the process has traced before.
    """
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    (folder / "fingerprint.pb").unlink(missing_ok=True)
    file = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    library = model.meta_graphs[0].graph_def.library
    names = sorted((entry.signature.name for entry in library.function), key=_number_of)
    renamed = {name: f"{name.rsplit('_', 1)[0]}_{position}" for position, name in enumerate(names)}
    text = re.sub(
        f'(?<=")({"|".join(map(re.escape, names))})(?=")',
        lambda match: renamed[match[0]],
        text_format.MessageToString(model),
    )
    model = text_format.Parse(text, saved_model_pb2.SavedModel())
    library = model.meta_graphs[0].graph_def.library
    library.function.sort(key=lambda entry: _number_of(entry.signature.name))
    for entry in library.function:
        for argument in entry.arg_attr.values():
            if argument.attr["_user_specified_name"].s.isdigit():  # an unnamed capture's serial number
                argument.attr["_user_specified_name"].s = b""
    file.write_bytes(model.SerializeToString(deterministic=True))


def _number_of(function_name: str) -> int:
    """The number at the end of the name that TensorFlow gave to a function."""
    return int(function_name.rsplit("_", 1)[1])
