"""The two doors of the push endpoint give the same bytes; and what the direct one does with its transport."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from receiver.serving import http, process
from receiver.serving.direct import DirectCycle
from receiver.serving.http import Connection
from receiver.telemetry.events import Delivered
from tests.unit.serving.test_app import App, app, guarded

__all__ = ["app", "guarded"]

CAP = 5_000
TOO_MUCH = b"x" * (CAP + 1_000)
PUSH = b"POST /tasks/pubsub/ HTTP/1.1\r\nhost: localhost\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
CLOSE = b"connection: close\r\n"
CONVERSATIONS = 80


def sized(head: bytes, body: bytes) -> bytes:
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def chunked(chance: random.Random, head: bytes, body: bytes) -> bytes:
    pieces = []
    while body:
        size = chance.choice([1, 7, 1_000, len(body)])
        pieces.append(b"%x\r\n%b\r\n" % (len(body[:size]), body[:size]))
        body = body[size:]
    return head + b"transfer-encoding: chunked\r\n\r\n" + b"".join(pieces) + b"0\r\n\r\n"


REQUESTS: tuple[Callable[[random.Random], bytes], ...] = (
    lambda chance: sized(PUSH, b"x" * chance.choice([0, 1, 400])),
    lambda chance: chunked(chance, PUSH, b"x" * chance.choice([1, 400])),
    lambda chance: chunked(chance, PUSH, TOO_MUCH),
    lambda _: sized(PUSH, TOO_MUCH),
    lambda _: sized(PUSH + b"expect: 100-continue\r\n", b"{}"),
    lambda _: sized(PUSH + b"connection: upgrade\r\nupgrade: h2c\r\n", b"{}"),
    lambda _: sized(PUSH + b"connection: keep-alive\r\nx-goog-pubsub-message-id: 7\r\n", b"{}"),
    lambda _: sized(PUSH.replace(b"/ HTTP", b"/?a=b HTTP"), b"{}"),
    lambda _: sized(PUSH.replace(b"/tasks", b"/%74asks"), b"{}"),
    lambda _: sized(PUSH.replace(b"/tasks", b"http://localhost/tasks"), b"{}"),
    lambda _: sized(PUSH.replace(b"POST", b"PUT"), b"{}"),
    lambda _: sized(HEALTH.replace(b"GET", b"POST"), b"{}"),
    lambda _: PUSH.replace(b"POST", b"GET") + b"\r\n",
    lambda _: HEALTH.replace(b"GET", b"HEAD") + b"\r\n",
    lambda _: HEALTH + b"\r\n",
)
LAST: tuple[bytes, ...] = (
    HEALTH + CLOSE + b"\r\n",
    sized(PUSH + CLOSE, b"{}"),
    sized(PUSH.replace(b"1.1", b"1.0"), b"{}"),
)


def conversation(chance: random.Random) -> list[bytes]:
    """What a client sends, in pieces; the last request ends it."""
    sent = [chance.choice(REQUESTS)(chance) for _ in range(chance.randint(0, 4))] + [chance.choice(LAST)]
    whole = b"".join(sent)
    cuts = sorted(chance.sample(range(1, len(whole)), chance.choice([0, 1, 8])))
    return [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@asynccontextmanager
async def served(app: App) -> AsyncIterator[int]:
    """The port of a server of it, as `receiver serve` sets it up."""
    config, state = prepared(app)
    listener = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config=config, server_state=state, app_state={}),  # type: ignore[call-arg]  # of uvicorn's protocols
        "127.0.0.1",
        0,
    )
    async with listener:
        yield listener.sockets[0].getsockname()[1]


def prepared(app: App) -> tuple[uvicorn.Config, ServerState]:
    config = process.configured(app.asgi)
    config.load()
    return config, uvicorn.Server(config).server_state


def watched(app: App) -> App:
    """The same, whose pushes go through ASGI: a library has replaced what Starlette has."""
    app.asgi._is_replaced = True
    return app


async def heard(port: int, pieces: list[bytes]) -> bytes:
    """Everything that comes back until the server closes."""
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        answer = await reader.read()
        writer.close()
        return answer


async def test_both_doors_give_the_same_bytes() -> None:
    """Pushes and other requests, behind each other, whole and in pieces; each door is asked the same."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails, to repeat it
    chance = random.Random(seed)
    apps = App(max_body_bytes=CAP), watched(App(max_body_bytes=CAP))
    async with served(apps[0]) as direct, served(apps[1]) as asgi:
        for _ in range(CONVERSATIONS):
            pieces = conversation(chance)
            told, expected = await asyncio.gather(heard(direct, pieces), heard(asgi, pieces))
            assert told == expected, pieces
            assert told.startswith(b"HTTP/1.1 "), pieces
    for each in apps:
        await each.http.aclose()
        await each.service.ledger.close()


