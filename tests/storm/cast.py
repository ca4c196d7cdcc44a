"""Who plays: receivers that are started again whenever they die, each behind a proxy to the database, and who pushes to them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from receiver.emulator.backlog import Unacked
from receiver.emulator.broker import Broker
from receiver.emulator.pushing import Deliveries, envelope
from receiver.emulator.signer import Signer
from receiver.emulator.subscriptions import Subscription
from tests.stage.instance import Instance
from tests.stage.wire import request
from tests.storm import wire
from tests.storm.acks import Acks
from tests.storm.cuts import CuttingProxy
from tests.storm.deck import Death, Deck

PLUGIN: Final = Path(__file__).parent / "plugin"
ROOT: Final = Path(__file__).resolve().parents[2]
LEASE: Final = 2
"""Seconds: short, so that a storm of minutes sees many leases end."""
POOL: Final = 5
"""`TASKS_DB_POOL_SIZE`: its default."""
NOTICE: Final = 0.01
"""Seconds between two starts at least: a receiver that cannot start (no database) should not take all the CPU."""


@dataclass(eq=False)
class Life:
    """One process: its number, the death it was given, how it ended (None while it lives) and when."""

    pid: int
    death: Death | None
    note: Path
    frozen: bool = False
    freezes: int = 0
    answered: bool = False
    silences: int = 0
    code: int | None = None
    ended: float = 0.0
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Place:
    """One place at which a receiver runs; when it dies, another takes the place.

    Args:
        url: the database's.
        deck: whence its deaths come.
        env: its settings.
        clock: further variables, of the warm parent too: what makes its clock run ahead.
        slots: `TASKS_MAX_CONCURRENCY`, its capacity.
    """

    def __init__(
        self,
        url: str,
        deck: Deck,
        chance: random.Random,
        signer: Signer,
        certs_url: str,
        env: dict[str, str],
        *,
        clock: dict[str, str],
        slots: int,
        folder: Path,
        name: str,
    ) -> None:
        self.proxy = CuttingProxy(url)
        self.name = name
        self.lives: list[Life] = []
        self.kills: Counter[str] = Counter()
        self.skew = 0.0
        self.log = folder / f"{name}.log"
        self._deck = deck
        self._chance = chance
        self._signer = signer
        self._certs_url = certs_url
        self._env = env
        self._clock = clock
        self._folder = folder
        self._slots = slots
        self._calm = False
        self._stopping = False
        self._zygote: asyncio.subprocess.Process | None = None

    @property
    def life(self) -> Life | None:
        """The process of now; None before the first, and between two."""
        return self.lives[-1] if self.lives and self.lives[-1].code is None else None

    def calm(self) -> None:
        """From the next life on it is not killed, and not lied to."""
        self._calm = True

    async def live(self) -> None:
        """Starts it and starts it again, until cancelled or stopped."""
        self.proxy.start()
        pipe, held = os.pipe()
        made = Instance(
            database_url=self.proxy.url,
            modules="storm_tasks",
            signer=self._signer,
            certs_url=self._certs_url,
            folder=PLUGIN,
            env={
                "TASKS_SETUP": "storm_points:install",
                "TASKS_LEASE_SECONDS": str(LEASE),
                "TASKS_SHUTDOWN_GRACE": "1",
                "TASKS_MAX_CONCURRENCY": str(self._slots),
                "TASKS_DB_POOL_SIZE": str(POOL),
                "TASKS_DB_POOL_TIMEOUT": "1s",
                **self._clock,
                **self._env,
            },
        )
        self.port = made.port
        self._zygote = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.storm.zygote",
            str(pipe),
            cwd=ROOT,
            env={**os.environ, **self._clock},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(pipe,),
            start_new_session=True,
        )
        os.close(pipe)
        try:
            self.skew = (await self._told())["clock"] - time.time()
            for number in itertools.count():
                await self._one_life(number, made.environ, made.port)
                if self._stopping:
                    return
                await asyncio.sleep(NOTICE)
        finally:
            self.send(signal.SIGKILL)
            assert self._zygote.stdin is not None
            self._zygote.stdin.close()
            await self._zygote.wait()
            os.close(held)
            self.proxy.stop()
            made.close()

    async def stop(self) -> int:
        """SIGTERM, as Cloud Run stops an instance; its exit code. It is not started again."""
        life = self.life
        assert life is not None, f"{self.name} does not live"
        self._stopping = True
        self.send(signal.SIGTERM)
        await life.over.wait()
        assert life.code is not None
        return life.code

    def freeze(self) -> bool:
        """SIGSTOP: nothing of it runs, and nobody is told. False when nobody lives here."""
        life = self.life
        if life is None:
            return False
        life.frozen = True
        life.freezes += 1
        self.send(signal.SIGSTOP)
        return True

    def thaw(self) -> None:
        """SIGCONT."""
        self.send(signal.SIGCONT)
        if self.life is not None:
            self.life.frozen = False

    def kill(self) -> bool:
        """SIGKILL, wherever it is. False when nobody lives here."""
        if self.life is None:
            return False
        self.send(signal.SIGKILL)
        return True

    def send(self, number: signal.Signals) -> None:
        """A signal to whoever lives here."""
        self._ask({"signal": int(number)})

    async def _one_life(self, number: int, environ: dict[str, str], port: int) -> None:
        death = None if self._calm else self._deck.draw()
        note = self._folder / f"{self.name}-{number}.death"
        wild = {"STORM_SEED": str(self._chance.randrange(2**32))}
        if death is not None:
            wild |= {
                "STORM_POINT": death.point,
                "STORM_PASSINGS": str(death.passings),
                "STORM_NOT_BEFORE": str(death.not_before),
                "STORM_NOTE": str(note),
            }
        if self._calm:
            wild["STORM_LIES"] = ""
        self._ask(
            {
                "start": {
                    "environ": environ | wild,
                    "arguments": ["serve", "--host", "127.0.0.1", "--port", str(port)],
                    "folder": str(PLUGIN),
                    "log": str(self.log),
                }
            }
        )
        life = Life((await self._told())["pid"], death, note)
        self.lives.append(life)
        life.code = (await self._told())["ended"]
        life.ended = time.monotonic()
        life.over.set()
        if death is None:
            return
        if note.exists() and life.code == -signal.SIGKILL:
            self._deck.died(death)
            self.kills[death.point] += 1
        else:
            self._deck.put_back(death)

    def _ask(self, request: dict[str, Any]) -> None:
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        with contextlib.suppress(ConnectionError):  # it has ended, and its child with it
            self._zygote.stdin.write(json.dumps(request).encode() + b"\n")

    async def _told(self) -> dict[str, Any]:
        assert self._zygote is not None
        assert self._zygote.stdout is not None
        line = await self._zygote.stdout.readline()
        if not line:
            raise RuntimeError(f"the warm parent of {self.name} has ended")
        told: dict[str, Any] = json.loads(line)
        return told


class Balancer(Deliveries):
    """Pub/Sub's pushes, and the load balancer that they meet: each goes to the next receiver that takes the connection.

    Nothing is repeated here; when a receiver dies, what it had under way has no answer. A plain socket in place of the local
    Pub/Sub's HTTP client, which took more CPU than three receivers.

    Args:
        places: filled when there are any.
        acks: notes what is answered 200.
    """

    def __init__(self, places: Sequence[Place], acks: Acks, broker: Broker, **options: Any) -> None:
        super().__init__(broker, **options)
        self._places = places
        self._acks = acks
        self._turn = 0

    async def _post(self, _: Any, subscription: Subscription, owed: Unacked) -> int:
        status = await self._push(subscription, owed)
        if status == 200:
            self._acks.delivered(owed.message)
        return status

    async def _push(self, subscription: Subscription, owed: Unacked) -> int:
        body = envelope(subscription, owed)
        message = request(body, self._headers(subscription))
        try:
            async with asyncio.timeout(subscription.settings.ack_deadline):
                for _ in self._places:
                    self._turn += 1
                    place = self._places[self._turn % len(self._places)]
                    if place.life is not None:
                        with contextlib.suppress(ConnectionRefusedError):
                            return await wire.exchange(place.port, message)
        except (OSError, TimeoutError):
            pass
        return 0
