"""Draws the pictures of the documentation, from a run of each experiment on its built-in sample.

    python docs/pictures.py                     # all
    python docs/pictures.py auto_mpg imdb_hub   # some

docs/thumbnails/NAME.png   a small part of one figure, for README.md and the gallery
docs/gallery/NAME-*.png    figures of its page
docs/curves.png            the curves of imdb_hub

Exits with an error if an experiment is missing or did not draw a figure that is named here.
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
DOCS = ROOT / "docs"
SIZE = (240, 160)  # pixels of a thumbnail
MOST_BYTES = 20_000  # of a thumbnail
GALLERY_SIZE = (1600, 1600)  # pixels of a picture of the gallery, at most
GALLERY_MOST_BYTES = 200_000


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Source of the pictures of an experiment.

    Args:
        figure: Path below the run directory of the figure of its thumbnail.
        box: The part of it that is shown, as fractions of width and height: left, top, right, bottom.
        gallery: Paths below the run directory of the figures of its page.
        flags: Flags that keep the run short.
    """

    figure: str
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    gallery: tuple[str, ...] = ("figures/curves.png",)
    flags: tuple[str, ...] = ()


LEFT_HALF = (0, 0, 1 / 2, 1)

PICTURES = {
    "mnist_beginner": Pictures(
        "figures/test/predictions.png", (0, 0, 1 / 3, 1 / 5), ("figures/curves.png", "figures/test/predictions.png")
    ),
    "mnist_expert": Pictures(
        "figures/test/confusion.png", gallery=("figures/curves.png", "figures/test/confusion.png")
    ),
    "fashion_mnist": Pictures(
        "figures/test/predictions.png",
        (0, 0, 2 / 3, 2 / 5),
        ("figures/curves.png", "figures/test/predictions.png", "figures/test/confusion.png"),
    ),
    "imdb_integers": Pictures(
        "figures/curves.png",
        LEFT_HALF,
        ("figures/curves.png", "figures/test/reviews_as_the_model_sees_them.png"),
    ),
    "imdb_hub": Pictures(
        "figures/test/most_confident_reviews.png",
        (0, 0, 0.6, 0.4),
        ("figures/curves.png", "figures/test/most_confident_reviews.png"),
    ),
    "auto_mpg": Pictures(
        "deep_all/figures/test/true_against_predicted.png",
        gallery=("figures/mae.png", "deep_all/figures/test/true_against_predicted.png"),
    ),
    "overfit_underfit": Pictures("figures/overlay.png", (0, 0, 0.4, 1), ("figures/overlay.png",)),
    "save_and_load": Pictures("straight/figures/curves.png", LEFT_HALF, ("straight/figures/curves.png",)),
    "tune_fashion": Pictures(
        "search/figures/hyperparameters.png",
        gallery=("search/figures/objective.png", "search/figures/hyperparameters.png"),
    ),
    "text_guide": Pictures("figures/curves.png", LEFT_HALF),
    "keras_io_gan": Pictures(
        "figures/test/samples.png",
        gallery=("figures/test/samples.png", "figures/curves.png"),
        flags=("--runner.max_epochs", "40", "--runner.draw_every", "null"),
    ),
    "keras_io_autoencoder": Pictures(
        "figures/test/before_after.png",
        (0, 0, 0.43, 1),
        ("figures/test/before_after.png", "figures/curves.png"),
        ("--runner.max_epochs", "30", "--hp.batch_size", "32"),
    ),
    "keras_io_text_transformer": Pictures("figures/curves.png", LEFT_HALF),
}


def run(name: str, pictures: Pictures, run_dir: Path) -> None:
    """Runs an experiment on the sample."""
    script = ROOT / "experiments" / f"{name}.py"
    if not script.exists():
        raise SystemExit(f"{script.relative_to(ROOT)} does not exist.")
    command = [sys.executable, script, "--source", "sample", *pictures.flags, "--run_dir", run_dir]
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": search})


def opened(name: str, run_dir: Path, figure: str) -> Image.Image:
    """Returns a figure of a run."""
    path = run_dir / figure
    if not path.exists():
        drawn = sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*.png"))
        raise SystemExit(f"{name} did not draw {figure}. It drew: {', '.join(drawn) or 'nothing'}.")
    return Image.open(path).convert("RGB")


def small(picture: Image.Image, box: tuple[float, float, float, float]) -> bytes:
    """Returns a part of a picture without its margins, centered on a white thumbnail, as a PNG."""
    width, height = picture.size
    part = picture.crop((round(box[0] * width), round(box[1] * height), round(box[2] * width), round(box[3] * height)))
    inner = ImageChops.difference(part, Image.new("RGB", part.size, "white")).getbbox()
    part = ImageOps.contain(part.crop(inner), (SIZE[0] - 8, SIZE[1] - 8), Image.Resampling.LANCZOS)
    thumbnail = Image.new("RGB", SIZE, "white")
    thumbnail.paste(part, ((SIZE[0] - part.width) // 2, (SIZE[1] - part.height) // 2))
    return png(thumbnail, MOST_BYTES)


def png(picture: Image.Image, most_bytes: int) -> bytes:
    """Returns a picture as a PNG with as many colors as the size of the file allows."""
    for colors in (128, 64, 32, 16):
        found = io.BytesIO()
        picture.quantize(colors).save(found, format="PNG", optimize=True)
        if found.tell() <= most_bytes:
            return found.getvalue()
    raise SystemExit(f"The picture takes {found.tell():,} bytes; the limit is {most_bytes:,}. Show a simpler part.")


def write(name: str, run_dir: Path) -> None:
    """Writes the pictures of an experiment from its run."""
    pictures = PICTURES[name]
    files = {DOCS / "thumbnails" / f"{name}.png": small(opened(name, run_dir, pictures.figure), pictures.box)}
    for figure in pictures.gallery:
        picture = opened(name, run_dir, figure)
        picture.thumbnail(GALLERY_SIZE, Image.Resampling.LANCZOS)
        files[DOCS / "gallery" / f"{name}-{Path(figure).stem}.png"] = png(picture, GALLERY_MOST_BYTES)
    if name == "imdb_hub":
        files[DOCS / "curves.png"] = files[DOCS / "gallery" / "imdb_hub-curves.png"]
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        print(f"{path.relative_to(ROOT)}, {len(content):,} bytes")


def main(names: list[str]) -> None:
    if unknown := sorted(set(names) - set(PICTURES)):
        raise SystemExit(f"{unknown[0]!r} is not an experiment. Valid names: {', '.join(PICTURES)}.")
    for name in names or PICTURES:
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder, "run")
            run(name, PICTURES[name], run_dir)
            write(name, run_dir)


if __name__ == "__main__":
    main(sys.argv[1:])
