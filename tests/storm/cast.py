"""Who plays: receivers that are started again whenever they die, each behind a proxy to the database, and a front door.

The front door is what a load balancer is: it accepts Pub/Sub's connections and passes each to a receiver that listens. It
never repeats anything; when a receiver dies, its connections end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from receiver.local.instance import Instance
from receiver.local.signer import Signer
from tests.proxy import Proxy
from tests.storm.plugin.storm_points import POINTS

PLUGIN: Final = Path(__file__).parent / "plugin"
LEASE: Final = 2
"""Seconds: short, so that a storm of minutes sees many leases end."""


class Receiver:
    """One place at which a receiver runs; when it dies, another takes the place.

    Args:
        url: the database's.
        chance: whence its deaths come.
        env: its settings.
    """

    def __init__(
        self,
        url: str,
        chance: random.Random,
        signer: Signer,
        certs_url: str,
        env: dict[str, str],
    ) -> None:
        self.proxy = Proxy(url)
        self.ended: list[int] = []
        self._chance = chance
        self._signer = signer
        self._certs_url = certs_url
        self._env = env
        self._instance: Instance | None = None
        self._calm = False

    @property
    def instance(self) -> Instance:
        """The process of now."""
        assert self._instance is not None, "it has not been started"
        return self._instance

    def calm(self) -> None:
        """From the next life on it is not killed, and not lied to."""
        self._calm = True

    async def live(self) -> None:
        """Starts it and starts it again, until cancelled."""
        self.proxy.start()
        try:
            while True:
                self._instance = self._made()
                self._instance.launch()
                while self._instance.process.poll() is None:  # noqa: ASYNC110 - a process tells nobody
                    await asyncio.sleep(0.01)
                self.ended.append(self._instance.process.returncode)
                self._instance.close()
        finally:
            if self._instance is not None:
                self._send(signal.SIGCONT)
                await asyncio.to_thread(self._instance.close)
            self.proxy.stop()

    def freeze(self) -> None:
        """SIGSTOP: nothing of it runs, and nobody is told."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, wherever it is."""
        self._send(signal.SIGKILL)

    def _send(self, sig: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.instance.process.send_signal(sig)

    def _made(self) -> Instance:
        wild = {
            "STORM_POINT": POINTS[self._chance.randrange(len(POINTS))],
            "STORM_PASSINGS": str(self._chance.randint(1, 12)),
            "STORM_SEED": str(self._chance.randrange(2**32)),
        }
        return Instance(
            database_url=self.proxy.url,
            modules="storm_tasks",
            signer=self._signer,
            certs_url=self._certs_url,
            folder=PLUGIN,
            env={
                "TASKS_SETUP": "storm_points:install",
                "TASKS_LEASE_SECONDS": str(LEASE),
                "TASKS_SHUTDOWN_GRACE": "1",
                **self._env,
                **({"STORM_POINT": "", "STORM_LIES": "0"} if self._calm else wild),
            },
        )


class FrontDoor:
    """One address for all of them."""

    def __init__(self, receivers: list[Receiver]) -> None:
        self._receivers = receivers
        self._turn = 0
        self._links: set[asyncio.Task[None]] = set()
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Its address, for the time of the block."""
        server = await asyncio.start_server(self._enter, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self.url
        finally:
            server.close()
            for link in list(self._links):
                link.cancel()
            await asyncio.gather(*self._links, return_exceptions=True)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        task.add_done_callback(self._links.discard)
        try:
            inner = await self._receiver()
            if inner is None:
                return
            back, forth = inner
            try:
                await asyncio.gather(_pump(reader, forth), _pump(back, writer))
            finally:
                forth.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _receiver(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the next one that listens; None when none does."""
        for _ in self._receivers:
            self._turn += 1
            one = self._receivers[self._turn % len(self._receivers)]
            with contextlib.suppress(OSError, AssertionError):
                return await asyncio.open_connection("127.0.0.1", one.instance.port)
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes on until the end, which ends the other direction too."""
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    raise ConnectionResetError
