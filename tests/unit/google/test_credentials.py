"""Who this process is to Google: found off the loop, refreshed ahead, one at a time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.auth import exceptions

from receiver.errors import GoogleUnavailable, NoCredentials
from receiver.google import credentials as room
from receiver.google.credentials import Credentials, MetadataCredentials, Request, found
from tests.unit.google.google import Account, credentials

ASKED = ("GOOGLE_APPLICATION_CREDENTIALS", "K_SERVICE", "CLOUD_RUN_JOB", "GCE_METADATA_HOST", "NO_GCE_CHECK")


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account of the machine that the tests run on."""
    for name in ASKED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))


def in_utc(seconds: float) -> datetime:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).replace(tzinfo=None)


class Metadata:
    """The metadata server: asks for its header, and answers what it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.body = b'{"access_token": "secret", "expires_in": 3599, "token_type": "Bearer"}'


@contextmanager
def serving(metadata: Metadata) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            metadata.asked.append(self.path)
            known = self.headers["metadata-flavor"] == "Google"
            self.send_response(metadata.status if known else 403)
            self.send_header("metadata-flavor", "Google")
            self.end_headers()
            self.wfile.write(metadata.body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_token_is_asked_for_once_while_it_is_good() -> None:
    account = Account(in_utc(3600))
    ours = credentials(account)
    assert (
        await asyncio.gather(*(ours.headers() for _ in range(10)))
        == [{"authorization": "Bearer token-1"}] * 10
    )
    assert await ours.headers() == {"authorization": "Bearer token-1"}
    assert account.refreshed == 1


async def test_a_token_near_its_end_is_used_and_replaced_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account(in_utc(100))
    ours = credentials(account)
    await ours.headers()
    assert (await ours.headers())["authorization"] == "Bearer token-1"
    assert account.refreshed == 1  # it has just been refreshed: not again within ten seconds
    monkeypatch.setattr(room, "REFRESH_INTERVAL", 0.0)
    account.expiry = in_utc(3600)
    assert (await ours.headers())["authorization"] == "Bearer token-1"
    refresh = ours._refresh
    assert refresh is not None
    await refresh
    assert (await ours.headers())["authorization"] == "Bearer token-2"
    assert account.refreshed == 2


async def test_a_refresh_behind_that_fails_costs_nothing_while_the_token_is_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "REFRESH_INTERVAL", 0.0)
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
    account = Account(in_utc(room.MARGIN / 2))
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


def test_on_cloud_run_the_metadata_server_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K_SERVICE", "shop")
    metadata = Metadata()
    with serving(metadata) as host:
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        account = found()
        account.refresh(Request())
    assert isinstance(account, MetadataCredentials)
    assert account.token == "secret"
    assert account.expiry is not None
    assert timedelta(minutes=59) < account.expiry - in_utc(0) <= timedelta(hours=1)
    (asked,) = metadata.asked
    assert asked == f"/computeMetadata/v1/instance/service-accounts/default/token?scopes={room.SCOPE}"


def test_on_a_machine_of_googles_it_is_looked_for_last(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    with serving(Metadata()) as host:
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        assert isinstance(found(), MetadataCredentials)
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        with pytest.raises(exceptions.DefaultCredentialsError):
            found()


@pytest.mark.parametrize(("status", "retryable"), [(403, False), (404, False), (500, True), (503, True)])
def test_a_metadata_server_that_refuses_is_told_apart(
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    retryable: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    metadata = Metadata()
    metadata.status = status
    with serving(metadata) as host:
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        with pytest.raises(exceptions.RefreshError, match=f"answers {status}") as caught:
            MetadataCredentials().refresh(Request())
    assert caught.value.retryable is retryable


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"access_token": "x"}', b'{"access_token": "x", "expires_in": "y"}']
)
def test_an_answer_without_a_token_is_no_token(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    metadata = Metadata()
    metadata.body = body
    with serving(metadata) as host:
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        with pytest.raises(exceptions.RefreshError, match="no token"):
            MetadataCredentials().refresh(Request())


def test_nobody_there_is_an_error_of_the_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(exceptions.TransportError, match=r"ConnectError at 127\.0\.0\.1"):
        Request()("http://127.0.0.1:9/")


def test_a_key_file_wins_over_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    user = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    key.write_text(json.dumps(user))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.setenv("K_SERVICE", "shop")
    assert type(found()).__module__ == "google.oauth2.credentials"
    key.write_text("{}")
    with pytest.raises(exceptions.DefaultCredentialsError):
        found()
