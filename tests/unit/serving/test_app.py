"""HTTP around the path, as far as it needs no database: there is none at the address given here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver import TaskRoute
from receiver.contract.trace import traceparent
from receiver.delivery.replies import reply
from receiver.endings.outcomes import Broken, Denied, Disconnected, Ending, Full, Oversized, Unrecorded
from receiver.errors import SettingError
from receiver.serving.app import create_app
from receiver.serving.instance import Service
from receiver.serving.readiness import CHECK_TIMEOUT
from receiver.settings import PUSH_PATH, PushAuth, Settings
from receiver.tasks.registry import Registry
from receiver.telemetry.events import Delivered, Event, ReceiverTrouble, ServiceState

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


async def ship() -> None: ...
async def sail() -> None: ...


class App:
    """The application and what it said."""

    def __init__(self, **settings: Any) -> None:
        self.events: list[Event] = []
        values: dict[str, Any] = {"database_url": NOWHERE, "push_auth": PushAuth.OFF, **settings}
        self.service = Service(Settings(**values), Registry([TaskRoute(ship)]), emit=self.events.append)
        self.asgi = create_app(service=self.service)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.asgi), base_url="http://receiver")

    @property
    def deliveries(self) -> list[Delivered]:
        return [event for event in self.events if isinstance(event, Delivered)]

    async def push(self, *messages: dict[str, Any], headers: dict[str, str] | None = None) -> tuple[int, str]:
        """A push made by hand: what is received is exactly `messages`, and nothing may be asked beyond them."""
        waiting = iter(messages)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return next(waiting)

        async def send(message: Any) -> None:
            sent.append(dict(message))

        raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": PUSH_PATH,
            "raw_path": PUSH_PATH.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": raw,
        }
        await self.asgi(scope, receive, send)
        start, body = sent
        assert dict(start["headers"])[b"content-length"] == b"%d" % len(body["body"])
        assert list(waiting) == [], "not everything that arrived was read"
        return start["status"], body["body"].decode()


def chunk(size: int, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


@pytest.fixture
async def app() -> AsyncIterator[App]:
    built = App()
    yield built
    await built.http.aclose()
    await built.service.ledger.close()


@pytest.fixture
async def guarded() -> AsyncIterator[App]:
    """With tokens asked for."""
    built = App(
        push_auth=PushAuth.OIDC,
        project_id="shop-prod",
        service_url="https://receiver.example",
        service_account="push@shop-prod.iam.gserviceaccount.com",
        certs_url="http://127.0.0.1:1/certs",
    )
    yield built
    await built.http.aclose()
    await built.service.ledger.close()
    assert built.service.certificates is not None
    await built.service.certificates.close()


def answer(ending: Ending) -> tuple[int, str]:
    expected = reply(ending)
    return expected.status, expected.body


# --- paths and methods ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/tasks/pubsub",
        "/tasks/pubsub//",
        "//tasks/pubsub/",
        "/tasks/",
        "/tasks/pubsub/x",
        "/Tasks/Pubsub/",
        "/health/",
        "/ready/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_another_path_is_404_and_never_a_redirect(app: App, method: str, path: str) -> None:
    found = await app.http.request(method, httpx.URL("http://receiver", raw_path=path.encode()))
    assert found.status_code == 404
    assert "location" not in found.headers
    assert app.events == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"])
async def test_another_method_is_405_and_reads_nothing(app: App, method: str) -> None:
    found = await app.http.request(method, PUSH_PATH)
    assert found.status_code == 405
    assert found.headers["allow"] == "POST"
    assert app.events == []


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_nothing_can_be_posted_to_the_checks(app: App, path: str) -> None:
    assert (await app.http.post(path)).status_code == 405


# --- health and readiness ---------------------------------------------------------------------------------------


async def test_health_asks_no_database(app: App) -> None:
    found = await app.http.get("/health")
    assert (found.status_code, found.text) == (200, "ok")
    assert app.events == []


async def test_ready_says_what_is_missing(app: App) -> None:
    found = await app.http.get("/ready")
    assert found.status_code == 503
    assert found.headers["content-type"] == "application/json"
    assert found.json() == {"database": "unavailable", "schema": "unknown", "certificates": "ok"}


async def test_ready_misses_the_certificates(guarded: App) -> None:
    assert (await guarded.http.get("/ready")).json()["certificates"] == "unavailable"
    assert [event.what for event in guarded.events if isinstance(event, ReceiverTrouble)] == [
        "certificates not fetched"
    ]


async def test_a_silent_database_holds_the_start_no_longer_than_its_patience() -> None:
    """It takes connections and never answers; the schema is looked at once, and later again."""
    asked = asyncio.Event()
    never = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await never.wait()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        app = App(database_url=f"postgresql://nobody@127.0.0.1:{port}/none")
        async with asyncio.timeout(CHECK_TIMEOUT + 2):  # a connection alone may take 5 s
            await app.service.readiness.check_schema()
            await app.service.readiness.check_schema()
        assert asked.is_set()
        (event,) = app.events
        assert event == ReceiverTrouble("the database cannot be used yet", "it has not answered for 2 s")
        await app.service.stop()
        never.set()


# --- a push that ends before the database -----------------------------------------------------------------------


async def test_a_push_without_a_token_is_403_and_its_body_is_never_read(guarded: App) -> None:
    assert await guarded.push(headers={"content-length": "999"}) == answer(Denied(""))
    (event,) = guarded.deliveries
    assert isinstance(event.ending, Denied)
    assert (event.status, event.task_name, event.task_id) == (403, None, None)


async def test_a_body_announced_over_the_cap_is_never_read(app: App) -> None:
    cap = app.service.settings.max_body_bytes
    assert await app.push(headers={"content-length": str(cap + 1)}) == answer(Oversized())


async def test_a_body_that_streams_over_the_cap_is_read_no_further() -> None:
    app = App(max_body_bytes=100)
    assert await app.push(chunk(60, more=True), chunk(60, more=True)) == answer(Oversized())
    assert app.service.admission.bytes_in_flight == 0
    assert app.service.admission.in_flight == 0


async def test_more_bytes_than_there_is_room_for_are_429() -> None:
    app = App(max_inflight_bytes=100)
    assert await app.push(headers={"content-length": "101"}) == answer(Full("bytes"))


async def test_a_client_that_goes_before_its_body_has_arrived_reaches_nothing(app: App) -> None:
    assert await app.push(chunk(5, more=True), {"type": "http.disconnect"}) == answer(Disconnected())
    (event,) = app.events
    assert isinstance(event, Delivered)


async def test_once_it_drains_a_push_is_429_and_its_body_is_never_read(app: App) -> None:
    await app.service.drain()
    assert await app.push() == answer(Full("concurrency"))


async def test_draining_twice_waits_once(app: App) -> None:
    await app.service.drain()
    await app.service.drain()
    assert app.service.admission.closed


async def test_a_malformed_push_is_500_while_it_cannot_be_kept(app: App) -> None:
    assert await app.push(chunk(5, more=False)) == answer(Unrecorded())
    trouble, event = app.events
    assert isinstance(trouble, ReceiverTrouble)
    assert trouble.what == "database unavailable"
    assert isinstance(event, Delivered)


async def test_a_defect_of_ours_is_500_and_one_traceback(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise LookupError("a defect")

    monkeypatch.setattr(app.service.admission, "place", broken)
    assert await app.push() == answer(Broken())
    trouble, event = app.events
    assert isinstance(trouble, ReceiverTrouble)
    assert isinstance(trouble.error, LookupError)
    assert isinstance(event, Delivered)
    assert event.status == 500


async def test_an_event_says_how_long_the_answer_took_and_carries_the_trace(app: App) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await app.push({"type": "http.disconnect"}, headers={"traceparent": trace})
    (event,) = app.deliveries
    assert 0 <= event.seconds < 60
    assert event.trace == trace


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01", f"00-{'ab' * 16}-{'cd' * 8}-01"),
        ("traceparent", "00-aa-bb-01", None),
        ("x-cloud-trace-context", f"{'AB' * 16}/255;o=1", f"00-{'ab' * 16}-00000000000000ff-01"),
        ("x-cloud-trace-context", f"{'ab' * 16}/255;o=0", f"00-{'ab' * 16}-00000000000000ff-00"),
        ("x-cloud-trace-context", f"{'ab' * 16}/255", f"00-{'ab' * 16}-00000000000000ff-00"),
        ("x-cloud-trace-context", f"{'ab' * 16}", None),
        ("x-cloud-trace-context", f"{'ab' * 16}/-1;o=1", None),
        ("x-cloud-trace-context", "../../etc/passwd", None),
        ("x-request-id", "7", None),
    ],
)
def test_the_trace_of_a_request_is_read_in_both_spellings(
    name: str, value: str, expected: str | None
) -> None:
    assert traceparent([(b"accept", b"*/*"), (name.encode(), value.encode())]) == expected


# --- how it is built --------------------------------------------------------------------------------------------


def test_without_an_account_there_is_no_app() -> None:
    with pytest.raises(SettingError, match=r"^GCP_PROJECT_ID is not set; "):
        Service(Settings(database_url=NOWHERE), Registry([TaskRoute(ship)]), emit=lambda _: None)
    with pytest.raises(SettingError, match=r"^DATABASE_URL is not set; "):
        Service(Settings(push_auth=PushAuth.OFF), Registry([TaskRoute(ship)]), emit=lambda _: None)


async def test_a_start_says_how_many_tasks_it_serves(app: App) -> None:
    await app.service.start()
    await app.service.drain()
    await app.service.stop()
    assert ServiceState("receiving pushes for 1 task") in app.events


async def test_a_start_says_which_kill_switch_is_not_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_SHIP", "maybe")
    events: list[Event] = []
    settings = Settings(database_url=NOWHERE, push_auth=PushAuth.OFF)
    routes = [TaskRoute(ship, kill_switch="ENABLE_SHIP"), TaskRoute(sail, kill_switch="ENABLE_SHIP")]
    service = Service(settings, Registry(routes), emit=events.append)
    await service.start()
    await service.drain()
    await service.stop()
    said = [event.why for event in events if isinstance(event, ReceiverTrouble)]
    assert said == ["ENABLE_SHIP is 'maybe', which counts as on; use on or off"]


async def test_middleware_that_somebody_adds_sees_pushes_too(app: App) -> None:
    """Pushes go past Starlette's own two, but never past one that was asked for."""
    seen: list[str] = []

    class Watching:
        def __init__(self, inner: ASGIApp) -> None:
            self._inner = inner

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["path"])
            await self._inner(scope, receive, send)

    app.asgi.add_middleware(Watching)
    assert (await app.push(chunk(2, more=False)))[0] in {400, 500}
    assert seen == [PUSH_PATH]
