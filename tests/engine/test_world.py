"""How a batch is divided, and what processes compare."""

from __future__ import annotations

import json
import zlib

import keras
import numpy as np
import pytest

from lightkeras.engine.world import ALONE, Part, World, WorldError, checksums, part_of


class Told(World):
    """A process, with the values of the others."""

    def __init__(self, rank, others):
        self.rank, self.processes, self._others = rank, len(others) + 1, others

    def _gathered(self, data):
        what, value = json.loads(data)
        found = list(self._others)
        found.insert(self.rank, value)
        return [[what, value] for value in found]

    def _gather(self, block):
        raise NotImplementedError


class Echo(World):
    """The first of two processes; the other one does the same."""

    processes = 2

    def __init__(self):
        self.sizes = []

    def _gather(self, block):
        self.sizes.append(len(block))
        return [block, block]


def test_values_that_fit_into_a_block_take_one_exchange_and_longer_ones_two():
    world = Echo()
    assert world.agree("steps", {"left": 7}) == [{"left": 7}] * 2
    assert world.sizes == [512]
    text = "ä" * 2000
    assert world.agree("data", text) == [text] * 2
    assert world.sizes[1:] == [512, len(json.dumps(["data", text]))]


def test_processes_at_different_places_are_named():
    class Elsewhere(Echo):
        def _gathered(self, data):
            return [json.loads(data), ["the end", None]]

    with pytest.raises(WorldError, match=r"do different things \(rank 0 at 'steps', rank 1 at 'the end'\)"):
        Elsewhere().agree("steps", 3)


def test_parts_cover_a_batch_and_their_weights_add_up_to_1():
    # 10 examples of 3 processes: 3, 3 and 4 of them.
    assert [part_of(10, rank, 3) for rank in range(3)] == [Part(0, 3, 0.3), Part(3, 6, 0.3), Part(6, 10, 0.4)]
    for examples in (3, 4, 31, 64):
        parts = [part_of(examples, rank, 3) for rank in range(3)]
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
        assert parts[-1].stop == examples
        assert sum(part.weight for part in parts) == pytest.approx(1)


def test_each_process_computes_the_whole_of_a_batch_that_cannot_be_divided():
    assert [part_of(1, rank, 2) for rank in range(2)] == [Part(0, 1, 0.5, whole=True)] * 2
    ragged = {"ids": np.zeros(7), "counts": np.zeros(4)}
    assert Told(1, [None]).part_of_batch(ragged).whole
    assert Told(1, [None]).part_of_batch((np.zeros((5, 2)), np.zeros(5))) == Part(2, 5, 0.6)


def test_differences_are_named_with_their_ranks():
    mine = {"hparams": {"units": 8, "rate": 0.1}, "seed": 0}
    others = [{"hparams": {"units": 8, "rate": 0.1}, "seed": 0}, {"hparams": {"units": 9, "rate": 0.1}, "seed": 0}]
    message = r"differ in their settings\. rank 2: hparams\.units is 9, and 8 on rank 0\. Start all alike\.$"
    with pytest.raises(ValueError, match=message):
        Told(0, others).check_same("settings", mine, "Start all alike.")
    Told(0, others[:1]).check_same("settings", mine, "Start all alike.")
    nan = {"value": float("nan")}
    Told(0, [nan]).check_same("values", {"value": float("nan")}, "")


def test_one_process_exchanges_nothing():
    assert ALONE.agree("steps", 7) == [7]
    assert ALONE.first("steps", 7) == 7
    assert ALONE.any("stop", False) is False
    assert ALONE.is_writer
    assert ALONE.part(5) == Part(0, 5, 1.0)


def test_a_checksum_tells_values_apart():
    def sums(*values):
        return checksums({str(n): keras.Variable(np.array(value, "float32")) for n, value in enumerate(values)})

    assert sums([1.0, 2.0], 3.0) == sums([1.0, 2.0], 3.0)
    before, after = sums([1.0, 2.0], 3.0), sums([1.0, np.nextafter(np.float32(2), np.float32(3))], 3.0)
    assert [key for key in before if before[key] != after[key]] == ["0"]
    assert sums([1.0, 2.0]) != sums([2.0, 1.0])
    assert checksums({"odd": keras.Variable(np.ones(3, "int8"), dtype="int8")})["odd"] == zlib.crc32(bytes([1, 1, 1]))
