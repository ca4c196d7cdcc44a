"""What the thread serves, and what is left of it after the block."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from receiver.emulator.in_thread import running, serve_certificates
from receiver.emulator.signer import Signer
from receiver.errors import ConfigurationError


def test_certificates_are_served_on_loopback_for_an_hour_and_nothing_else_is(
    capfd: pytest.CaptureFixture[str],
) -> None:
    signer = Signer.create()
    with serve_certificates(signer) as url, httpx.Client(trust_env=False) as client:
        answer = client.get(url)
        assert url.startswith("http://127.0.0.1:")
        assert answer.json() == signer.keys()
        assert answer.headers["cache-control"] == "public, max-age=3600"
        assert client.get(url + "/more").status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_cannot_be_used_is_raised_where_the_pubsub_is_started(tmp_path: Path) -> None:
    (tmp_path / "messages").write_bytes(b"not what it should be" * 200)
    with pytest.raises(ConfigurationError, match="delete it"), running(file=tmp_path / "messages"):
        pass
