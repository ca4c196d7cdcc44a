"""Who this process is to Google: found off the loop, refreshed ahead, one at a time."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.auth import exceptions
from google.auth.compute_engine import _metadata
from google.auth.credentials import TokenState

from receiver.errors import GoogleUnavailable, NoCredentials
from receiver.google.credentials import AccessToken, Credentials
from tests.stage.http_proxy import proxied
from tests.stage.metadata import ACCOUNT, Metadata, metadata
from tests.unit.google.google import Account, credentials


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account of the machine that the tests run on."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))


def in_utc(seconds: float) -> datetime:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).replace(tzinfo=None)


async def test_a_token_is_asked_for_once_while_it_is_good() -> None:
    account = Account(in_utc(3600))
    ours = credentials(account)
    assert (
        await asyncio.gather(*(ours.headers() for _ in range(10)))
        == [{"authorization": "Bearer token-1"}] * 10
    )
    assert await ours.headers() == {"authorization": "Bearer token-1"}
    assert account.refreshed == 1


async def test_a_token_near_its_end_is_used_and_replaced_behind() -> None:
    account = Account(in_utc(100))
    ours = credentials(account)
    await ours.headers()
    assert (await ours.headers())["authorization"] == "Bearer token-1"
    account.expiry = in_utc(3600)
    refresh = ours._refresh
    assert refresh is not None
    await refresh
    assert (await ours.headers())["authorization"] == "Bearer token-2"
    assert account.refreshed == 2


async def test_a_refresh_behind_that_fails_costs_nothing_while_the_token_is_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = Account(in_utc(100))
    ours = credentials(account)
    await ours.headers()
    monkeypatch.setattr(account, "refresh", failing(exceptions.TransportError("gone")))
    await ours.headers()
    assert ours._refresh is not None
    await asyncio.wait({ours._refresh})
    assert (await ours.headers())["authorization"] == "Bearer token-1"
    await ours.close()


async def test_an_ended_token_is_waited_for() -> None:
    account = Account(in_utc(0))
    ours = credentials(account)
    await ours.headers()
    assert (await ours.headers())["authorization"] == "Bearer token-2"


async def test_whoever_stops_waiting_ends_no_refresh() -> None:
    go = threading.Event()
    account = Account(in_utc(3600))

    def find() -> Account:
        go.wait(30)
        return account

    ours = Credentials(find)
    first, second = asyncio.create_task(ours.headers()), asyncio.create_task(ours.headers())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    go.set()
    assert (await second)["authorization"] == "Bearer token-1"


def failing(error: Exception) -> Any:
    def fail(*_: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            exceptions.DefaultCredentialsError("long text"),
            NoCredentials,
            "gcloud auth application-default login",
        ),
        (exceptions.RefreshError("invalid_grant:\n bad", {}), NoCredentials, r"\(invalid_grant: bad\)"),
        (exceptions.RefreshError("503", retryable=True), GoogleUnavailable, "no access token"),
        (exceptions.TransportError("ConnectError at host"), GoogleUnavailable, "ConnectError at host"),
    ],
)
async def test_no_token_is_one_line_that_says_what_to_do(
    error: Exception, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        await Credentials(failing(error)).headers()
    assert "\n" not in str(caught.value)


def answer_as_metadata(monkeypatch: pytest.MonkeyPatch, server: Metadata) -> None:
    """google-auth takes this server for the metadata server of the machine; it reads one of the two names at import."""
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", server.place)
    monkeypatch.setenv("GCE_METADATA_IP", server.place)


async def test_on_a_machine_of_googles_the_token_is_its_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    with metadata() as server:
        answer_as_metadata(monkeypatch, server)
        ours = Credentials()
        assert await ours.headers() == {"authorization": "Bearer secret"}
        assert ours._found is not None
        assert ours._found.token_state is TokenState.FRESH
    assert server.scopes == ["https://www.googleapis.com/auth/cloud-platform"]


async def test_no_proxy_sees_how_a_token_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with metadata() as server, proxied(monkeypatch) as seen:
        answer_as_metadata(monkeypatch, server)
        assert await Credentials().headers() == {"authorization": "Bearer secret"}
        assert await asyncio.to_thread(AccessToken("a-scope").fetch) == ("secret", ACCOUNT)
        assert seen == []


async def test_a_token_for_another_server_has_one_scope_and_is_kept_until_it_nears_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with metadata() as server:
        answer_as_metadata(monkeypatch, server)
        token = AccessToken("a-scope")
        assert await asyncio.to_thread(token.fetch) == ("secret", ACCOUNT)
        server.tokens, server.lifetime = ["second"], 100
        assert await asyncio.to_thread(token.fetch) == ("secret", ACCOUNT)
        token.forget()
        assert await asyncio.to_thread(token.fetch) == ("second", ACCOUNT)
        server.tokens = ["third"]
        assert await asyncio.to_thread(token.fetch) == ("third", ACCOUNT)
        assert server.scopes == ["a-scope"] * 3
        server.has_account = False  # as in an outage
        assert await asyncio.to_thread(token.fetch) == ("third", ACCOUNT)


async def test_an_instance_without_an_account_has_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with metadata() as server:
        server.has_account = False
        answer_as_metadata(monkeypatch, server)
        with pytest.raises(GoogleUnavailable, match=r"service-accounts/default.* Status: 404") as caught:
            await Credentials().headers()
    assert "\n" not in str(caught.value)


async def test_a_silent_token_server_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receiver.google.credentials.TOKEN_TIMEOUT", 0.01)
    go = threading.Event()

    def find() -> Account:
        go.wait(30)
        return Account()

    ours = Credentials(find)
    with pytest.raises(GoogleUnavailable, match=r"no access token within 0\.01 s"):
        await ours.headers()
    go.set()
    assert (await ours.headers())["authorization"] == "Bearer token-1"


async def test_a_key_file_wins_over_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    key.write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    with metadata() as server:
        answer_as_metadata(monkeypatch, server)
        with pytest.raises(NoCredentials, match="GOOGLE_APPLICATION_CREDENTIALS"):
            await Credentials().headers()
