"""Lock discipline of the sweeper: taking, marking, replaying and pruning against claims, settlements and heartbeats."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from receiver.endings.calls import ClaimKey
from receiver.errors import DatabaseUnavailable, ItemRefused, ReceiverError
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql import (
    claims,
    dead_letters,
    leases,
    outbox,
    pruning,
    replaying,
    settlements,
    sweeping,
)
from receiver.record.sql.claims import ClaimItem
from receiver.record.sql.settlements import SettleItem
from tests.postgres.record import TOKEN, WHOSE, Look, route
from tests.postgres.sweeps import take_due, take_lost
from tests.postgres.test_lock_discipline import IDS, LEASE, until_moved
from tests.stage.waiting import eventually

NOW = timedelta(0)
PAST = datetime(2020, 1, 1, tzinfo=UTC)
WAITS = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)
KINDS = (
    "claim",
    "claim",
    "settle",
    "renew",
    "hand_back",
    "sweep",
    "sweep",
    "patrol",
    "replay",
    "prune",
    "refer",
    "dead_letter",
)
OWE = """
UPDATE task_executions SET published_at = NULL WHERE task_id IN (
    SELECT task_id FROM task_executions WHERE status = 'READY' AND task_id = ANY ($1)
    ORDER BY task_id COLLATE "C" FOR UPDATE SKIP LOCKED
)
"""
"""Some rows were never published: a replay, which owes rows too, finds something too rarely."""


async def test_sweeps_and_prunes_never_deadlock_with_claims_settlements_and_renewals(
    database_url: str, look: Look
) -> None:
    """Eight connections on the same forty rows, which the application refers to as well: no deadlock, and no error."""
    await look.execute("CREATE TABLE orders (task_id text REFERENCES task_executions ON DELETE CASCADE)")
    counts = Counter[str]()
    works = [_Work(database_url, number, counts) for number in range(8)]
    goes_on = until_moved(counts, KINDS, 5)
    await asyncio.gather(*(work.run(goes_on) for work in works))
    assert [error for work in works for error in work.errors] == []  # a deadlock would be one of them


async def test_a_replay_that_waited_for_a_settlement_goes_by_its_outcome(
    database_url: str, look: Look, other: Any
) -> None:
    """Its snapshot has the row RUNNING, its lock has it FAILED: PostgreSQL checks the constraints on the former first."""
    await look.seed("id-00", "RUNNING", attempt=1, lease_expires_at=PAST)
    await other.execute("BEGIN")
    settled = SettleItem(
        ClaimKey("id-00", 1, TOKEN),
        route().path,
        final=False,
        ending="FAILED",
        error_type="E",
        error_message="no",
    )
    assert await settlements.settle(other, [settled])
    work = _Work(database_url, 0, Counter())
    waiting = asyncio.create_task(work.do("replay", ["id-00"]))
    await eventually(lambda: look.value(WAITS))
    await other.execute("COMMIT")
    assert await waiting == 1
    await work.close()
    row = await look.row("id-00")
    assert (row["status"], row["final"], row["error_type"]) == ("READY", False, None)


class _Work:
    """One connection; what it claimed, it may settle, renew or hand back."""

    def __init__(self, url: str, number: int, counts: Counter[str]) -> None:
        self._connection = RecordConnection(Database.of(url), f"worker {number}")
        self._chance = random.Random(number)
        self._keys: dict[str, ClaimKey] = {}
        self.counts = counts
        self.errors: list[ReceiverError] = []

    async def run(self, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            kind = self._chance.choice(KINDS)
            try:
                self.counts[kind] += await self.do(
                    kind, self._chance.sample(IDS, self._chance.randint(1, 20))
                )
            except (DatabaseUnavailable, ItemRefused) as error:
                self.errors.append(error)
        await self.close()

    async def close(self) -> None:
        await self._connection.close()

    async def do(self, kind: str, ids: list[str]) -> int:
        """How many rows moved."""
        mine = [self._keys.get(task_id, ClaimKey(task_id, 0, TOKEN)) for task_id in ids]
        connection = self._connection
        moved: Any
        match kind:
            case "claim":
                lease = LEASE * self._chance.choice(
                    (1, 20)
                )  # on a busy machine the short one is never settled
                moved = [
                    row.key
                    for row in (
                        await claims.claim(
                            connection,
                            _items(ids),
                            token=uuid4(),
                            whose=WHOSE,
                            owner="worker",
                            lease=lease,
                        )
                    ).values()
                    if row.key is not None
                ]
                self._keys |= {key.task_id: key for key in moved}
            case "settle":
                moved = await settlements.settle(connection, [self._settled(key) for key in mine])
            case "renew":
                moved = await leases.renew(connection, mine, lease=LEASE)
            case "hand_back":
                moved = await leases.hand_back(connection, mine, instance="worker")
            case "sweep" | "patrol":
                moved = await self._swept(kind, ids)
            case "replay":
                moved = await replaying.replay(connection, ids, whose=WHOSE)
            case "dead_letter":
                declared = route()
                moved = await dead_letters.take_back(
                    connection,
                    ids[:1],
                    [declared.name],
                    whose=WHOSE,
                    max_attempts=None,
                    known=True,
                    published=None,
                )
            case "prune":
                older: dict[str, Any] = {"whose": WHOSE, "older": NOW}
                found = await pruning.find_outdated(connection, **older, limit=20, after=None)
                outdated = [row.task_id for row in found]
                self._chance.shuffle(outdated)
                moved = [
                    *await pruning.finalise(connection, outdated, **older),
                    *await pruning.prune(connection, outdated, **older),
                ]
            case _:
                moved = await connection.fetch(
                    "INSERT INTO orders SELECT task_id FROM task_executions WHERE task_id = ANY ($1)"
                    " ORDER BY task_id FOR KEY SHARE SKIP LOCKED RETURNING task_id",
                    ids,
                )
        return len(moved)

    async def _swept(self, kind: str, ids: list[str]) -> list[Any]:
        if kind == "sweep":
            await self._connection.fetch(OWE, ids)
            taken = await take_due(self._connection, limit=20, lease=LEASE)
        else:
            taken = await take_lost(self._connection, age=NOW, limit=20, lease=LEASE)
        rows = (await sweeping.load(self._connection, taken, most=1000, largest=1000)).rows
        assert {row.task_id for row in rows} <= {row.task_id for row in taken}
        if self._chance.random() < 0.5:
            await outbox.mark_published(self._connection, taken)
        else:
            await sweeping.postpone(self._connection, taken, pause=NOW)
        return taken

    def _settled(self, key: ClaimKey) -> SettleItem:
        if self._chance.random() < 0.4:
            return SettleItem(key, route().path, return_value="1")
        return SettleItem(key, route().path, final=False, ending="FAILED", error_type="E", error_message="no")


def _items(ids: list[str]) -> list[ClaimItem]:
    declared = route()
    return [
        ClaimItem(
            task_id=task_id,
            route=declared,
            args=b"[]",
            kwargs=b"{}",
            enqueued_at=None,
            trace=None,
            size=500,
        )
        for task_id in sorted(ids)
    ]
