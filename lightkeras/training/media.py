"""Media: what `Task.log_text` and `Task.log_image` take, checked and converted."""

from __future__ import annotations

import io
from typing import Any, final

import keras
import numpy as np

from lightkeras import plots
from lightkeras.training.recorder import Recorder

OURS = ("best", "config", "epoch", "gradients", "run", "test", "train", "val", "validation", "weights")
"""First parts of the tags of a run."""


@final
class Media:
    """Logs the texts and images of a task while its fit runs.

    Args:
        recorder: Writes to the loggers.
        owner: Name of the task's class, for messages.
    """

    def __init__(self, recorder: Recorder, owner: str) -> None:
        self._recorder, self._owner = recorder, owner
        self._logged: dict[str, tuple[str, int]] = {}  # by name: the method, and the step

    def log_text(self, name: str, text: str) -> None:
        """See `Task.log_text`."""
        if not isinstance(text, str):
            raise TypeError(f"{self._owner}.log_text({name!r}): expected a str, got {type(text).__name__}.")
        self._check_name("log_text", name)
        self._recorder.log_text(name, text)

    def log_image(self, name: str, image: Any) -> None:
        """See `Task.log_image`."""
        from matplotlib.figure import Figure

        png = plots.png(image) if isinstance(image, Figure) else self._encoded(name, image)
        self._check_name("log_image", name)
        self._recorder.log_images({name: png})

    def _check_name(self, method: str, name: str) -> None:
        call, step = f"{self._owner}.{method}({name!r})", self._recorder.state.step
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ValueError(f"{call}: expected a name of printable characters, such as 'samples'.")
        if name.split("/")[0] in OURS:
            raise ValueError(
                f"{call}: the name is taken: those that begin with {name.split('/')[0]!r} are the run's own. Give it "
                f"another name, such as 'my {name}'."
            )
        before, at = self._logged.get(name, (method, -1))
        if before != method:
            raise ValueError(f"{call}: the name is taken by {before}. Give it another name.")
        if at == step:
            raise ValueError(f"{call}: the name is taken: it was logged after step {step} already. Number the names.")
        self._logged[name] = (method, step)

    def _encoded(self, name: str, image: Any) -> bytes:
        array = np.asarray(keras.ops.convert_to_numpy(image))
        form = f"dtype {array.dtype} and shape {list(array.shape)}"
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
            raise ValueError(
                f"{self._owner}.log_image({name!r}): expected a matplotlib figure, or an array [height, width], "
                f"[height, width, 1], [height, width, 3] or [height, width, 4], got {form}."
            )
        if array.dtype.kind == "f" and (not np.isfinite(array).all() or array.min() < 0 or array.max() > 1):
            raise ValueError(
                f"{self._owner}.log_image({name!r}): expected floats from 0 to 1, or uint8 from 0 to 255, got values "
                f"from {array.min():g} to {array.max():g}. Scale them: (image - image.min()) / np.ptp(image)."
            )
        if array.dtype.kind == "f":
            array = np.round(255 * array).astype(np.uint8)
        if array.dtype != np.uint8:
            raise ValueError(f"{self._owner}.log_image({name!r}): expected uint8 or floats from 0 to 1, got {form}.")
        return _png_of(array)


def _png_of(array: np.ndarray) -> bytes:
    """Encodes uint8 `[height, width]` or `[height, width, channels]`."""
    import matplotlib.image

    if array.ndim == 2 or array.shape[2] == 1:
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    content = io.BytesIO()
    matplotlib.image.imsave(content, array, format="png")
    return content.getvalue()
