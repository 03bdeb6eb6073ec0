"""The pictures of the experiments in README.md and in the gallery."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_experiment_has_some(pictures):
    assert set(EXPERIMENTS) <= set(pictures.PICTURES)
    assert all(found.gallery for found in pictures.PICTURES.values())


def test_the_thumbnails_are_small_pictures(pictures):
    paths = sorted((ROOT / "docs" / "thumbnails").glob("*.png"))
    assert sorted(path.stem for path in paths) == EXPERIMENTS
    for path in paths:
        assert path.stat().st_size <= pictures.MOST_BYTES
        with Image.open(path) as picture:
            assert picture.size == pictures.SIZE


def test_the_pictures_of_the_gallery_are_those_that_the_script_draws(pictures):
    drawn = {f"{name}-{Path(figure).stem}.png" for name, found in pictures.PICTURES.items() for figure in found.gallery}
    paths = sorted((ROOT / "docs" / "gallery").glob("*"))
    assert {path.name for path in paths} == drawn
    for path in paths:
        assert path.stat().st_size <= pictures.GALLERY_MOST_BYTES
        with Image.open(path) as picture:
            assert max(picture.size) <= max(pictures.GALLERY_SIZE)


def test_a_part_of_a_picture_is_shown_without_its_margins(pictures, tmp_path):
    picture = Image.new("RGB", (1000, 500), "white")
    ImageDraw.Draw(picture).rectangle((100, 100, 299, 199), fill="black")  # in the left half
    ImageDraw.Draw(picture).rectangle((600, 0, 999, 499), fill="red")
    path = tmp_path / "small.png"
    path.write_bytes(pictures.small(picture, (0, 0, 0.5, 1)))
    shown = Image.open(path).convert("RGB")
    assert shown.size == (240, 160)
    assert shown.getpixel((120, 80)) == (0, 0, 0)
    assert shown.getpixel((6, 80)) == (0, 0, 0)  # 2 to 1: it is as wide as the thumbnail, and not as high
    assert shown.getpixel((120, 10)) == (255, 255, 255)


def test_the_pictures_of_a_run_are_written(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    monkeypatch.setattr(pictures, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(pictures, "PICTURES", {"imdb_hub": pictures.Pictures("a.png", gallery=("figures/curves.png",))})
    (tmp_path / "docs").mkdir()
    (tmp_path / "figures").mkdir()
    for name, size in {"a.png": (300, 200), "figures/curves.png": (3200, 800)}.items():
        Image.new("RGB", size, "red").save(tmp_path / name)
    pictures.write("imdb_hub", tmp_path)
    sizes = {
        "thumbnails/imdb_hub.png": (240, 160),
        "gallery/imdb_hub-curves.png": (1600, 400),
        "curves.png": (1600, 400),
    }
    for name, size in sizes.items():
        with Image.open(tmp_path / "docs" / name) as picture:
            assert picture.size == size


def test_an_unknown_experiment_is_refused(pictures):
    with pytest.raises(SystemExit, match=r"^'imdb' is not an experiment\. Valid names: mnist_beginner, "):
        pictures.main(["imdb"])


def test_a_picture_that_is_too_large_is_refused(pictures):
    with pytest.raises(SystemExit, match=r"^The picture takes \d+ bytes; the limit is 10\. Show a simpler part\.$"):
        pictures.png(Image.new("RGB", (10, 10), "red"), 10)


def test_a_missing_figure_is_named_with_the_figures_that_were_drawn(pictures, tmp_path, monkeypatch):
    experiments = tmp_path / "experiments"
    experiments.mkdir()
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    body = "import pathlib, sys\nfolder = pathlib.Path(sys.argv[-1], 'figures')\nfolder.mkdir(parents=True)\n"
    (experiments / "drawn.py").write_text(body + "(folder / 'curves.png').touch()\n")
    pictures.run("drawn", pictures.Pictures("figures/samples.png"), tmp_path / "run")
    with pytest.raises(SystemExit, match=r"^drawn did not draw figures/samples\.png\. It drew: figures/curves\.png\.$"):
        pictures.opened("drawn", tmp_path / "run", "figures/samples.png")
    with pytest.raises(SystemExit, match=r"^experiments/missing\.py does not exist\.$"):
        pictures.run("missing", pictures.Pictures("figures/samples.png"), tmp_path / "run")
