"""The store of several processes, here of threads of this one; `tests/scenarios/test_ranks.py` has real processes."""

import threading

import pytest
import ranked

from lightkeras.engine.tensorflow import store
from lightkeras.engine.world import WorldError

# A connection is closed with its process.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def both():
    port = ranked.free_port()
    return [store.connect("127.0.0.1", port, keeps) for keeps in (True, False)]


def test_what_a_process_sets_another_one_gets(both):
    first, second = both
    second.set("beat/1", "7")
    first.set("block", b"\0\xff<&")
    assert (first.get("beat/1"), second.get("block")) == (b"7", b"\0\xff<&")
    assert second.multi_get(["block", "beat/1"]) == [b"\0\xff<&", b"7"]
    assert (second.check(["block"]), second.check(["block", "none"])) == (True, False)
    assert (second.address, first.address) == ("127.0.0.1", "127.0.0.1")


def test_a_key_is_set_anew_once(both):
    first, second = both
    assert [each.compare_set("failed", "", each.address) for each in (second, first)] == [True, False]
    first.delete(["failed", "none"])
    assert not second.check(["failed"])
    assert first.compare_set("failed", "", "again")


def test_a_process_waits_until_all_keys_have_values(both):
    first, second = both
    first.set("0", "a")
    assert second.wait(["0", "1"], 0.0) == []
    found = []
    waiting = threading.Thread(target=lambda: found.extend(second.wait(["0", "1"], 60.0)))
    waiting.start()
    first.set("1", "b")
    waiting.join()
    assert found == [b"a", b"b"]
    first.wait_until_answered()


def test_a_store_that_is_lost_or_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(store, "JOIN_SECONDS", 0)
    port = ranked.free_port()
    with pytest.raises(WorldError, match=f"MASTER_PORT={port}: rank 0 did not answer there within 0 s"):
        store.connect("127.0.0.1", port, keeps=False)
    store.connect("127.0.0.1", port, keeps=True)
    with pytest.raises(ValueError, match=f"MASTER_PORT={port}: rank 0 cannot listen there; another program may use"):
        store.connect("127.0.0.1", port, keeps=True)
    values = store.Values()
    server = store._Server("127.0.0.1", 0, values)
    other = store.connect("127.0.0.1", server.server_address[1], keeps=False)
    server.server_close()
    with pytest.raises(RuntimeError, match="The store does not answer: "):
        other.get("key")
