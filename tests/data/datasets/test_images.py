"""Images of a file and in memory, and what a person types."""

import numpy as np
import pytest
from PIL import Image

from lightkeras.data import Images, Lookup
from lightkeras.data.datasets import pixels

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 4, 5), dtype=np.uint8)
LABELS = np.arange(20) % 2


def prepared(*arrays, **settings) -> Images:
    images = Images(*arrays, **settings)
    images.prepare(Lookup())
    return images


@pytest.fixture(autouse=True)
def _no_folder_from_outside(monkeypatch):
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR", raising=False)


@pytest.fixture
def saved(tmp_path):
    """Saves arrays as a file of images; those that are `None` are left out."""

    def save(**arrays):
        whole = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:6], "y_test": LABELS[:6]} | arrays
        path = tmp_path / "shapes.npz"
        np.savez(path, **{name: array for name, array in whole.items() if array is not None})
        return path

    return save


# ------------------------------------------------------------------ splits


def test_arrays_become_float_images_and_int32_labels():
    images = prepared((IMAGES, LABELS), (IMAGES[:6], LABELS[:6]), batch_size=8, validation=4, seed=3)
    train, validation, test = images.train(), images.validation(), images.test()
    assert [str(spec) for spec in train.spec] == ["float32[batch, 4, 5]", "int32[batch]"]
    assert (train.examples, validation.examples, test.examples) == (16, 4, 6)
    assert np.array_equal(test.arrays[0], IMAGES[:6] / np.float32(255))
    assert test.arrays[1].tolist() == [0, 1, 0, 1, 0, 1]
    assert np.bincount(validation.arrays[1]).tolist() == [2, 2]
    assert (train.shuffle, validation.shuffle, test.shuffle) == (True, False, False)
    assert (train.seed, train.batch_size) == (3, 8)
    assert (images.source, images.class_names, images.image_shape) == ("arrays", ("0", "1"), (4, 5))


def test_the_images_held_out_are_not_learned_from():
    images = prepared((IMAGES, LABELS), validation=0.25)
    both = np.concatenate([images.train().arrays[0], images.validation().arrays[0]])
    assert len(both) == 20
    assert {image.tobytes() for image in both} == {image.tobytes() for image in IMAGES / np.float32(255)}


def test_without_a_validation_or_a_test_part_there_are_no_such_splits():
    images = prepared((IMAGES, LABELS), validation=0)
    assert images.train().examples == 20
    assert (images.validation(), images.test()) == (None, None)


def test_a_class_of_one_image_is_held_out_only_where_shares_are_not_asked_for():
    labels = [0] * 19 + [1]
    with pytest.raises(ValueError, match="Class 1 has 1 of 20 examples, all of which would be held out with 19"):
        prepared((IMAGES, labels), validation=19)
    assert prepared((IMAGES, labels), validation=19, stratify=False).train().examples == 1


def test_colour_images_keep_their_channels():
    images = prepared((np.zeros((10, 4, 5, 3)), LABELS[:10]))
    assert [str(spec) for spec in images.train().spec] == ["float32[batch, 4, 5, 3]", "int32[batch]"]


def test_a_file_is_read_with_its_test_part(saved):
    images = prepared(saved(), validation=4)
    assert (images.source, images.train().examples, images.test().examples) == ("shapes", 16, 6)


def test_a_file_without_a_test_part_has_no_such_split(saved):
    assert prepared(saved(x_test=None, y_test=None)).test() is None


def test_a_relative_path_is_looked_for_in_the_data_folder_too(saved):
    path = saved()
    images = Images(path.name)
    images.prepare(Lookup(data_dir=str(path.parent)))
    assert images.train().examples == 18
    with pytest.raises(
        FileNotFoundError, match=r"No such file: shapes\.npz or /shapes\.npz; expected an \.npz file of images"
    ):
        Images(path.name).prepare(Lookup(data_dir="/"))
    with pytest.raises(FileNotFoundError, match=r"No such file: shapes\.npz; expected"):
        Images(path.name).prepare(Lookup())


def test_preparing_again_does_nothing(saved):
    path = saved()
    images = prepared(path)
    path.unlink()
    images.prepare(Lookup())
    assert images.train().examples == 18


