"""The harm from outside, by a seeded clock: processes killed and frozen, servers restarted and replaced, connections cut or used up.

What is counted has happened, and had an effect: a cut that met nobody is tried again, and one that never met anybody is not
counted. The larger weathers have a room each: `failovers`, `stalls`, `closures`, `thorns`, `topics`, `snapshots`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from tests.storm import closures, failovers, snapshots, stalls, thorns, topics, traffic
from tests.storm.cast import LEASE, POOL, Place
from tests.storm.flood import Crowd
from tests.storm.ground import Ground

TRIES = 20
"""Of an event that met nobody."""

Act = Callable[[], Awaitable[bool]]


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
        failovers: times at which the standby takes the primary's place; every second one after the two were parted.
        stalls: COMMITs that hang.
        closures: moments in which the database takes no writes.
        thorns: triggers that make trouble for some rows.
        sicknesses: topics that refuse all.
        snapshots: old snapshots.
        sick_rows: owed rows of the sick topic.
        dead_rows: rows that die beside the old snapshot.
    """

    strikes: int
    frosts: int
    restarts: int
    cuts: int
    halves: int
    silences: int
    droughts: int
    hoards: int
    failovers: int
    stalls: int
    closures: int
    thorns: int
    sicknesses: int
    snapshots: int
    sick_rows: int
    dead_rows: int


@dataclass(slots=True)
class Weather:
    """Brings it about."""

    ground: Ground
    crowd: Crowd
    chance: random.Random
    slots: int
    done: Counter[str] = field(default_factory=Counter)
    pressing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the crowd presses: who is timed then is timed by it."""
    _fair: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Lock = field(default_factory=asyncio.Lock)
    _topic: asyncio.Lock = field(default_factory=asyncio.Lock)
    _failovers: Iterator[int] = field(default_factory=itertools.count)

    async def storm(self, forecast: Forecast, *, seconds: float) -> None:
        """All of it, in random order, evenly over the time; as quickly as it goes when that is short."""
        kinds: dict[str, tuple[Act, int]] = {
            "SIGKILLs from outside, at any moment": (self._strike, forecast.strikes),
            "SIGSTOPs longer than a lease, then SIGCONT": (self._freeze, forecast.frosts),
            "immediate restarts of PostgreSQL": (self._restart, forecast.restarts),
            "TCP cuts: all of a receiver's connections to PostgreSQL": (self._cut, forecast.cuts),
            "TCP cuts: in the middle of a statement": (self._halve, forecast.halves),
            "TCP cuts: the reply to a COMMIT lost": (self._silence, forecast.silences),
            "connection slots of PostgreSQL used up": (self._dry, forecast.droughts),
            "slow tasks that take all of the tasks' pools": (self._take_pool, forecast.hoards),
            "failovers to the synchronous standby": (self._fail_over, forecast.failovers),
            "stalls: COMMITs hang": (self._alone(stalls.hang), forecast.stalls),
            "moments in which the database is read-only": (self._alone(closures.close), forecast.closures),
            "triggers that raise or sleep for some rows": (self._grow, forecast.thorns),
            "sick topics": (functools.partial(self._sicken, forecast.sick_rows), forecast.sicknesses),
            "old snapshots": (
                self._alone(functools.partial(snapshots.hold, dead=forecast.dead_rows)),
                forecast.snapshots,
            ),
        }
        events = [(act, name) for name, (act, count) in kinds.items() for _ in range(count)]
        self.chance.shuffle(events)
        self._fair.set()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.TaskGroup() as side:
            for number, (act, name) in enumerate(events):
                await asyncio.sleep(begun + seconds * number / len(events) - loop.time())
                await self._fair.wait()
                side.create_task(self._until_done(act, name))

    @asynccontextmanager
    async def pause(self) -> AsyncIterator[None]:
        """No event begins meanwhile, and the servers are left alone."""
        async with self._server:
            self._fair.clear()
            try:
                yield
            finally:
                self._fair.set()

    async def _until_done(self, act: Act, name: str) -> None:
        for _ in range(TRIES):
            if await act():
                self.done[name] += 1
                return
            await asyncio.sleep(0.1)

    def _alone(self, act: Callable[[Ground], Awaitable[bool]]) -> Act:
        """Of those that are done to the servers, one at a time."""

        async def alone() -> bool:
            async with self._server:
                return await act(self.ground)

        return alone

    def _any(self) -> Place:
        return self.chance.choice(self.ground.places)

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
        async with self._server:
            await asyncio.to_thread(self.ground.pair.primary.restart, "immediate")
        return True

    async def _fail_over(self) -> bool:
        how = failovers.kill if next(self._failovers) % 2 else failovers.part
        return await self._alone(how)()

    async def _grow(self) -> bool:
        async with self.pressing, self._server:
            return await thorns.grow(self.ground, self.crowd, self.slots)

    async def _sicken(self, rows: int) -> bool:
        async with self._topic:
            return await topics.sicken(self.ground, rows)

    async def _cut(self) -> bool:
        return await asyncio.to_thread(self._any().proxy.cut) > 0

    async def _halve(self) -> bool:
        return await asyncio.to_thread(self._any().proxy.cut_amid)

    async def _silence(self) -> bool:
        return await asyncio.to_thread(self._any().proxy.lose_reply, b"COMMIT;")

    async def _take_pool(self) -> bool:
        """More slow tasks at once than all the tasks' pools have connections."""
        ground = self.ground
        await traffic.put(ground.pubsub, ground.expected, "slow", 2 * len(ground.places) * POOL)
        return True

    async def _dry(self) -> bool:
        async with self._server:
            return await self._take_slots()

    async def _take_slots(self) -> bool:
        """Takes every slot that is left, for a moment. Only a server that says so has none left."""
        taken: list[asyncpg.Connection[asyncpg.Record]] = []
        try:
            while True:
                taken.append(await asyncpg.connect(self.ground.record.url, timeout=5))
        except asyncpg.TooManyConnectionsError:
            dry = True
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            dry = False
        if dry:
            await asyncio.sleep(self.chance.uniform(0.3, 1.0))
        for connection in taken:
            connection.terminate()
        return dry
