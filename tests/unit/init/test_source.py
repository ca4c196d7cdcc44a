from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from receiver.errors import ConfigurationError
from receiver.init.source import DISTRIBUTION, given, installed

WHEEL = "pubsub_task_receiver-7.1.0-py3-none-any.whl"
TAG = "git+https://example.com/receiver.git@v7.1.0"


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip writes beside a package that it installs from an address (PEP 610); nothing when it comes from an index."""
    place = tmp_path / "pubsub_task_receiver-7.1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: 7.1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.metadata.version(DISTRIBUTION) == "7.1.0"
    return place / "direct_url.json"


def test_an_index_is_asked_for_this_version_or_a_newer_one(noted: Path) -> None:
    assert installed() == given("index")
    assert installed().requirement("[local]") == f"{DISTRIBUTION}[local]>=7.1.0"
    assert installed().note is None


def test_a_repository_is_named_with_its_commit(noted: Path) -> None:
    url = "https://example.com/receiver.git"
    noted.write_text(
        json.dumps({"url": url, "vcs_info": {"vcs": "git", "commit_id": "0a1b", "requested_revision": "v7"}})
    )
    assert installed().requirement() == f"{DISTRIBUTION} @ git+{url}@0a1b"


def test_a_wheel_of_a_server_is_named_by_its_address(noted: Path) -> None:
    url = f"https://example.com/wheels/{WHEEL}"
    noted.write_text(json.dumps({"url": url, "archive_info": {}}))
    assert installed().requirement() == f"{DISTRIBUTION} @ {url}"


def test_a_wheel_on_this_machine_goes_into_the_project(noted: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "a folder" / WHEEL
    wheel.parent.mkdir()
    wheel.touch()
    noted.write_text(json.dumps({"url": wheel.as_uri(), "archive_info": {}}))
    assert installed().wheel == wheel
    assert installed().requirement("[local]") == f"{DISTRIBUTION}[local] @ {{root:uri}}/vendor/{WHEEL}"


@pytest.mark.parametrize(
    "direct", [{"dir_info": {"editable": True}}, {"archive_info": {}}], ids=["a folder", "a lost wheel"]
)
def test_what_others_do_not_have_is_asked_of_an_index_and_said(noted: Path, direct: dict[str, Any]) -> None:
    noted.write_text(json.dumps({"url": "file:///somewhere/receiver"} | direct))
    found = installed()
    assert found.requirement() == f"{DISTRIBUTION}>=7.1.0"
    assert found.note is not None
    assert found.note.startswith("this receiver came from file:///somewhere/receiver; ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "receiver",
        "1.0",
        "http://example.com/x.whl",
        WHEEL,
        "git+https://user:word@example.com/r.git",
        f'{TAG}" ]',
        f"{TAG} x",
    ],
)
def test_another_place_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that is not there, a password that would be committed, what would end the string in pyproject.toml."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="--receiver-from: use index, an address without a password"):
        given(text)
