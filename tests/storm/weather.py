"""The harm from outside, by a seeded clock: processes killed and frozen, the database restarted, its connections cut or used up."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from receiver.local.postgres import Postgres
from tests.storm.cast import LEASE, Receiver


@dataclass(frozen=True, slots=True)
class Forecast:
    """How much of each, over how many seconds (kills at the named points are the receivers' own).

    Attributes:
        strikes: SIGKILLs from outside, at any moment.
        frosts: SIGSTOPs longer than a lease.
        restarts: immediate restarts of PostgreSQL.
        cuts: connections to the database cut, or a COMMIT's reply lost.
        droughts: times at which PostgreSQL has no connection slot left.
    """

    strikes: int
    frosts: int
    restarts: int
    cuts: int
    droughts: int


@dataclass(slots=True)
class Weather:
    """Brings it about."""

    receivers: Sequence[Receiver]
    postgres: Postgres
    chance: random.Random
    done: Counter[str] = field(default_factory=Counter)

    async def storm(self, forecast: Forecast, *, seconds: float) -> None:
        """All of it, in random order, evenly over the time; as quickly as it goes when that is short."""
        events = (
            ["strike"] * forecast.strikes
            + ["frost"] * forecast.frosts
            + ["restart"] * forecast.restarts
            + ["cut"] * forecast.cuts
            + ["drought"] * forecast.droughts
        )
        self.chance.shuffle(events)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.TaskGroup() as side:
            for number, event in enumerate(events):
                await asyncio.sleep(begun + seconds * number / len(events) - loop.time())
                match event:
                    case "restart":
                        await asyncio.to_thread(self.postgres.restart, "immediate")
                        self.done["PostgreSQL restarted"] += 1
                    case "strike":
                        self._any().kill()
                        self.done["killed at any moment"] += 1
                    case "frost":
                        side.create_task(self._freeze(self._any()))
                    case "cut":
                        await self._cut(self._any())
                    case _:
                        side.create_task(self._use_up())

    def _any(self) -> Receiver:
        return self.chance.choice(self.receivers)

    async def _freeze(self, one: Receiver) -> None:
        one.freeze()
        await asyncio.sleep(LEASE * self.chance.uniform(1.1, 2.0))
        one.thaw()
        self.done["frozen longer than a lease"] += 1

    async def _cut(self, one: Receiver) -> None:
        if self.chance.random() < 0.5:
            one.proxy.lose_reply_to(b"COMMIT;")
            self.done["COMMIT's reply lost"] += 1
        else:
            await asyncio.to_thread(one.proxy.cut)
            self.done["connections cut"] += 1

    async def _use_up(self) -> None:
        """Takes every slot that is left, for a moment."""
        taken: list[asyncpg.Connection[asyncpg.Record]] = []
        try:
            while True:
                taken.append(await asyncpg.connect(self.postgres.url("storm"), timeout=2))
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pass
        await asyncio.sleep(self.chance.uniform(0.3, 1.0))
        for connection in taken:
            connection.terminate()
        self.done["connection slots used up"] += 1
