import pytest


@pytest.fixture
def program(tmp_path):
    """Writes a program, and returns its path."""

    def write(text):
        path = tmp_path / "program.py"
        path.write_text(text)
        return str(path)

    return write
