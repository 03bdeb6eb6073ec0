"""Images in arrays and in files."""

import numpy as np
import pytest
from PIL import Image

from lightkeras.data.datasets import pixels

GRAY, COLOR = (2, 3), (2, 3, 3)


@pytest.fixture
def save(tmp_path):
    """Saves an array as an image file of a mode."""

    def saved(array, mode: str | None = None, name: str = "image.png"):
        image = Image.fromarray(np.asarray(array))
        (image if mode is None else image.convert(mode)).save(tmp_path / name)
        return tmp_path / name

    return saved


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (np.array([0, 51, 255], np.uint8), [0, 0.2, 1]),
        (np.array([0, 51, 255], np.int64), [0, 0.2, 1]),
        (np.array([0, 0.25, 1], np.float64), [0, 0.25, 1]),
        (np.array([False, True]), [0, 1]),
    ],
)
def test_whole_numbers_are_divided_by_255_and_floats_are_left_as_they_are(images, expected):
    found = pixels.as_floats(images, "It")
    assert found.dtype == np.float32
    assert found.tolist() == np.array(expected, np.float32).tolist()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.array([0, 256]), "It hold values from 0 to 256: expected whole numbers from 0 to 255"),
        (np.array([-1, 3]), "It hold values from -1 to 3: expected whole"),
        (
            np.array([0.0, 255.0]),
            r"It hold values from 0\.0 to 255\.0: expected floats from 0 to 1; divide by 255 what",
        ),
        (np.array([0.0, np.nan]), "It hold values from nan to nan: expected floats from 0 to 1"),
    ],
)
def test_values_out_of_range_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        pixels.as_floats(images, "It")


@pytest.mark.parametrize(
    ("images", "shape", "message"),
    [
        (np.zeros((5, 8, 8)), (28, 28), r"They are \[5, 8, 8\]: expected images \[n, 28, 28\]\."),
        (np.zeros((5, 28, 28, 3)), (28, 28), r"They are \[5, 28, 28, 3\]: expected images \[n, 28, 28\]\."),
        (np.zeros((5, 6)), None, r"They are \[5, 6\]: expected images \[n, height, width\] or .*, with 1, 3 or 4 chan"),
        (np.zeros((5, 6, 6, 2)), None, r"They are \[5, 6, 6, 2\]: expected images .* with 1, 3 or 4 channels\."),
        (np.zeros((0, 28, 28)), (28, 28), r"They are \[0, 28, 28\], which is empty: expected at least one image\."),
        (np.array([["a"]]), None, "They are of dtype <U1: expected numbers, uint8 from 0 to 255 for example"),
    ],
)
def test_a_value_that_is_not_a_batch_of_images_is_refused(images, shape, message):
    with pytest.raises(ValueError, match=message):
        pixels.check_images(images, shape, "They")


def test_a_single_image_becomes_a_batch_and_a_batch_stays_one():
    assert pixels.as_batch(np.zeros(GRAY), GRAY, "it").shape == (1, 2, 3)
    assert pixels.as_batch(np.zeros((4, *GRAY)), GRAY, "it").shape == (4, 2, 3)
    with pytest.raises(
        ValueError, match=r"it is \[3, 2\]: expected one image \[2, 3\], or a batch of them \[n, 2, 3\]\."
    ):
        pixels.as_batch(np.zeros((3, 2)), GRAY, "it")
    with pytest.raises(ValueError, match=r"The images of it are \[0, 2, 3\], which is empty"):
        pixels.as_batch(np.zeros((0, *GRAY)), GRAY, "it")


def test_a_gray_image_file_is_read_as_it_is(save):
    gray = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)
    found = pixels.read_file(save(gray), GRAY)
    assert found.dtype == np.float32
    assert found.tolist() == (gray[np.newaxis] / np.float32(255)).tolist()


def test_colours_become_shades_of_gray_by_their_lightness(save):
    """299, 587 and 114 thousandths of red, green and blue: 76, 150 and 29 of 255."""
    color = np.zeros(COLOR, np.uint8)
    color[0] = np.eye(3) * 255
    found = pixels.read_file(save(color), GRAY)
    assert np.rint(found[0, 0] * 255).tolist() == [76, 150, 29]


def test_shades_of_gray_become_three_equal_channels_where_colours_are_wanted(save):
    found = pixels.read_file(save(np.full(GRAY, 51, np.uint8)), COLOR)
    assert found.shape == (1, *COLOR)
    assert np.unique(found).tolist() == [np.float32(0.2)]


@pytest.mark.parametrize("shape", [(2, 3, 1), (2, 3, 4)])
def test_one_and_four_channels_can_be_wanted_too(save, shape):
    assert pixels.read_file(save(np.full(GRAY, 255, np.uint8)), shape).tolist() == np.ones((1, *shape)).tolist()


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA"])
def test_other_modes_are_converted(save, mode):
    found = pixels.read_file(save(np.full(GRAY, 255, np.uint8), mode), GRAY)
    assert found.tolist() == np.ones((1, *GRAY)).tolist()


def test_an_image_of_another_size_is_refused(save):
    message = r"image\.png is 4 x 5 pixels \(width x height\): expected 3 x 2\. Crop and scale it first: what it shows"
    with pytest.raises(ValueError, match=message):
        pixels.read_file(save(np.zeros((5, 4), np.uint8)), GRAY)


def test_a_transparent_image_is_refused(save):
    clear = np.full((2, 3, 4), 255, np.uint8)
    clear[0, 0, 3] = 128
    path = save(clear)
    with pytest.raises(ValueError, match=r"image\.png is transparent in places: put it on a background of one colour"):
        pixels.read_file(path, GRAY)
    assert pixels.read_file(path, (2, 3, 4))[0, 0, 0].tolist() == [1, 1, 1, np.float32(128 / 255)]


def test_an_image_of_16_bits_is_refused(save):
    with pytest.raises(ValueError, match=r"image\.png has more than 8 bits per channel \(mode I(;16)?\): save it"):
        pixels.read_file(save(np.full(GRAY, 40_000, np.uint16)), GRAY)


SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("content", [b"", b"no image", SIGNATURE, SIGNATURE + b"\0\0\0\1IHDR\0"])
def test_a_file_that_is_not_an_image_is_refused(tmp_path, content):
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"image\.png cannot be read as an image \(.*\): expected a PNG file, for"):
        pixels.read_file(tmp_path / "image.png", GRAY)


def test_an_image_file_that_was_cut_off_is_refused(save):
    path = save(np.random.default_rng(0).integers(0, 256, (200, 300), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"image\.png cannot be read as an image \(.*truncated.*\)"):
        pixels.read_file(path, (200, 300))


def test_an_npy_file_holds_one_image_or_a_batch(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.full(GRAY, 255, np.uint8))
    assert pixels.read_file(path, GRAY).tolist() == np.ones((1, *GRAY)).tolist()
    np.save(path, np.full((4, *GRAY), 0.5))
    assert pixels.read_file(path, GRAY).tolist() == np.full((4, *GRAY), 0.5).tolist()
    np.save(path, np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"images\.npy is \[3, 2\]: expected one image \[2, 3\], or a batch"):
        pixels.read_file(path, GRAY)


def test_a_path_that_leads_nowhere_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"No such file: '.*gone\.png'; expected the path of a \.png or \.npy file, or te"
    ):
        pixels.read_file(tmp_path / "gone.png", GRAY)
