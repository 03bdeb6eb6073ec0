"""Summaries, converted as TensorBoard converts them."""

from __future__ import annotations

from tensorboard.plugins.text import metadata as text_metadata

from lightkeras.runs.loggers.summaries import images_summary, scalars, text_summary


def test_scalars_keep_their_order():
    assert [(value.tag, value.simple_value) for value in scalars({"b": 1.0, "a": 2.0}).value] == [("b", 1), ("a", 2)]


def test_a_text_is_of_the_text_plugin():
    (value,) = text_summary("notes", "# *größe*").value
    assert value.metadata.plugin_data.plugin_name == text_metadata.PLUGIN_NAME
    assert value.tensor.string_val[0].decode() == "# *größe*"


def test_the_size_of_an_image_is_read_from_its_header():
    png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (3).to_bytes(4) + (2).to_bytes(4)
    (value,) = images_summary({"a": png}).value
    assert (value.image.width, value.image.height) == (3, 2)
