"""Threads of worker processes, and the last lines of their output."""

from lightkeras.search.workers.protocol import THREADS, environment_of_threads, last_lines


def test_variables_that_are_set_already_stay():
    found = environment_of_threads(3, {"OMP_NUM_THREADS": "1", "HOME": "/"})
    assert found == {name: "3" for name in THREADS if name != "OMP_NUM_THREADS"}
    assert "NPROC" in found


def test_the_last_three_lines_are_one_and_no_longer_than_allowed(tmp_path):
    file = tmp_path / "output.txt"
    assert last_lines(file) == ""
    file.write_bytes(b"one\ntwo\nthree\nfour \xff\n\n")
    assert last_lines(file) == "two / three / four \N{REPLACEMENT CHARACTER}"
    assert last_lines(file, most=5) == "our \N{REPLACEMENT CHARACTER}"
    file.write_text("x" * 400)
    assert last_lines(file) == "x" * 300
