"""Tests of named inputs and outputs."""

from __future__ import annotations

import keras
import pytest

from lightkeras.exports.ports import Port, Ports, ports_of


def tensor(*shape: int | None, dtype: str = "float32", name: str | None = None) -> keras.KerasTensor:
    return keras.KerasTensor(shape, dtype, name=name)


def test_one_tensor_that_keras_numbered_gets_a_name_that_does_not_change() -> None:
    found = ports_of(tensor(None, 28, 28), ["input_layer_7"], "inputs")
    assert found == Ports("one", (Port("inputs", "float32", (None, 28, 28)),))


@pytest.mark.parametrize("name", ["dense", "dense_12", "keras_tensor_3", "sequential_1_of_words"])
def test_a_layer_that_keras_numbered_gets_a_name_that_does_not_change(name: str) -> None:
    assert ports_of(tensor(None, 10), [name], "outputs").names == ("outputs",)


@pytest.mark.parametrize("name", ["digit", "digit_2", "dense_head"])
def test_a_name_of_the_user_is_kept(name: str) -> None:
    assert ports_of(tensor(None, 10), [name], "outputs").names == (name,)


def test_names_of_the_user_are_kept_and_made_fit_for_every_format() -> None:
    found = ports_of([tensor(None, 2), tensor(None)], ["left/side", "keras_tensor_3"], "inputs")
    assert found.names == ("left_side", "inputs_1")
    assert found.kind == "list"


def test_a_dict_has_the_names_of_its_keys_in_order() -> None:
    found = ports_of({"b": tensor(None, dtype="string"), "a": tensor(4, 3)}, (), "inputs")
    assert [(port.name, port.is_text, port.shape) for port in found.each] == [
        ("a", False, (None, 3)),
        ("b", True, (None,)),
    ]


@pytest.mark.parametrize("structure", [1, [1, 2], {"a": 1, "b": 2}], ids=["one", "list", "dict"])
def test_values_are_packed_as_the_model_takes_them(structure: object) -> None:
    tensors = keras.tree.map_structure(lambda value: tensor(None), structure)
    ports = ports_of(tensors, ["left", "right"] if isinstance(structure, list) else ["left"], "inputs")
    assert ports.pack(ports.unpack(structure)) == structure
    assert Ports.of_record(ports.record()) == ports


def test_another_number_of_arrays_is_an_error() -> None:
    ports = ports_of([tensor(None), tensor(None)], ["left", "right"], "inputs")
    with pytest.raises(ValueError, match=r"expected 2 arrays \(left, right\), got 1"):
        ports.unpack([1])
    with pytest.raises(ValueError, match="expected left, right, got left"):
        ports.unpack({"left": 1})
