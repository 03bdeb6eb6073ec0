"""What only a run directory names is not used."""

from __future__ import annotations

import pytest

from lightkeras.system import trust
from lightkeras.system.trust import Untrusted, UntrustedRunError, check_trusted, trusting

URL = "https://example.org/words/2"


def test_without_a_run_directory_everything_is_trusted():
    check_trusted(URL, "download")


@pytest.mark.parametrize("name", [URL, "example.org", "words"])
def test_an_address_that_was_made_from_a_name_of_the_run_is_refused(name):
    expected = rf"would download {URL}, which only RUN/config\.json names.*--trust_run"
    with trusting(Untrusted("RUN", (name,))):
        with pytest.raises(UntrustedRunError, match=expected):
            check_trusted(URL, "download")
        check_trusted("https://example.com/other", "download")
    check_trusted(URL, "download")


@pytest.mark.parametrize("name", ["{}/evil", "evil", "{}/../x/evil"])
def test_a_folder_that_a_run_names_is_refused(tmp_path, name):
    folder = tmp_path / "evil"
    folder.mkdir()
    with trusting(Untrusted("RUN", (name.format(tmp_path),))), pytest.raises(UntrustedRunError, match="would run"):
        check_trusted(str(folder), "run")


def test_a_folder_that_no_name_leads_to_is_the_users(tmp_path):
    with trusting(Untrusted("RUN", ("evil",))):
        check_trusted(str(tmp_path / "mine"), "run")


def test_folders_of_the_user_are_trusted_and_a_link_in_them_is_what_it_leads_to(tmp_path):
    for name in ("own/hub", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "own" / "link").symlink_to(tmp_path / "other")
    with trusting(Untrusted("RUN", ("hub", "link"), None, (str(tmp_path / "own"),))):
        check_trusted(str(tmp_path / "own" / "hub"), "run")
        with pytest.raises(UntrustedRunError):
            check_trusted(str(tmp_path / "own" / "link"), "run")


def test_a_data_folder_that_only_the_run_names_is_not_trusted(tmp_path):
    with trusting(Untrusted("RUN", (), str(tmp_path))), pytest.raises(UntrustedRunError):
        check_trusted(str(tmp_path / "hub" / "words"), "run")


def test_what_is_set_in_a_block_ends_with_it():
    with trusting(None):
        trust.distrust(Untrusted("RUN", ("x",)))
        assert trust.current() == Untrusted("RUN", ("x",))
    assert trust.current() is None
