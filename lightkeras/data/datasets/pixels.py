"""Converts images in arrays and in files to float32 images from 0 to 1, as models take them."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lightkeras.data.datasets import npz
from lightkeras.system.messages import check_whole

Shape = tuple[int, ...]
"""Shape of one image: `(height, width)`, or `(height, width, channels)`."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def check_images(images: np.ndarray, shape: Shape | None, name: str) -> None:
    """Raises a ValueError unless images are numbers `[n, *shape]`, n at least 1; a shape of `None` is any.

    `name` is that of the images in errors.
    """
    expected = "[n, height, width] or [n, height, width, channels]" if shape is None else f"[n, {_joined(shape)}]"
    if images.dtype.kind not in "buif":
        raise ValueError(f"{name} are of dtype {images.dtype}: expected numbers, uint8 from 0 to 255 for example.")
    fits = images.ndim in (3, 4) if shape is None else images.shape[1:] == shape
    if not fits or (images.ndim == 4 and images.shape[3] not in _MODES):
        raise ValueError(
            f"{name} are [{_joined(images.shape)}]: expected images {expected}"
            f"{', with 1, 3 or 4 channels' if shape is None else ''}."
        )
    if images.size == 0:
        raise ValueError(f"{name} are [{_joined(images.shape)}], which is empty: expected at least one image.")


def as_floats(images: np.ndarray, name: str) -> np.ndarray:
    """Converts images to float32 from 0 to 1: whole numbers are divided by 255, floats are unchanged.

    A ValueError if a value is not from 0 to 255, or from 0 to 1 for floats.
    """
    if images.dtype == bool:
        return images.astype(np.float32)
    whole = images.dtype.kind in "ui"
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= (255 if whole else 1)):  # NaN is neither
        raise ValueError(
            f"{name} hold values from {low} to {high}: expected "
            f"{'whole numbers from 0 to 255' if whole else 'floats from 0 to 1; divide by 255 what counts to 255'}."
        )
    return np.divide(images, 255, dtype=np.float32) if whole else images.astype(np.float32)


def as_batch(array: np.ndarray, shape: Shape, name: str) -> np.ndarray:
    """Converts one image or several to float32 `[n, *shape]` from 0 to 1; a ValueError if they do not fit."""
    array = np.asarray(array)
    if array.shape != shape and array.shape[1:] != shape:
        raise ValueError(
            f"{name} is [{_joined(array.shape)}]: expected one image [{_joined(shape)}], or a batch of them "
            f"[n, {_joined(shape)}]."
        )
    batch = array[np.newaxis] if array.shape == shape else array
    check_images(batch, shape, f"The images of {name}")
    return as_floats(batch, f"The images of {name}")


def read_file(path: Path, shape: Shape) -> np.ndarray:
    """Reads the images of a file as a batch: an `.npy` file of one or several images, or an image such as a PNG file.

    An image is converted to the channels of `shape`, such as colours to grey. It must have the size of `shape`: a
    digit that is scaled without its margin is another digit to the network. It must not be transparent, unless
    `shape` has 4 channels, because the background is not known. Nothing is inverted.

    Args:
        path: The file.
        shape: Shape of one image.

    Returns:
        float32 `[n, *shape]`, 0 to 1.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It cannot be read, or has another size or depth.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {str(path)!r}; expected the path of a .png or .npy file, or test:17.")
    if path.suffix == ".npy":
        return as_batch(npz.read_npy(path), shape, str(path))
    return as_floats(_decoded(path, shape).reshape(1, *shape), str(path))


def checked_shape(size: tuple[int, int], channels: int) -> tuple[int, int, int]:
    """Returns the shape of an image; a ValueError unless the size is two numbers of pixels, and the channels are known.

    Args:
        size: Height and width.
        channels: 1, 3 or 4.
    """
    if channels not in _MODES:
        raise ValueError(f"channels={channels!r}: expected 1 (grey), 3 (colours) or 4 (with transparency).")
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ValueError(f"size={size!r}: expected the height and the width in pixels, such as (180, 180).")
    for pixels in size:
        check_whole("", "size", pixels, 1, numpy=True)
    return int(size[0]), int(size[1]), channels


def problem_of(path: Path) -> str | None:
    """Returns why a file cannot be read as an image, by its header alone; `None` if it can."""
    try:
        with _opened(path) as image:
            return _deep(path, image) if _is_deep(image) else None
    except ValueError as error:
        return str(error)


def read_resized(path: Path, shape: tuple[int, int, int], crop: bool = False) -> np.ndarray:
    """Reads an image of any size: turned as its EXIF data says, converted and resized.

    Args:
        path: The file.
        shape: Height, width and channels to make of it.
        crop: Whether to cut the middle out of another aspect ratio; `False` stretches it.

    Returns:
        float32 `shape`, 0 to 1.

    Raises:
        ValueError: It cannot be read, or has more than 8 bits per channel.
    """
    from PIL import Image, ImageOps

    height, width, channels = shape
    with _opened(path) as image:
        is_deep = _is_deep(image)
        if not is_deep:
            turned = ImageOps.exif_transpose(image).convert(_MODES[channels])
            size, method = (width, height), Image.Resampling.BILINEAR
            resized = ImageOps.fit(turned, size, method) if crop else turned.resize(size, method)
    if is_deep:
        raise ValueError(_deep(path, image))
    return np.asarray(resized, np.float32).reshape(shape) / np.float32(255)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens an image; a ValueError that names the file if it cannot be opened or, inside, decoded."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except (
        OSError,
        SyntaxError,
        EOFError,
        ValueError,
        struct.error,
        OverflowError,
        Image.DecompressionBombError,
    ) as error:
        # What Pillow raises for broken files; for PNG a SyntaxError.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be read as an image ({reason}): expected a PNG file, for example.") from error


def _is_deep(image: Any) -> bool:
    return str(image.mode).startswith(("I", "F"))


def _deep(path: Path, image: Any) -> str:
    return f"{path} has more than 8 bits per channel (mode {image.mode}): save it with 8."


def _decoded(path: Path, shape: Shape) -> np.ndarray:
    height, width = shape[:2]
    wanted = _MODES[shape[-1] if len(shape) == 3 else 1]
    with _opened(path) as image:
        is_deep = _is_deep(image)
        if image.size == (width, height) and not is_deep:  # a larger one is not decoded
            pixels, shows_all = np.asarray(image.convert(wanted)), _opaque(image)
    if image.size != (width, height):
        raise ValueError(
            f"{path} is {image.size[0]} x {image.size[1]} pixels (width x height): expected {width} x {height}. "
            "Crop and scale it first: what it shows should fill it as in the training images."
        )
    if is_deep:
        raise ValueError(_deep(path, image))
    if wanted != "RGBA" and not shows_all:
        raise ValueError(f"{path} is transparent in places: put it on a background of one colour first.")
    return pixels


def _joined(shape: Shape) -> str:
    return ", ".join(map(str, shape))


def _opaque(image: Any) -> bool:
    return not image.has_transparency_data or image.convert("RGBA").getchannel("A").getextrema() == (255, 255)