def test_names_of_classes_are_numbered_as_they_are_given_or_in_their_order():
    names = ["ring", "disc"] * 10
    for labels in (names, np.array(names, dtype=object), [name.encode() for name in names]):
        images = prepared((IMAGES, labels), validation=0)
        assert images.class_names == ("disc", "ring")
        assert images.train().arrays[1].tolist() == [1, 0] * 10
    given = prepared((IMAGES, names), class_names=["ring", "star", "disc"], validation=0)
    assert given.class_names == ("ring", "star", "disc")
    assert given.train().arrays[1].tolist() == [0, 2] * 10


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            (IMAGES, LABELS[:19]),
            r"labels y_train are \[19\] for 20 images x_train: expected one label for each, \[20\]",
        ),
        ((IMAGES, np.eye(2)[LABELS]), r"labels y_train are \[20, 2\] for 20 images x_train: expected one label"),
        (
            (IMAGES, LABELS - 1),
            r"labels y_train hold -1, which is not one of the 2 classes \(10 of 20 labels\): expected whole",
        ),
        (
            (IMAGES, LABELS + 1),
            r"labels y_train hold 2, which is not one of the 2 classes \(10 of 20 labels\): .* from 0 to 1",
        ),
        (
            (IMAGES, LABELS / 2),
            r"labels y_train are of dtype float64: expected whole numbers from 0 to 1, or names of cl",
        ),
        (
            (IMAGES, ["a"] * 19 + ["rinq"]),
            r"hold 'a', which is not one of the classes \(20 of 20 labels\)\. Valid names: ",
        ),
        (
            (IMAGES, ["ring"] * 19 + ["rinq"]),
            r"hold 'rinq', which is not one .*\(1 of 20 labels\)\. Did you mean 'ring'\?",
        ),
        ((IMAGES[0], LABELS[:4]), r"images x_train are \[4, 5\]: expected images \[n, height, width\] or"),
        ((IMAGES[:0], LABELS[:0]), r"images x_train are \[0, 4, 5\], which is empty: expected at least one"),
        ((IMAGES * 1.0, LABELS), r"The images hold values from 2\.0 to 245\.0: expected floats from 0 to 1; divide"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        prepared(arrays, class_names=["disc", "ring"])


def test_names_of_classes_that_are_none_are_refused():
    for labels, message in (
        ([b"\xff"] * 20, r"labels y_train hold b'\\xff', which is not UTF-8: decode it to str first"),
        (np.array(["a", None] * 10, dtype=object), "labels y_train hold NoneType None: expected numbers, or names of"),
    ):
        with pytest.raises(ValueError, match=message):
            prepared((IMAGES, labels))


def test_test_images_of_another_size_are_refused():
    images = prepared((IMAGES, LABELS), (np.zeros((2, 5, 4)), [0, 1]))
    with pytest.raises(ValueError, match=r"images x_test are \[2, 5, 4\]: expected images \[n, 4, 5\]\."):
        images.test()


def test_test_labels_that_no_training_image_has_are_refused(saved):
    images = prepared(saved(y_test=np.array([0, 1, 2, 0, 1, 2])))
    with pytest.raises(ValueError, match=r"labels y_test hold 2, which is not one of the 2 classes \(2 of 6 labels\)"):
        images.test()


def test_a_file_with_other_keys_is_refused(saved):
    with pytest.raises(ValueError, match=r"holds the arrays x_train, y_train, x_test: expected .*; y_test is missing"):
        prepared(saved(y_test=None))
    with pytest.raises(ValueError, match=r"holds the arrays x_test, y_test: expected .*; x_train, y_train are missing"):
        prepared(saved(x_train=None, y_train=None))


def test_a_file_with_pickled_objects_is_refused(saved):
    with pytest.raises(ValueError, match=r"Array x_train of .*shapes\.npz holds pickled objects"):
        prepared(saved(x_train=np.array([None] * 20)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (IMAGES,),
            TypeError,
            r"Received ndarray for x_train and y_train: expected \(images, labels\), or a path of an",
        ),
        (((IMAGES, LABELS, LABELS),), TypeError, "Received 3 arrays for x_train and y_train: expected"),
        (((IMAGES, LABELS), IMAGES), TypeError, "Received ndarray for x_test and y_test: expected"),
        (
            ("a.npz", (IMAGES, LABELS)),
            ValueError,
            r"test is given beside the file a\.npz: expected the file to hold x_te",
        ),
    ],
)
def test_what_is_neither_a_path_nor_images_with_labels_is_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        Images(*arguments)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size=0: expected"),
        ({"seed": -1}, ValueError, "seed=-1: expected"),
        ({"validation": 1.5}, ValueError, r"validation=1\.5: expected a fraction"),
        ({"validation": False}, TypeError, "validation=False: expected a fraction"),
        (
            {"class_names": ["a", "a"]},
            ValueError,
            r"class_names=\['a', 'a'\]: expected a name of its own for each class",
        ),
    ],
)
def test_settings_out_of_range_are_refused_at_once(settings, error, message):
    with pytest.raises(error, match=message):
        Images((IMAGES, LABELS), **settings)


def test_a_split_is_not_there_before_prepare():
    with pytest.raises(RuntimeError, match=r"Images has no train data yet: call `prepare\(lookup\)` first"):
        Images((IMAGES, LABELS)).train()


# ------------------------------------------------------------------ typed inputs


