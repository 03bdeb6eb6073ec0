"""Pictures of images: how many panels, which titles, and which bar has which colour."""

from __future__ import annotations

import matplotlib.colors
import numpy as np
import pytest

from lightkeras import plots
from lightkeras.plots.style import GREY, RIGHT, WRONG

NAMES = ["coat", "bag", "boot"]
GREY_IMAGES = np.linspace(0, 1, 3 * 4 * 4, dtype="float32").reshape(3, 4, 4)


def titles(figure, loc: str = "center") -> list[str]:
    return [axes.get_title(loc=loc) for axes in figure.axes]


def shape_of(axes) -> tuple[int, ...]:
    return axes.get_images()[0].get_array().shape


# ---------------------------------------------------------------------- grids


@pytest.mark.parametrize(("count", "columns", "geometry"), [(1, 5, (1, 1)), (7, 5, (2, 5)), (100, 10, (10, 10))])
def test_a_grid_has_one_panel_per_image_in_rows(count, columns, geometry):
    figure = plots.image_grid(np.zeros((count, 4, 4)), columns=columns)
    assert len(figure.axes) == count
    assert figure.axes[0].get_gridspec().get_geometry() == geometry


def test_each_image_has_its_title():
    assert titles(plots.image_grid(GREY_IMAGES, NAMES)) == NAMES


def test_a_long_title_is_wrapped_and_cut():
    (title,) = titles(plots.image_grid(GREY_IMAGES[:1], ["word " * 40]))
    first, second = title.split("\n")
    assert second.endswith("\N{HORIZONTAL ELLIPSIS}")
    assert len(first) <= 31


def test_images_may_be_grey_with_or_without_a_channel_coloured_transparent_or_of_different_sizes():
    shapes = [(4, 4), (4, 4, 1), (5, 4, 3), (4, 6, 4)]
    figure = plots.image_grid([np.zeros(shape) for shape in shapes])
    assert [shape_of(axes) for axes in figure.axes] == [(4, 4), (4, 4), (5, 4, 3), (4, 6, 4)]


def test_black_is_zero_and_white_is_one_whatever_an_image_holds():
    figure = plots.image_grid([np.full((2, 2), 0.5), np.full((2, 2), 128, "uint8")])
    assert [axes.get_images()[0].get_clim() for axes in figure.axes] == [(0, 1), (0, 255)]
    assert figure.axes[0].get_images()[0].get_cmap().name == "gray"


def test_images_that_are_wide_take_little_height():
    assert plots.image_grid(np.zeros((5, 10, 40))).get_figheight() == pytest.approx(1.5 / 4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 4, 4)), r"image_grid: got no images; expected at least one\."),
        (np.zeros((4, 4)), r"image_grid: the images have the shape \(4, 4\); .* One image alone is images\[None\]\."),
        (np.zeros((1, 4, 4, 2)), r"image_grid: image 0 has the shape \(4, 4, 2\); expected \[height, width\], or 1, 3"),
        (np.full((1, 2, 2), 255.0), r"image_grid: image 0 has values from 255 to 255; expected 0 to 1, or uint8"),
        (np.full((1, 2, 2), np.nan), r"image_grid: image 0 has values that are not finite\."),
        (np.full((1, 2, 2), "a"), r"image_grid: image 0 has the dtype <U1; expected float or uint8\."),
    ],
)
def test_a_value_that_is_not_an_image_is_refused(images, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        plots.image_grid(images)


def test_values_that_rounding_pushed_out_of_the_range_are_taken():
    image = plots.image_grid(np.full((1, 2, 2), 1.0005)).axes[0].get_images()[0].get_array()
    assert image.max() == 1


def test_as_many_titles_as_images_are_expected():
    with pytest.raises(ValueError, match=r"^image_grid: got 3 images, 2 titles; expected the same number of each\.$"):
        plots.image_grid(GREY_IMAGES, NAMES[:2])


@pytest.mark.parametrize("columns", [0, True, 2.0])
def test_columns_are_a_whole_number(columns):
    with pytest.raises(ValueError, match=rf"^image_grid\(columns={columns}\): expected a whole number of at least 1"):
        plots.image_grid(GREY_IMAGES, columns=columns)


# ---------------------------------------------------------------------- before and after


def test_states_are_rows_with_their_titles_at_the_left():
    figure = plots.before_after({"noisy": GREY_IMAGES, "restored": GREY_IMAGES * 0.5})
    assert [axes.get_ylabel() for axes in figure.axes] == ["noisy", "", "", "restored", "", ""]
    assert figure.axes[0].get_gridspec().get_geometry() == (2, 3)
    assert figure.axes[3].get_images()[0].get_array().tolist() == (GREY_IMAGES[0] * 0.5).tolist()


def test_rows_of_different_lengths_are_refused():
    expected = r"^before_after: got 3 in 'noisy', 2 in 'true' images; expected the same number in each row\.$"
    with pytest.raises(ValueError, match=expected):
        plots.before_after({"noisy": GREY_IMAGES, "true": GREY_IMAGES[:2]})


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match=r"^before_after: got no rows; expected images by the title"):
        plots.before_after({})


# ---------------------------------------------------------------------- bars


def bars(axes) -> list[tuple[float, str]]:
    return [(patch.get_width(), matplotlib.colors.to_hex(patch.get_facecolor())) for patch in axes.patches]


