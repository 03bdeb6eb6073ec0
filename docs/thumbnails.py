"""Draws docs/thumbnails/NAME.png: a small picture from the figures of each experiment, on the built-in sample.

    python docs/thumbnails.py                     # all
    python docs/thumbnails.py auto_mpg imdb_hub   # some

Exits with an error if an experiment is missing or did not draw the figure that is named here.
"""

import dataclasses
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops, ImageOps

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "thumbnails"
SIZE = (240, 160)  # pixels
MOST_BYTES = 20_000


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """Source of the thumbnail of an experiment.

    Args:
        figure: Path of the figure below the run directory.
        box: The part of it that is shown, as fractions of width and height: left, top, right, bottom.
        flags: Flags that keep the run short.
    """

    figure: str
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    flags: tuple[str, ...] = ()


LEFT_HALF = (0, 0, 1 / 2, 1)

THUMBNAILS = {
    "mnist_beginner": Thumbnail("figures/test/predictions.png", (0, 0, 1 / 3, 1 / 5)),
    "mnist_expert": Thumbnail("figures/test/confusion.png"),
    "fashion_mnist": Thumbnail("figures/test/predictions.png", (0, 0, 2 / 3, 2 / 5)),
    "imdb_integers": Thumbnail("figures/curves.png", LEFT_HALF),
    "imdb_hub": Thumbnail("figures/test/most_confident_reviews.png", (0, 0, 0.6, 0.4)),
    "auto_mpg": Thumbnail("deep_all/figures/test/true_against_predicted.png"),
    "overfit_underfit": Thumbnail("figures/overlay.png", (0, 0, 0.4, 1)),
    "save_and_load": Thumbnail("straight/figures/curves.png", LEFT_HALF),
    "tune_fashion": Thumbnail("search/figures/hyperparameters.png"),
    "text_guide": Thumbnail("figures/curves.png", LEFT_HALF),
    "keras_io_gan": Thumbnail(
        "figures/test/samples.png", flags=("--runner.max_epochs", "40", "--runner.draw_every", "null")
    ),
    "keras_io_autoencoder": Thumbnail(
        "figures/test/before_after.png", (0, 0, 0.43, 1), ("--runner.max_epochs", "30", "--hp.batch_size", "32")
    ),
    "keras_io_text_transformer": Thumbnail("figures/curves.png", LEFT_HALF),
}


def run(name: str, thumbnail: Thumbnail, run_dir: Path) -> Image.Image:
    """Runs an experiment on the sample, and returns its figure."""
    script = ROOT / "experiments" / f"{name}.py"
    if not script.exists():
        raise SystemExit(f"{script.relative_to(ROOT)} does not exist.")
    command = [sys.executable, script, "--source", "sample", *thumbnail.flags, "--run_dir", run_dir]
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": search})
    figure = run_dir / thumbnail.figure
    if not figure.exists():
        drawn = sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*.png"))
        raise SystemExit(f"{name} did not draw {thumbnail.figure}. It drew: {', '.join(drawn) or 'nothing'}.")
    return Image.open(figure).convert("RGB")


def small(picture: Image.Image, box: tuple[float, float, float, float]) -> bytes:
    """Returns a part of a picture without its margins, centered on a white thumbnail, as a PNG."""
    width, height = picture.size
    part = picture.crop((round(box[0] * width), round(box[1] * height), round(box[2] * width), round(box[3] * height)))
    inner = ImageChops.difference(part, Image.new("RGB", part.size, "white")).getbbox()
    part = ImageOps.contain(part.crop(inner), (SIZE[0] - 8, SIZE[1] - 8), Image.Resampling.LANCZOS)
    thumbnail = Image.new("RGB", SIZE, "white")
    thumbnail.paste(part, ((SIZE[0] - part.width) // 2, (SIZE[1] - part.height) // 2))
    for colors in (128, 64, 32, 16):  # fewer until the file is small enough
        png = io.BytesIO()
        thumbnail.quantize(colors).save(png, format="PNG", optimize=True)
        if png.tell() <= MOST_BYTES:
            return png.getvalue()
    raise SystemExit(f"The thumbnail takes {png.tell():,} bytes; the limit is {MOST_BYTES:,}. Show a simpler part.")


def main(names: list[str]) -> None:
    if unknown := sorted(set(names) - set(THUMBNAILS)):
        raise SystemExit(f"{unknown[0]!r} is not an experiment. Valid names: {', '.join(THUMBNAILS)}.")
    FOLDER.mkdir(exist_ok=True)
    for name in names or THUMBNAILS:
        with tempfile.TemporaryDirectory() as folder:
            thumbnail = THUMBNAILS[name]
            png = small(run(name, thumbnail, Path(folder, "run")), thumbnail.box)
            (FOLDER / f"{name}.png").write_bytes(png)
            print(f"docs/thumbnails/{name}.png, {len(png):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
