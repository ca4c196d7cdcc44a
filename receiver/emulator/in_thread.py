"""The local Pub/Sub in its own thread, for the demo and for tests, and a server of a signer's public key.

`receiver dev` runs the same parts in its own event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from typing import TYPE_CHECKING, Final, TypeVar

import uvicorn
from starlette.applications import Starlette

from receiver.emulator.api import OIDC_CERTS_PATH, certificates_route, create_api
from receiver.emulator.broker import Broker
from receiver.emulator.faults import Faults, FaultSettings
from receiver.emulator.pushing import Deliveries
from receiver.emulator.signer import CERTS_PATH
from receiver.enqueue.loop_thread import LoopThread
from receiver.hosts import LOOPBACK
from receiver.serving.http import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path
    from typing import Any

    from receiver.emulator.backlog import Unacked
    from receiver.emulator.signer import Signer
    from receiver.emulator.subscriptions import Subscription

T = TypeVar("T")

LAST_ANSWERS: Final = 1
"""Seconds for requests under way when the server ends."""


class LocalPubSub:
    """A running one. `host` is the value for PUBSUB_EMULATOR_HOST."""

    def __init__(self, address: str, secret: str, loop: LoopThread, broker: Broker) -> None:
        self.host = f"{address}/{secret}"
        self.certs_url = f"http://{address}{OIDC_CERTS_PATH}"
        self._loop = loop
        self._broker = broker

    def call(self, act: Callable[[Broker], T]) -> T:
        """Calls a function with the broker, in the thread of the Pub/Sub; returns its result."""

        async def acting() -> T:
            return act(self._broker)

        return self._loop.wait(self._loop.start(acting()))


@contextlib.contextmanager
def running(
    signer: Signer | None = None,
    *,
    file: Path | None = None,
    faults: FaultSettings | None = None,
    observe: Callable[[Subscription, Unacked, int], None] = lambda *_: None,
    deliveries: Callable[..., Deliveries] = Deliveries,
) -> Iterator[LocalPubSub]:
    """A local Pub/Sub on a free port, for the time of the block.

    Args:
        signer: signs the tokens of its pushes; None sends none.
        file: where its state is kept; None keeps it in memory.
        observe: called in its thread after each delivery, as by `Deliveries`.
        deliveries: makes the pushing half, from the arguments of `Deliveries`.
    """
    faulty = Faults(faults or FaultSettings())
    secret = secrets.token_hex(16)
    with (
        contextlib.closing(Broker(file)) as broker,
        listening(0) as listener,
        _background(
            serve(create_api(broker, secret, signer), listener),
            deliveries(broker, signer=signer, faults=faulty, observe=observe).run(),
        ) as loop,
    ):
        yield LocalPubSub(f"{LOOPBACK}:{listener.getsockname()[1]}", secret, loop, broker)


@contextlib.contextmanager
def serve_certificates(signer: Signer, host: str = LOOPBACK, port: int = 0) -> Iterator[str]:
    """Serves the signer's public key at `/certs`, for the time of the block; yields the URL.

    Port 0 is a free one. Raises OSError when the address cannot be bound.
    """
    app = Starlette(routes=[certificates_route(CERTS_PATH, signer)])
    with listening(port, host) as listener, _background(serve(app, listener)):
        yield f"http://{host}:{listener.getsockname()[1]}{CERTS_PATH}"


@contextlib.contextmanager
def _background(*work: Coroutine[Any, Any, None]) -> Iterator[LoopThread]:
    """Does the work in an event loop in a thread; cancels it at the end of the block."""
    ending = asyncio.Event()

    async def live() -> None:
        tasks = [asyncio.create_task(each) for each in work]
        await ending.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def end() -> None:
        ending.set()

    loop = LoopThread()
    loop.start(live())
    try:
        yield loop
    finally:
        loop.start(end())
        loop.close()


def listening(port: int, host: str = LOOPBACK) -> socket.socket:
    """An open socket on this machine; raises what binding raises."""
    # asyncio turns Nagle's algorithm off only when the protocol is named; else each answer waits 40 ms.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.listen(2048)
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return listener


class _Quiet(uvicorn.Server):
    """uvicorn's server without its signal handlers: signals are the caller's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: Starlette, listener: socket.socket) -> None:
    """Serves an app on an open socket until cancelled. Every account of the machine reaches it: a connection has bounds."""
    config = uvicorn.Config(
        app,
        http=Connection,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=LAST_ANSWERS,
    )
    await _Quiet(config).serve(sockets=[listener])