def test_a_right_prediction_is_blue_with_a_check_mark_and_a_wrong_one_red_beside_the_true_one_in_blue():
    figure = plots.prediction_bars(GREY_IMAGES[:2], [[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], [2, 1], NAMES)
    right, right_bars, wrong, wrong_bars = figure.axes
    assert right.get_title(loc="left") == "\N{CHECK MARK} boot (70 %)"
    assert wrong.get_title(loc="left") == "\N{BALLOT X} coat (60 %)\n    true: bag"
    blue, red, grey = RIGHT.lower(), WRONG.lower(), GREY.lower()
    assert bars(right_bars) == [(0.1, grey), (0.2, grey), (0.7, blue)]
    assert bars(wrong_bars) == [(0.6, red), (0.3, blue), (0.1, grey)]
    assert [text.get_text() for text in wrong_bars.get_yticklabels()] == NAMES
    assert [text.get_color() for text in wrong_bars.get_yticklabels()] == [WRONG, RIGHT, "black"]
    assert wrong_bars.get_xlim() == (0, 1)
    assert [text.get_text() for text in wrong_bars.get_xticklabels()] == ["0", "50", "100 %"]


def test_three_examples_are_in_a_row():
    probabilities = np.full((7, 3), 1 / 3)
    figure = plots.prediction_bars(np.zeros((7, 4, 4)), probabilities, np.zeros(7, int), NAMES)
    assert len(figure.axes) == 14
    assert figure.axes[0].get_gridspec().get_geometry() == (3, 6)


def test_of_many_classes_the_most_likely_and_the_true_one_are_shown():
    row = np.full(100, 0.1 / 90)
    row[10:20] = 0.09
    names = [f"class {number}" for number in range(100)]
    _, shown = plots.prediction_bars(GREY_IMAGES[:1], row[None], [99], names).axes
    assert [text.get_text() for text in shown.get_yticklabels()] == [*(f"class {n}" for n in range(10, 19)), "class 99"]


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[0.2, 0.8]], [0], r"prediction_bars\(probabilities=\.\.\.\): got float64 of the shape \(1, 2\); expected"),
        ([[2.0, -1.0, 0.5]], [0], r".*row 0 has values from -1 to 2 and sums to 1\.5: these are not probabilities\."),
        ([[2.0, -1.0, 0.0]], [0], r".*row 0 has values from -1 to 2 and sums to 1: these are not probabilities\."),
        ([[np.nan, 0.5, 0.5]], [0], r".*row 0 has values from nan to nan and sums to nan: these are no"),
        ([[0.2, 0.2, 0.6]], [3], r"prediction_bars\(labels=\.\.\.\): got the class 3, but the 3 class_names"),
        ([[0.2, 0.2, 0.6]], [0.5], r"prediction_bars\(labels=\.\.\.\): expected class numbers, got 0\.5\."),
        ([[0.2, 0.2, 0.6]] * 2, [0], r"prediction_bars: got 1 images, 2 probabilities, 1 labels; expected the same"),
    ],
)
def test_values_that_are_not_probabilities_or_labels_are_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        plots.prediction_bars(GREY_IMAGES[:1], probabilities, labels, NAMES)


def test_the_looks_of_images_are_the_recorded_ones(assert_look):
    for count in (2, 3, 6, 7):
        titles = ["a title of thirty characters  x"] * count
        assert_look(f"grid of {count}", plots.image_grid(np.full((count, 2, 3), 0.25), titles, columns=7))
    assert_look("grid of tall images", plots.image_grid([np.zeros((9, 2)), np.ones((4, 2), bool)]))
    assert_look(
        "before and after", plots.before_after({"a title in four lines of sixteen " * 2: GREY_IMAGES, "b": GREY_IMAGES})
    )
    eleven = np.eye(11)[:2] * 0.9 + 0.1 / 11
    names = [f"{number} class with a long name" for number in range(11)]
    assert_look(
        "ten bars",
        plots.prediction_bars(
            GREY_IMAGES[:2], eleven[:, :10] / eleven[:, :10].sum(1, keepdims=True), [0, 2], names[:10]
        ),
    )
    assert_look("bars of eleven", plots.prediction_bars(GREY_IMAGES[:2], eleven, [0, 10], names, columns=1))


@pytest.mark.parametrize("shape", [(2, 2, 1, 1), (2, 2, 5), (2, 2, 2), (0, 2), (2, 0), (2, 0, 3), (2,)])
def test_an_image_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"^image_grid: image 1 has the shape "):
        plots.image_grid([np.zeros((2, 2)), np.zeros(shape)])


@pytest.mark.parametrize("value", [-0.0011, 1.0011, np.inf])
def test_one_value_out_of_the_range_is_refused(value):
    with pytest.raises(ValueError, match=r"^image_grid: image 0 has values "):
        plots.image_grid([np.array([[0.5, value]])])


@pytest.mark.parametrize("row", [[0.511, 0.5, 0.0], [0.5, 0.489, 0.0], [0.502, 0.5, -0.002]])
def test_a_row_that_is_just_no_distribution_is_refused(row):
    with pytest.raises(ValueError, match="these are not probabilities"):
        plots.prediction_bars(GREY_IMAGES[:1], [row], [0], NAMES)
    near = [[0.509, 0.5, 0.0], [0.5, 0.491, 0.0], [0.5005, 0.5, -0.0005]]
    assert plots.prediction_bars(GREY_IMAGES, near, [0, 1, 2], NAMES)


@pytest.mark.parametrize("probabilities", [[0.2, 0.3, 0.5], [["a", "b", "c"]]])
def test_probabilities_are_rows_of_numbers(probabilities):
    with pytest.raises(
        ValueError, match=r"^prediction_bars\(probabilities=\.\.\.\): got .* expected \[n, 3\], one for each of"
    ):
        plots.prediction_bars(GREY_IMAGES[:1], probabilities, [0], NAMES)
