"""Folders of images and texts, against Pillow, NumPy and a stop and resume."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image, ImageOps

import lightkeras as lk
from lightkeras.data import ImageFolder, TextFolder
from lightkeras.data.datasets import pixels
from lightkeras.data.feed import ArrayFeed

WIDTH, HEIGHT = 12, 8


def save(path: Path, number: int, size: tuple[int, int] = (WIDTH, HEIGHT), mode: str = "RGB", **options) -> Path:
    """An image of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3)
    image = Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8))
    image.convert(mode).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    for name, count in {"dog": 6, "cat": 10}.items():
        for number in range(count):
            save(tmp_path / "photos" / name / f"{number}.png", 100 * (name == "dog") + number)
    return tmp_path / "photos"


def prepared(folder: Path, **settings):
    module = ImageFolder(folder, (4, 6), **settings)
    module.prepare(lk.Lookup())
    return module


def read(feed, epoch: int = 0) -> list[np.ndarray]:
    """All batches of an epoch, each part as one array."""
    return [np.concatenate(parts) for parts in zip(*feed.open_epoch(epoch), strict=True)]


def by_pillow(path: Path) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB").resize((6, 4), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32) / 255


# ---------------------------------------------------------------------- images


def test_images_are_resized_as_by_pillow_and_labelled_by_their_folder(photos):
    module = prepared(photos, validation=0, batch_size=5)
    assert (module.class_names, module.image_shape, module.source) == (("cat", "dog"), (4, 6, 3), "photos")
    assert module.train().steps == 4
    assert [str(spec) for spec in module.train().spec] == ["float32[batch, 4, 6, 3]", "int32[batch]"]
    assert [len(labels) for _, labels in module.train().open_epoch(0)] == [5, 5, 5, 1]
    images, labels = read(module.train())
    known = {by_pillow(path).tobytes(): path.parent.name for path in photos.rglob("*.png")}
    assert [known[image.tobytes()] for image in images] == [module.class_names[label] for label in labels]
    assert len({image.tobytes() for image in images}) == 16
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    assert module.validation() is None
    assert module.test() is None


def test_the_order_is_a_function_of_the_seed_and_the_epoch(photos):
    orders = [
        read(prepared(photos, seed=seed, validation=0.25).train(), epoch)[0].tobytes()
        for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0)]
    ]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 3
    validation = prepared(photos, validation=0.25).validation()
    np.testing.assert_array_equal(read(validation, 0)[0], read(validation, 1)[0])


