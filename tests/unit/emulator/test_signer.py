from __future__ import annotations

import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest
from google.auth import jwt

from receiver.emulator.signer import Signer
from receiver.errors import ConfigurationError
from tests.stage.tokens import public_pem

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer.create()


def verified(signer: Signer, token: str) -> Any:
    return jwt.decode(token, certs={signer.kid: public_pem(signer)})  # type: ignore[no-untyped-call]  # unannotated library


def test_google_auth_verifies_a_token_with_the_public_key(signer: Signer) -> None:
    claims = verified(signer, signer.token("https://service", "push@p"))
    assert claims["exp"] - claims["iat"] == 3600
    assert (claims["aud"], claims["email"], claims["email_verified"]) == ("https://service", "push@p", True)
    assert claims["iss"] == "https://accounts.google.com"


def test_a_signer_kept_in_a_file_is_the_same_next_time_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "signer.pem"
    first = Signer.load_or_create(path)
    assert Signer.load_or_create(path).kid == first.kid
    assert verified(first, Signer.load_or_create(path).token("a", "e"))["aud"] == "a"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_signers_made_at_the_same_time_agree(tmp_path: Path) -> None:
    path, kids = tmp_path / "signer.pem", list[str]()
    threads = [
        threading.Thread(target=lambda: kids.append(Signer.load_or_create(path).kid)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kids) == 6
    assert len(set(kids)) == 1


def test_a_damaged_file_is_a_configuration_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "signer.pem"
    path.write_text("nothing")
    with pytest.raises(ConfigurationError, match="damaged; delete it"):
        Signer.load_or_create(path)


def test_a_file_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="choose another folder"):
        Signer.load_or_create(tmp_path / "file" / "signer.pem")
