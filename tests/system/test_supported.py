"""Which versions are refused when Keras is imported."""

import importlib.metadata
import re
import subprocess
import sys
import types

import pytest

from lightkeras.system import supported

pytestmark = pytest.mark.any_backend


def module(version):
    found = types.ModuleType("found")
    found.__version__ = version
    return found


@pytest.mark.parametrize(
    ("name", "version", "bound"),
    [
        ("keras", "3.9.2", "3.10"),
        ("jax", "0.9.9", "0.10"),
        ("torch", "2.5.1+cu124", "2.6"),
        ("tensorflow", "2.19.0", "2.20"),
    ],
)
def test_a_version_that_is_too_old_is_named_with_what_to_install(name, version, bound):
    with pytest.raises(ImportError) as error:
        supported.check_versions({name: module(version)})
    assert str(error.value) == (
        f"{name} {version} is installed, and lightkeras needs {name} {bound} or newer: "
        f"`pip install --upgrade '{name}>={bound}'`."
    )


def test_newer_versions_and_packages_that_are_not_imported_pass():
    versions = {"keras": "3.16.0.dev2026102704", "jax": "0.12", "torch": "2.15.0a0", "tensorflow": "10.0"}
    supported.check_versions({name: module(version) for name, version in versions.items()})
    supported.check_versions({"keras": types.ModuleType("keras")})


def test_the_bounds_are_those_of_the_package():
    required = importlib.metadata.requires("lightkeras")
    for name, oldest in supported.OLDEST.items():
        bounds = {found for text in required for found in re.findall(rf"^{name}\b[^-;]*>=([\d.]+)", text)}
        assert bounds == {".".join(map(str, oldest))}, name


def test_two_keras_are_warned_of(monkeypatch):
    versions = {"keras": "3.15.1", "keras-nightly": "3.16.0"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions[name])
    with pytest.warns(
        UserWarning, match=r"keras 3.15.1 and keras-nightly 3.16.0 are both installed.*pip uninstall keras"
    ):
        supported.warn_of_two_keras()

    def only_keras(name):
        if name != "keras":
            raise importlib.metadata.PackageNotFoundError(name)
        return "3.15.1"

    monkeypatch.setattr(importlib.metadata, "version", only_keras)
    supported.warn_of_two_keras()


def test_keras_is_checked_when_it_is_imported():
    code = "import lightkeras.system.supported as s; s.OLDEST['keras'] = (9, 0)\nimport keras"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: keras 3." in done.stderr
    assert "lightkeras needs keras 9.0 or newer" in done.stderr


def test_two_keras_are_warned_of_when_keras_is_imported(tmp_path):
    """Both are found by their metadata: the files of the second are those of the first."""
    for package in ("keras", "keras-nightly"):
        folder = tmp_path / f"{package.replace('-', '_')}-3.16.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 3.16.0\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport lightkeras\nimport keras"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "UserWarning: keras 3.16.0 and keras-nightly 3.16.0 are both installed, and write the same" in done.stderr
    assert "Type `pip uninstall keras keras-nightly`, and install one of them." in done.stderr
