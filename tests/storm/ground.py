"""What the storm comes over: two PostgreSQLs, a Pub/Sub, the receivers' places, an application; and how weathers ask the primary."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg

from receiver.emulator.in_thread import LocalPubSub
from receiver.emulator.signer import Signer
from tests.stage.record import Record
from tests.stage.standby import Pair
from tests.storm.acks import Acks
from tests.storm.application import Application
from tests.storm.books import Expected
from tests.storm.cast import Place
from tests.storm.deck import Deck
from tests.storm.sickness import Sickness

WAITING: Final = """
SELECT count(*)::int FROM pg_stat_activity
WHERE wait_event = 'SyncRep' AND application_name LIKE 'receiver%' AND query_start < clock_timestamp() - $1::float8 * interval '1 s'
"""
PATIENCE: Final = 20.0
"""Seconds for a statement of ours: it is tried again when the server has just gone, or has no slot."""


@dataclass(slots=True)
class Ground:
    """All of it. `wrong`: promises that a weather saw broken. `noted`: what each weather brought about."""

    pair: Pair
    pubsub: LocalPubSub
    signer: Signer
    folder: Path
    deck: Deck
    places: Sequence[Place]
    application: Application
    sickness: Sickness
    acks: Acks
    chance: random.Random
    expected: list[Expected] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    noted: Counter[str] = field(default_factory=Counter)

    @property
    def record(self) -> Record:
        """The record of the primary of now."""
        return Record(self.pair.primary.url("storm"))

    async def connect(self) -> Any:
        """A connection to the primary of now, which may write whatever its default is."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return await asyncpg.connect(
                    self.record.url, server_settings={"default_transaction_read_only": "off"}
                )
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(0.1)

    async def ask(self, statement: str, *arguments: Any) -> Any:
        """One value."""
        connection = await self.connect()
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close()

    def log(self) -> Callable[[str], int]:
        """Counts the lines of the primary's log with these words, from now on."""
        file = self.pair.primary.folder / "server.log"
        begun = file.stat().st_size

        def count(words: str) -> int:
            with file.open(errors="replace") as lines:
                lines.seek(begun)
                return sum(words in line for line in lines)

        return count


async def within(seconds: float, condition: Callable[[], Awaitable[Any]]) -> Any:
    """Its answer once that is true; the last one when the time is over."""
    end = time.monotonic() + seconds
    while not (answer := await condition()) and time.monotonic() < end:  # noqa: ASYNC110 - it is a server that is asked
        await asyncio.sleep(0.05)
    return answer
