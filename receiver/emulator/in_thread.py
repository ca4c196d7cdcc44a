"""A local Pub/Sub beside its caller, in a thread of its own: for the demo and for tests. `receiver dev` has it in its loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, TypeVar

import uvicorn

from receiver.emulator.broker import Broker
from receiver.emulator.faults import Faults, FaultSettings
from receiver.emulator.pubsub import CERTS_PATH, create_pubsub
from receiver.emulator.pushing import Deliveries

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.applications import Starlette

    from receiver.emulator.backlog import Owed, Subscription
    from receiver.emulator.signer import Signer

T = TypeVar("T")

HOST: Final = "127.0.0.1"
CLOSING: Final = 1
"""Seconds for the last answers of the REST API."""


class Beside:
    """One that runs. `host` is what PUBSUB_EMULATOR_HOST takes."""

    def __init__(self, host: str, loop: asyncio.AbstractEventLoop, broker: Broker) -> None:
        self.host = host
        self.certs_url = f"http://{host}{CERTS_PATH}"
        self._loop = loop
        self._broker = broker

    def call(self, act: Callable[[Broker], T]) -> T:
        """Does something with the broker, in its own thread."""

        async def acting() -> T:
            return act(self._broker)

        return asyncio.run_coroutine_threadsafe(acting(), self._loop).result()


@contextlib.contextmanager
def running(
    signer: Signer | None = None,
    *,
    file: Path | None = None,
    faults: FaultSettings | None = None,
    observe: Callable[[Subscription, Owed, int], None] = lambda *_: None,
    deliveries: Callable[..., Deliveries] = Deliveries,
) -> Iterator[Beside]:
    """A local Pub/Sub on a free port, for the time of the block. `observe` is called in its thread.

    Args:
        deliveries: makes what pushes, of what `Deliveries` takes.
    """
    listener = listening(0)
    host = f"{HOST}:{listener.getsockname()[1]}"
    started: Future[Beside] = Future()
    ending = threading.Event()

    async def live() -> None:
        broker = Broker(file)
        app = create_pubsub(broker, signer)
        faulty = Faults(faults or FaultSettings())
        pushing = deliveries(broker, signer=signer, faults=faulty, observe=observe)
        work = [asyncio.create_task(serve(app, listener)), asyncio.create_task(pushing.run())]
        started.set_result(Beside(host, asyncio.get_running_loop(), broker))
        try:
            await asyncio.to_thread(ending.wait)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            broker.close()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
            if not started.done():
                started.set_exception(error)

    thread = threading.Thread(target=run, name="local Pub/Sub", daemon=True)
    thread.start()
    try:
        yield started.result()
    finally:
        ending.set()
        thread.join()
        listener.close()


def listening(port: int) -> socket.socket:
    """An open socket on loopback; raises what binding raises."""
    # Its protocol is named, because only then asyncio turns Nagle's algorithm off: every answer would wait 40 ms else.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    listener.listen(2048)
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return listener


class _Quiet(uvicorn.Server):
    """uvicorn's server without its hands on the signals: they are the caller's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: Starlette, listener: socket.socket) -> None:
    """Serves an app on an open socket until cancelled."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=CLOSING
    )
    await _Quiet(config).serve(sockets=[listener])
