"""The harm from outside, by a seeded clock: processes killed and frozen, the database restarted, its connections cut or used up.

What is counted has happened: a cut that met nobody is tried again, and one that never met anybody is not counted.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import asyncpg

from tests.stage.servers import LocalServer
from tests.storm.cast import LEASE, Place

TRIES = 20
"""Of an event that met nobody."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """How much of each, over how many seconds (kills at the named points are the receivers' own).

    Attributes:
        strikes: SIGKILLs from outside, at any moment.
        frosts: SIGSTOPs longer than a lease.
        restarts: immediate restarts of PostgreSQL.
        cuts: of every connection of a receiver to the database.
        halves: connections cut in the middle of a statement.
        silences: replies to a COMMIT that are lost with their connection.
        droughts: times at which PostgreSQL has no connection slot left.
        hoards: times at which slow tasks take every connection of the tasks' pools.
    """

    strikes: int
    frosts: int
    restarts: int
    cuts: int
    halves: int
    silences: int
    droughts: int
    hoards: int


@dataclass(slots=True)
class Weather:
    """Brings it about. `hoard` publishes what takes the pools."""

    places: Sequence[Place]
    postgres: LocalServer
    chance: random.Random
    hoard: Callable[[], Awaitable[None]]
    done: Counter[str] = field(default_factory=Counter)
    fair: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, no event begins."""
    _restarting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def storm(self, forecast: Forecast, *, seconds: float) -> None:
        """All of it, in random order, evenly over the time; as quickly as it goes when that is short."""
        kinds: dict[Callable[[], Awaitable[bool]], tuple[str, int]] = {
            self._strike: ("SIGKILLs from outside, at any moment", forecast.strikes),
            self._freeze: ("SIGSTOPs longer than a lease, then SIGCONT", forecast.frosts),
            self._restart: ("immediate restarts of PostgreSQL", forecast.restarts),
            self._cut: ("TCP cuts: all of a receiver's connections to PostgreSQL", forecast.cuts),
            self._halve: ("TCP cuts: in the middle of a statement", forecast.halves),
            self._silence: ("TCP cuts: the reply to a COMMIT lost", forecast.silences),
            self._dry: ("connection slots of PostgreSQL used up", forecast.droughts),
            self._take_pool: ("slow tasks that take all of the tasks' pools", forecast.hoards),
        }
        events = [(act, name) for act, (name, count) in kinds.items() for _ in range(count)]
        self.chance.shuffle(events)
        self.fair.set()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.TaskGroup() as side:
            for number, (act, name) in enumerate(events):
                await asyncio.sleep(begun + seconds * number / len(events) - loop.time())
                await self.fair.wait()
                side.create_task(self._until_done(act, name))

    async def _until_done(self, act: Callable[[], Awaitable[bool]], name: str) -> None:
        for _ in range(TRIES):
            if await act():
                self.done[name] += 1
                return
            await asyncio.sleep(0.1)

    def _any(self) -> Place:
        return self.chance.choice(self.places)

    async def _strike(self) -> bool:
        return self._any().kill()

    async def _freeze(self) -> bool:
        one = self._any()
        life = one.life
        if life is None or life.frozen or not one.freeze():
            return False
        await asyncio.sleep(LEASE * self.chance.uniform(1.1, 2.0))
        survived = life.code is None  # else it was killed in its sleep
        if survived:
            one.thaw()
        return survived

    async def _restart(self) -> bool:
        async with self._restarting:
            await asyncio.to_thread(self.postgres.restart, "immediate")
        return True

    async def _cut(self) -> bool:
        return await asyncio.to_thread(self._any().proxy.cut) > 0

    async def _halve(self) -> bool:
        return await asyncio.to_thread(self._any().proxy.cut_amid)

    async def _silence(self) -> bool:
        return await asyncio.to_thread(self._any().proxy.lose_reply, b"COMMIT;")

    async def _take_pool(self) -> bool:
        await self.hoard()
        return True

    async def _dry(self) -> bool:
        """Takes every slot that is left, for a moment. Only a server that says so has none left."""
        taken: list[asyncpg.Connection[asyncpg.Record]] = []
        try:
            while True:
                taken.append(await asyncpg.connect(self.postgres.url("storm"), timeout=5))
        except asyncpg.TooManyConnectionsError:
            dry = True
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            dry = False
        if dry:
            await asyncio.sleep(self.chance.uniform(0.3, 1.0))
        for connection in taken:
            connection.terminate()
        return dry
