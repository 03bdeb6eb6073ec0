"""The thumbnails of the experiments in README.md."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))


@pytest.fixture(scope="module")
def thumbnails():
    spec = importlib.util.spec_from_file_location("thumbnails", ROOT / "docs" / "thumbnails.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_experiment_has_one(thumbnails):
    assert set(EXPERIMENTS) <= set(thumbnails.THUMBNAILS)


def test_the_thumbnails_are_small_pictures(thumbnails):
    paths = sorted((ROOT / "docs" / "thumbnails").glob("*.png"))
    assert paths
    for path in paths:
        assert path.stem in thumbnails.THUMBNAILS
        assert path.stat().st_size <= thumbnails.MOST_BYTES
        with Image.open(path) as picture:
            assert picture.size == thumbnails.SIZE


def test_a_part_of_a_picture_is_shown_without_its_margins(thumbnails, tmp_path):
    picture = Image.new("RGB", (1000, 500), "white")
    ImageDraw.Draw(picture).rectangle((100, 100, 299, 199), fill="black")  # in the left half
    ImageDraw.Draw(picture).rectangle((600, 0, 999, 499), fill="red")
    path = tmp_path / "small.png"
    path.write_bytes(thumbnails.small(picture, (0, 0, 0.5, 1)))
    shown = Image.open(path).convert("RGB")
    assert shown.size == (240, 160)
    assert shown.getpixel((120, 80)) == (0, 0, 0)
    assert shown.getpixel((6, 80)) == (0, 0, 0)  # 2 to 1: it is as wide as the thumbnail, and not as high
    assert shown.getpixel((120, 10)) == (255, 255, 255)


def test_an_unknown_experiment_is_refused(thumbnails):
    with pytest.raises(SystemExit, match=r"^'imdb' is not an experiment\. Valid names: mnist_beginner, "):
        thumbnails.main(["imdb"])


def test_a_missing_figure_is_named_with_the_figures_that_were_drawn(thumbnails, tmp_path, monkeypatch):
    experiments = tmp_path / "experiments"
    experiments.mkdir()
    monkeypatch.setattr(thumbnails, "ROOT", tmp_path)
    body = "import pathlib, sys\nfolder = pathlib.Path(sys.argv[-1], 'figures')\nfolder.mkdir(parents=True)\n"
    (experiments / "drawn.py").write_text(body + "(folder / 'curves.png').touch()\n")
    thumbnail = thumbnails.Thumbnail("figures/samples.png")
    with pytest.raises(SystemExit, match=r"^drawn did not draw figures/samples\.png\. It drew: figures/curves\.png\.$"):
        thumbnails.run("drawn", thumbnail, tmp_path / "run")
    with pytest.raises(SystemExit, match=r"^experiments/missing\.py does not exist\.$"):
        thumbnails.run("missing", thumbnail, tmp_path / "run")