@pytest.mark.parametrize("is_direct", [True, False])
async def test_a_push_without_a_token_is_refused_before_its_body_comes(
    guarded: App, *, is_direct: bool
) -> None:
    async with served(guarded if is_direct else watched(guarded)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PUSH + b"content-length: 10\r\n\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b"Forbidden."), 30)
        assert answer == (
            b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain; charset=utf-8\r\n"
            b"content-length: 10\r\n\r\nForbidden."
        )
        writer.close()


class Client(asyncio.Transport):
    """The transport of a client who may not read, or go."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Direct:
    """One connection with the direct door, and its client."""

    def __init__(self, app: App) -> None:
        config, self.state = prepared(app)
        self.connection = Connection(config, self.state, {})
        self.client = Client()
        self.connection.connection_made(self.client)

    async def answered(self) -> None:
        """Every request under way has ended."""
        async with asyncio.timeout(30):
            await asyncio.gather(*self.state.tasks)


async def test_a_fault_in_a_callback_is_500_with_its_traceback(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when another uvicorn wants one more argument: nobody may take it for a client's fault."""

    class OneMore(DirectCycle):
        def __init__(self, *, one_more: object, **known: Any) -> None:
            super().__init__(**known)

    monkeypatch.setattr(http, "DirectCycle", OneMore)
    async with served(app) as port:
        answer = await heard(port, [sized(PUSH, b"{}")])
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert answer.endswith(b"connection: close\r\n\r\nInternal error.")
    assert "one_more" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("target", [b"http://localhost", b"http://", b"localhost:80"])
async def test_a_target_without_a_path_is_the_clients_fault(
    app: App, target: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(app) as port:
        answer = await heard(port, [HEALTH.replace(b"/health", target) + b"\r\n"])
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in caplog.text


async def test_an_answer_is_one_write(guarded: App) -> None:
    direct = Direct(guarded)
    direct.connection.data_received(sized(PUSH, b"{}"))
    await direct.answered()
    (answer,) = direct.client.written
    assert answer.endswith(b"\r\n\r\nForbidden.")
    assert direct.state.total_requests == 1
    direct.connection.data_received(sized(PUSH + CLOSE, b"{}"))
    await direct.answered()
    assert len(direct.client.written) == 2
    assert direct.client.closed
    direct.connection.connection_lost(None)


async def test_an_answer_waits_until_its_client_reads(guarded: App) -> None:
    direct = Direct(guarded)
    direct.connection.pause_writing()
    direct.connection.data_received(sized(PUSH, b"{}"))
    (under_way,) = direct.state.tasks
    done, _ = await asyncio.wait({under_way}, timeout=0.05)
    assert (done, direct.client.written) == (set(), [])
    direct.connection.resume_writing()
    await direct.answered()
    assert len(direct.client.written) == 1
    direct.connection.connection_lost(None)


@pytest.mark.parametrize("reads", [True, False])
async def test_a_client_that_goes_is_told_nothing_and_its_push_is_in_the_log(
    app: App, *, reads: bool
) -> None:
    direct = Direct(app)
    if not reads:
        direct.connection.pause_writing()
    direct.connection.data_received(PUSH + b"content-length: 10\r\n\r\nhalf")
    await asyncio.sleep(0)
    direct.connection.connection_lost(ConnectionResetError())
    await direct.answered()
    assert direct.client.written == []
    (event,) = app.events
    assert isinstance(event, Delivered)
    assert event.status == 400


async def test_a_shutdown_that_answers_first_is_the_only_answer(app: App) -> None:
    direct = Direct(app)
    direct.connection.data_received(PUSH + b"content-length: 10\r\n\r\nhalf")
    await asyncio.sleep(0)
    await direct.connection.cycle.send_500_response()
    await direct.answered()
    assert b"".join(direct.client.written).count(b"HTTP/1.1 ") == 1
    assert direct.client.closed
    direct.connection.connection_lost(None)


async def test_a_library_that_wraps_the_app_as_uvicorn_loads_it_sees_pushes(
    guarded: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As New Relic's agent does."""
    seen = []
    load = uvicorn.Config.load

    def watching(config: uvicorn.Config) -> None:
        load(config)
        unwatched = config.loaded_app

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["path"])
            await unwatched(scope, receive, send)

        config.loaded_app = watched

    monkeypatch.setattr(uvicorn.Config, "load", watching)
    async with served(guarded) as port:
        assert b" 403 " in await heard(port, [sized(PUSH + CLOSE, b"{}")])
    assert seen == ["/tasks/pubsub/"]


PATCHED = """
from starlette import applications

class Watched(applications.Starlette):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_middleware(lambda app: app)

applications.Starlette = {replaced}
from receiver.serving.app import create_app
from receiver.serving.instance import Service
from receiver.settings import PushAuth, Settings
from receiver.tasks.registry import Registry

settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/none", push_auth=PushAuth.OFF)
app = create_app(service=Service(settings, Registry([]), emit=print))
raise SystemExit(app.short_way is not None)
"""


@pytest.mark.parametrize(("replaced", "is_direct"), [("applications.Starlette", 1), ("Watched", 0)])
def test_a_library_that_puts_its_own_class_in_starlettes_place_sees_pushes(
    replaced: str, is_direct: int
) -> None:
    """As `opentelemetry-instrument` does, before anything of ours is imported."""
    done = subprocess.run([sys.executable, "-c", PATCHED.format(replaced=replaced)], check=False)
    assert done.returncode == is_direct