@pytest.fixture
def ready():
    return prepared((IMAGES, LABELS), (IMAGES[:6], LABELS[:6]), batch_size=2)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """`one.png`, `one.npy` and `three.npy` in the current folder."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(IMAGES[7]).save("one.png")
    np.save("one.npy", IMAGES[8])
    np.save("three.npy", IMAGES[9:12])


def test_an_array_of_one_image_or_a_batch_can_be_predicted(ready):
    one, batch = ready.predict(IMAGES[3]), ready.predict(IMAGES[:5] / 255)
    assert [str(spec) for spec in one.spec] == ["float32[batch, 4, 5]"]
    assert np.array_equal(one.arrays[0], IMAGES[3:4] / np.float32(255))
    assert np.allclose(batch.arrays[0], IMAGES[:5] / 255)
    assert (batch.steps, batch.shuffle) == (3, False)
    with pytest.raises(ValueError, match=r"the array is \[5, 4\]: expected one image \[4, 5\], or a batch of them"):
        ready.predict(np.zeros((5, 4)))


def test_files_and_images_of_the_test_split_can_be_predicted(ready, files):
    feed = ready.predict(["three.npy", "test:5", "one.png", "test:0-1", "three.npy:1-2", "one.npy"])
    numbers = [9, 10, 11, 5, 7, 0, 1, 10, 11, 8]
    assert np.array_equal(feed.arrays[0], IMAGES[numbers] / np.float32(255))


def test_an_input_that_is_several_images_is_expanded_to_inputs_of_one_each(ready, files):
    typed = ["three.npy", "one.png", "one.npy", "test:0-1", "test:5", "three.npy:1-2"]
    names = ready.expand(typed, Lookup())
    assert names == [
        *("three.npy:0", "three.npy:1", "three.npy:2", "one.png", "one.npy"),
        *("test:0", "test:1", "test:5", "three.npy:1", "three.npy:2"),
    ]
    assert np.array_equal(ready.predict(names).arrays[0], ready.predict(typed).arrays[0])


def test_a_file_is_read_once_however_many_of_its_images_are_named(ready, files, monkeypatch):
    read = []
    monkeypatch.setattr(
        pixels, "read_file", lambda path, shape: read.append(path.name) or IMAGES[9:12] / np.float32(255)
    )
    assert ready.predict(["three.npy:0", "three.npy:1", "three.npy:2"]).examples == 3
    assert read == ["three.npy"]


def test_the_data_is_looked_for_only_where_an_input_names_it(files, saved):
    images = Images(saved())
    with pytest.raises(RuntimeError, match=r"has no image shape yet: call `prepare\(lookup\)` first"):
        images.predict(["one.png"])
    assert images.expand(["one.png"], Lookup()) == ["one.png"]
    assert images.source == "shapes"


def test_a_file_whose_name_ends_like_a_selection_is_that_file(ready, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(IMAGES[7]).save("digit.npy:3", format="PNG")
    assert ready.expand(["digit.npy:3"], Lookup()) == ["digit.npy:3"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("test", ValueError, "'test' is not an image of the test split: expected test:17, or test:0-9"),
        ("test:a", ValueError, "'test:a' is not an image of the test split"),
        ("test:6", ValueError, "'test:6': expected numbers from 0 to 5, the smaller one first; there are 6 images"),
        ("test:4-2", ValueError, "'test:4-2': expected numbers from 0 to 5, the smaller one first"),
        ("three.npy:1-3", ValueError, r"'three\.npy:1-3': expected numbers from 0 to 2, .*; there are 3 images"),
        (
            "gone.png",
            FileNotFoundError,
            r"No such file: 'gone\.png'; expected the path of a \.png or \.npy file, or test:17",
        ),
        ("gone.npy:2", FileNotFoundError, r"No such file: 'gone\.npy'"),
        ("", FileNotFoundError, r"No such file: '\.'"),
    ],
)
def test_an_input_that_names_nothing_is_refused(ready, files, text, error, message):
    for ask in (ready.predict, lambda inputs: ready.expand(inputs, Lookup())):
        with pytest.raises(error, match=message):
            ask([text])


def test_without_a_test_split_none_of_its_images_can_be_named():
    with pytest.raises(ValueError, match="'test:0', but there is no test split: give the path of"):
        prepared((IMAGES, LABELS)).predict(["test:0"])


def test_no_inputs_or_no_list_of_them_is_an_error(ready):
    with pytest.raises(ValueError, match="Received no images to predict: expected at least one path, or test:17"):
        ready.predict([])
    with pytest.raises(TypeError, match=r"single string 'a\.png': expected a list of paths, \['a\.png'\]"):
        ready.predict("a.png")
    with pytest.raises(TypeError, match=r"Input 1 is ndarray: expected a path of an image, or test:17\. Give arrays"):
        ready.expand(["a.png", IMAGES[0]], Lookup())