def test_some_rows_of_each_batch_are_read(photos, monkeypatch):
    feed, read_resized, opened = prepared(photos, validation=0, batch_size=5).train(), pixels.read_resized, []
    monkeypatch.setattr(
        pixels, "read_resized", lambda path, **options: opened.append(path) or read_resized(path, **options)
    )
    whole = list(feed.open_epoch(1))
    assert len(opened) == 16
    opened.clear()
    part = list(feed.of_rows(lambda size: slice(size // 2, size)).open_epoch(1))
    assert len(opened) == len(set(opened)) == 5 + 3 + 3 + 1  # the first batch whole
    for number, (expected, found) in enumerate(zip(whole, part, strict=True)):
        rows = slice(len(expected[1]) // 2 if number else 0, None)
        np.testing.assert_array_equal(found[0][rows], expected[0][rows])
        np.testing.assert_array_equal(found[1], expected[1])
        assert not found[0][: rows.start].any()


def test_parts_are_held_out_with_the_same_share_of_each_class(photos):
    module = prepared(photos, test=0.5, validation=0.25)
    found = {name: read(getattr(module, name)()) for name in ("train", "validation", "test")}
    assert {name: np.bincount(labels).tolist() for name, (_, labels) in found.items()} == {
        "train": [4, 2],
        "validation": [1, 1],
        "test": [5, 3],
    }
    images = [image.tobytes() for images, _ in found.values() for image in images]
    assert len(set(images)) == 16


def test_splits_may_have_folders(tmp_path):
    for number, name in enumerate(["train/a", "train/b", "val/b", "test/a"]):
        save(tmp_path / "sets" / name / "x.jpg", number)
    module = prepared(tmp_path / "sets", validation=0.5)
    assert [read(getattr(module, name)())[1].tolist() for name in ("validation", "test")] == [[1], [0]]
    assert sorted(read(module.train())[1]) == [0, 1]
    save(tmp_path / "sets" / "test" / "c" / "x.png", 0)
    with pytest.raises(ValueError, match=r"test/c is not a folder of one of the classes\. "):
        prepared(tmp_path / "sets")
    assert prepared(tmp_path / "sets", class_names=["c", "b", "a"]).class_names == ("c", "b", "a")
    save(tmp_path / "sets" / "validation" / "a" / "x.png", 0)
    with pytest.raises(ValueError, match=r"has folders validation and val: expected one for the validation split"):
        prepared(tmp_path / "sets")
    (tmp_path / "sets" / "val").rename(tmp_path / "sets" / "more")
    with pytest.raises(ValueError, match=r"has a folder train, and .*more, which is none of a split"):
        prepared(tmp_path / "sets")


def test_exif_rotation_grey_transparency_and_crops(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = save(tmp_path / "p" / "a" / "turned.jpg", 0, exif=exif, quality=95)
    grey = save(tmp_path / "p" / "b" / "grey.png", 1, mode="L")
    clear = save(tmp_path / "p" / "c" / "clear.PNG", 2, mode="RGBA")
    images, labels = read(prepared(tmp_path / "p", validation=0).train())
    for number, path in enumerate([turned, grey, clear]):
        np.testing.assert_array_equal(images[labels.tolist().index(number)], by_pillow(path))
    one = prepared(tmp_path / "p", validation=0, channels=1, crop=True)
    images, labels = read(one.train())
    expected = ImageOps.fit(Image.open(grey), (6, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images[labels.tolist().index(1)][..., 0], np.asarray(expected, np.float32) / 255)
    assert prepared(tmp_path / "p", channels=4, validation=0).image_shape == (4, 6, 4)


def test_files_that_are_not_images_are_named_before_training(photos, capsys):
    (photos / "cat" / "notes.txt").write_text("a note")
    (photos / ".hidden").mkdir()
    (photos / "cat" / ".thumb.png").write_bytes(b"")
    prepared(photos)
    assert f"1 file in {photos / 'cat'} ignored, such as notes.txt: expected images (.bmp, " in capsys.readouterr().err
    for number in range(5):
        (photos / "dog" / f"broken{number}.png").write_bytes(b"no image")
    with pytest.raises(
        ValueError, match=r"broken0\.png cannot be read as an image \(.*\).*broken2.* So are 2 more\. Rem"
    ):
        prepared(photos)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(photos / "dog" / "broken0.png")
    for number in range(1, 5):
        (photos / "dog" / f"broken{number}.png").unlink()
    with pytest.raises(ValueError, match=r"broken0\.png has more than 8 bits per channel"):
        prepared(photos)


def test_an_image_that_is_cut_off_is_named_where_it_is_read(photos):
    path = save(photos / "dog" / "large.png", 0, (300, 300))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"large\.png cannot be read as an image"):
        read(prepared(photos, validation=0).train())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 4}, r"size=4: expected the height and the width in pixels"),
        ({"size": (4, 0)}, r"size=0: expected a whole number of at least 1"),
        ({"channels": 2}, r"channels=2: expected 1 \(grey\), 3 \(colours\) or 4"),
        ({"class_names": "cat"}, r"class_names='cat': expected a list of names, each once"),
        ({"class_names": ["cat", "cat"]}, r"expected a list of names, each once"),
        ({"validation": 1.5}, r"validation=1\.5: expected a fraction"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder("photos", **{"size": (4, 6)} | settings)


def test_folders_that_cannot_be_read_are_refused(tmp_path, photos, monkeypatch):
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match=r"No such folder: nowhere; expected one with a subfolder"):
        prepared(Path("nowhere"))
    with pytest.raises(ValueError, match=r"photos/cat has no subfolders: expected one for each class"):
        prepared(photos / "cat")
    (photos / "bird").mkdir()
    with pytest.raises(ValueError, match=r"The class folder .*bird has no image \(\.bmp, .*\): add some, or remove"):
        prepared(photos)
    (photos / "bird").rmdir()
    with pytest.raises(ValueError, match=r"photos/dog is not a folder of one of the classes\."):
        prepared(photos, class_names=["cat", "dogs"])
    with pytest.raises(RuntimeError, match=r"ImageFolder has no train data yet"):
        ImageFolder(photos, (4, 6)).train()
    module = ImageFolder("photos", (4, 6))
    module.prepare(lk.Lookup(data_dir=tmp_path))
    assert module.source == "photos"


def test_a_reader_that_is_left_stops_its_threads(photos):
    before = threading.active_count()
    for number in range(200):
        save(photos / "cat" / f"more{number}.png", number)
    batches = prepared(photos, validation=0, batch_size=4).train().open_epoch(0)
    assert len(list(itertools.islice(batches, 2))) == 2
    batches.close()
    for thread in threading.enumerate():
        if "ThreadPool" in thread.name:
            thread.join(10)
    assert threading.active_count() <= before


def test_typed_inputs_are_files_of_any_size_and_folders(photos, tmp_path):
    module = ImageFolder(photos, (4, 6))  # needs no data
    large = save(tmp_path / "large.jpg", 7, (40, 30))
    expanded = module.expand([str(photos / "dog"), str(large)], lk.Lookup())
    assert expanded == [*(str(photos / "dog" / f"{number}.png") for number in range(6)), str(large)]
    (images,) = read(module.predict(expanded))
    np.testing.assert_array_equal(images[-1], by_pillow(large))
    assert len(images) == 7
    (tmp_path / "empty" / "x").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"empty has no images"):
        module.expand([str(tmp_path / "empty")], lk.Lookup())
    with pytest.raises(FileNotFoundError, match=r"No such file: 'gone\.png'; expected the path of an image"):
        module.predict(["gone.png"])
    with pytest.raises(TypeError, match=r"Received the single string 'a\.png': expected a list of paths of images"):
        module.predict("a.png")
    with pytest.raises(ValueError, match=r"Received no paths of images to predict"):
        module.predict([])
    with pytest.raises(TypeError, match=r"Input 0 is int 3: expected a string"):
        module.predict([3])


def network():
    return keras.Sequential(
        [
            keras.Input((4, 6, 3)),
            keras.layers.RandomFlip(seed=0),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )


@pytest.mark.any_backend
def test_a_run_on_a_folder_that_is_stopped_resumes_to_the_same_weights(photos, tmp_path):
    def fit(run_dir: str, steps: int | None = None, resume: bool = False):
        keras.utils.set_random_seed(0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        data = ImageFolder(photos, (4, 6), validation=4, batch_size=3)
        task = lk.SupervisedTask(network(), loss=loss, metrics=["accuracy"], data=data)
        settings = {"progress": False, "pictures": False, "patience": None}
        runner = lk.Runner(max_epochs=3, max_steps=steps, run_dir=tmp_path / run_dir, **settings)
        result = runner.fit(task, resume=resume)
        return result, [np.asarray(weight) for weight in task.model.get_weights()]

    whole, weights = fit("whole")
    assert whole.steps == 12
    fit("stopped", steps=6)
    resumed, same = fit("stopped", resume=True)
    assert resumed.history == whole.history
    for one, other in zip(weights, same, strict=True):
        np.testing.assert_array_equal(one, other)
    model = keras.saving.load_model(tmp_path / "whole" / "model.keras")
    assert model(np.zeros((1, 4, 6, 3), "float32")).shape == (1, 2)


@pytest.mark.any_backend
def test_a_folder_of_a_class_that_the_run_does_not_know_is_refused(photos, tmp_path):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    runner = lk.Runner(max_epochs=1, run_dir=tmp_path / "run", progress=False, pictures=False)
    runner.fit(lk.SupervisedTask(network(), loss=loss, data=ImageFolder(photos, (4, 6), validation=4)))
    (photos / "bird").mkdir()
    for number in range(5):
        save(photos / "bird" / f"{number}.png", number, (8, 8))
    task = lk.SupervisedTask(network(), loss=loss, data=ImageFolder(photos, (4, 6), validation=4))
    with pytest.raises(
        ValueError, match=r"classes cat, dog, and ImageFolder has bird, cat, dog: the run does not know"
    ):
        runner.evaluate(task, split="validation", weights="best")


# ---------------------------------------------------------------------- texts


@pytest.fixture
def reviews(tmp_path) -> Path:
    for name, texts in {"pos": ["good", "grün ü"], "neg": ["bad", "worse", "worst"]}.items():
        (tmp_path / "reviews" / name).mkdir(parents=True)
        for number, text in enumerate(texts):
            (tmp_path / "reviews" / name / f"{number}.txt").write_text(text, encoding="utf-8")
    return tmp_path / "reviews"


def test_texts_are_read_with_the_class_of_their_folder(reviews):
    module = TextFolder(reviews, validation=0)
    module.prepare(lk.Lookup())
    feed = module.train()
    assert isinstance(feed, ArrayFeed)
    texts, labels = feed.arrays
    assert dict(zip([text.decode() for text in texts], labels.tolist(), strict=True)) == {
        "good": 1,
        "grün ü": 1,
        "bad": 0,
        "worse": 0,
        "worst": 0,
    }
    assert feed.shuffle
    assert module.predict(["ü"]).arrays[0].tolist() == ["ü".encode()]
    with pytest.raises(TypeError, match=r"Received the single string 'ü': expected a list of texts"):
        module.predict("ü")
    with pytest.raises(ValueError, match=r"Input 0, '\\udc00', is not UTF-8"):
        module.predict(["\udc00"])


def test_a_text_of_any_split_that_is_not_utf8_is_named_before_training(reviews):
    (reviews / "pos" / "latin.txt").write_bytes("ü".encode("latin-1"))
    with pytest.raises(ValueError, match=r"pos/latin\.txt is not UTF-8 \(.*\): save it in UTF-8"):
        TextFolder(reviews, test=2).prepare(lk.Lookup())


@pytest.mark.any_backend
def test_texts_are_learned_by_a_task_with_an_encoder(tmp_path):
    for name, word in {"pos": "good", "neg": "bad"}.items():
        (tmp_path / "texts" / name).mkdir(parents=True)
        for number in range(20):
            (tmp_path / "texts" / name / f"{number}.txt").write_text(f"a {word} film {number}")

    class Reviews(lk.Task):
        def build_data(self):
            return TextFolder(tmp_path / "texts", validation=0.25, test=0.25, batch_size=4)

        def build_encoder(self):
            return lk.TextVectorizer(20, 4)

        def build_model(self):
            layers = [keras.layers.Embedding(20, 8), keras.layers.Flatten(), keras.layers.Dense(2)]
            return keras.Sequential([keras.Input((4,), dtype="int32"), *layers])

        def build_optimizer(self):
            return keras.optimizers.Adam(0.05)

        def loss(self, batch, training):
            words, label = batch
            logits = self.model(words, training=training)
            hits = keras.ops.argmax(logits, -1) == label
            self.log("accuracy", keras.ops.mean(keras.ops.cast(hits, "float32")))
            return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(label, logits, from_logits=True))

    task = Reviews()
    runner = lk.Runner(max_epochs=8, run_dir=tmp_path / "run", progress=False, pictures=False)
    runner.fit(task)
    assert runner.evaluate(task, weights="best")["accuracy"] == 1.0
