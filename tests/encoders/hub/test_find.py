import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from lightkeras.data.lookup import Lookup
from lightkeras.encoders.hub import FoundModule, HubLayer, find_module, fingerprint, sample_text_module
from lightkeras.encoders.hub.module_files import cached_folder, damage, import_tensorflow_hub

NOWHERE = "http://127.0.0.1:9/google/nnlm-en-dim50/2"


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "tfhub"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR", raising=False)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def data_dir(tmp_path):
    for name in ("glove-6b-50d", "my-words"):
        shutil.copytree(sample_text_module(), tmp_path / "data" / "hub" / name)
    return tmp_path / "data"


@pytest.mark.parametrize("handle", [None, "auto"])
def test_the_default_is_the_first_known_module_in_the_data_folder(data_dir, handle):
    found = find_module(handle, Lookup(data_dir=str(data_dir)), default_url=NOWHERE)
    assert found == FoundModule(str(data_dir / "hub" / "glove-6b-50d"), "glove-6b-50d", is_sample=False)


def test_without_the_data_folder_the_default_comes_from_the_hubs_cache(capsys):
    shutil.copytree(sample_text_module(), cached_folder(NOWHERE))
    found = find_module(None, Lookup("real"), default_url=NOWHERE)
    assert found == FoundModule(NOWHERE, "nnlm-en-dim50")
    assert capsys.readouterr().err == ""
    assert HubLayer(found.handle).fingerprint == fingerprint(sample_text_module())


def test_with_nothing_to_be_had_the_sample_stands_in_and_reports_it(capsys):
    found = find_module(None, Lookup(), default_url=NOWHERE)
    assert found == FoundModule(str(sample_text_module()), "sample", is_sample=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert "using the built-in sample text module" in line
    assert "no data folder has one" in line


def test_real_raises_an_error_that_lists_what_was_tried(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(FileNotFoundError, match="does not allow the built-in sample") as raised:
        find_module("auto", Lookup("real", str(tmp_path / "data")), default_url=NOWHERE)
    lines = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:3]] == [
        f"  - {tmp_path}/data/hub/nnlm-en-dim50",
        f"  - {tmp_path}/data/hub/glove-6b-50d",
    ]
    assert NOWHERE in lines[3]


def test_sample_goes_straight_to_the_sample(data_dir, capsys):
    lookup = Lookup("sample", str(data_dir))
    assert find_module(None, lookup).is_sample
    (line,) = capsys.readouterr().err.splitlines()
    assert "using the built-in sample text module" in line


def test_a_module_that_was_named_is_used_whatever_the_source(data_dir):
    assert find_module("my-words", Lookup("sample", str(data_dir))).name == "my-words"


def test_a_name_is_looked_up_in_the_data_folder(data_dir):
    found = find_module("my-words", Lookup(data_dir=str(data_dir)))
    assert found == FoundModule(str(data_dir / "hub" / "my-words"), "my-words")


def test_a_folder_is_taken_as_it_is(data_dir):
    folder = data_dir / "hub" / "my-words"
    assert find_module(str(folder), Lookup("real")) == FoundModule(str(folder), "my-words")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://tfhub.dev/google/nnlm-en-dim50/2", "nnlm-en-dim50"),
        ("https://example.org/words.tar.gz?x=1", "words"),
    ],
)
def test_a_url_is_passed_on_and_named(url, name):
    assert find_module(url, Lookup()) == FoundModule(url, name)


def test_a_misspelled_name_is_answered_with_the_names_there_are(data_dir):
    with pytest.raises(
        FileNotFoundError,
        match=r"'glove-6b-5d' .* Did you mean 'glove-6b-50d'\? Valid names: glove-6b-50d, my-words",
    ):
        find_module("glove-6b-5d", Lookup(data_dir=str(data_dir)))


def test_a_name_without_a_data_folder_is_refused():
    with pytest.raises(FileNotFoundError, match="no data folder is named"):
        find_module("glove-6b-50d", Lookup())


def test_a_missing_path_is_refused_and_never_replaced_by_the_sample():
    with pytest.raises(FileNotFoundError, match="The module folder 'no/such' does not exist"):
        find_module("no/such", Lookup("auto"))


def sample():
    return import_tensorflow_hub().load(str(sample_text_module()))


def test_the_sample_embeds_texts_as_the_scaled_sum_of_its_rows():
    module = sample()
    table = module.variables[0].numpy()
    assert table.shape == (4096, 50)
    good, film = (table[int(tf.strings.to_hash_bucket_fast(word, 4096))] for word in ("good", "film"))
    texts = ["", "good", "Good film!<br />", "  ... ", "film good, GOOD"]
    expected = [0 * good, good, (good + film) / 2**0.5, 0 * good, (film + 2 * good) / 3**0.5]
    np.testing.assert_allclose(module(tf.constant(texts)), expected, atol=1e-6)
    assert module(tf.constant([], tf.string)).shape == (0, 50)


def test_the_sample_can_be_trained_everywhere_but_at_words_it_did_not_see():
    module = sample()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(module(tf.constant(["good", ""])))
    gradient = tf.convert_to_tensor(tape.gradient(loss, module.trainable_variables[0])).numpy()
    row = int(tf.strings.to_hash_bucket_fast("good", 4096))
    np.testing.assert_array_equal(gradient[row], np.ones(50))
    assert np.count_nonzero(gradient) == 50
    assert list(module.regularization_losses) == []


def test_the_rows_of_the_sample_have_about_length_one():
    lengths = np.linalg.norm(sample().variables[0], axis=1)
    assert abs(lengths.mean() - 1) < 0.02


def test_the_sample_is_the_same_whenever_and_wherever_it_is_written(tmp_path, monkeypatch):
    first = fingerprint(sample_text_module())
    monkeypatch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path / "other"))
    assert fingerprint(sample_text_module()) == first
    script = "from lightkeras.encoders.hub import *; print(fingerprint(sample_text_module()))"
    environment = {"XDG_CACHE_HOME": str(tmp_path / "third"), "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == first


def test_the_sample_is_written_once_and_again_where_files_are_lost():
    folder = sample_text_module()
    written = (folder / "saved_model.pb").stat().st_mtime_ns
    assert (sample_text_module() / "saved_model.pb").stat().st_mtime_ns == written
    (folder / "variables" / "variables.index").unlink()
    assert damage(sample_text_module()) is None


def test_two_writers_at_once_leave_one_whole_sample(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path / "fresh"))
    with ThreadPoolExecutor(2) as pool:
        folders = [job.result() for job in [pool.submit(sample_text_module) for _ in range(2)]]
    assert folders[0] == folders[1]
    assert damage(folders[0]) is None
    assert [entry.name for entry in folders[0].parent.iterdir()] == ["sample-text-50d-v1"]
