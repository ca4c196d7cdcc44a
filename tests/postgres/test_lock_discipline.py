"""Lock discipline: every statement that changes executions, against each other, on the same rows."""

from __future__ import annotations

import asyncio
import os
import random
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

from receiver.errors import DatabaseUnavailable
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql import claims, leases, settlements
from receiver.record.sql.claims import ClaimItem
from receiver.record.sql.settlements import SettleItem
from tests.postgres.record import NAMESPACE, Look, route

SECONDS = float(os.environ.get("RECEIVER_LOCKS_SECONDS", "3"))
"""A minute of it once in a while: what has to meet here meets rarely."""
IDS = [f"id-{number:02}" for number in range(40)]
LEASE = timedelta(seconds=0.1)


async def test_claims_settlements_renewals_and_hand_backs_never_deadlock(
    database_url: str, look: Look
) -> None:
    """Eight connections, overlapping ids in random order: no deadlock, and no error at all."""
    await look.execute("SELECT pg_stat_reset()")
    end = time.monotonic() + SECONDS
    counts: dict[str, int] = {}
    errors: list[DatabaseUnavailable] = []
    fences: dict[str, int] = {}
    workers = [
        _works(
            RecordConnection(Database.of(database_url), f"worker {number}"),
            random.Random(number),
            end,
            counts,
            errors,
            fences,
        )
        for number in range(8)
    ]
    await asyncio.gather(*workers)
    await look.execute("SELECT pg_stat_force_next_flush()")
    deadlocks = await look.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert (deadlocks, errors) == (0, [])
    assert all(counts.get(kind, 0) > 20 for kind in ("claim", "settle", "renew", "hand_back")), counts
    assert len(fences) == len(IDS)


async def _works(
    connection: RecordConnection,
    chance: random.Random,
    end: float,
    counts: dict[str, int],
    errors: list[DatabaseUnavailable],
    fences: dict[str, int],
) -> None:
    declared = route()
    while time.monotonic() < end:
        ids = chance.sample(IDS, chance.randint(1, 20))
        pairs = [(task_id, fences.get(task_id, 0)) for task_id in ids]
        kind = chance.choice(["claim", "claim", "settle", "settle waiting", "renew", "hand_back"])
        moved: Any
        try:
            match kind:
                case "claim":
                    items = [
                        ClaimItem(
                            task_id=task_id,
                            route=declared,
                            args="[]",
                            kwargs="{}",
                            enqueued_at=None,
                            trace=None,
                            size=500,
                        )
                        for task_id in sorted(ids)  # as a group commit hands them in
                    ]
                    found = await claims.claim(
                        connection, items, token=uuid4(), namespace=NAMESPACE, owner="worker", lease=LEASE
                    )
                    moved = [row for row in found.values() if row.verdict == "claimed"]
                    for row in moved:
                        assert row.fence > fences.get(row.task_id, 0), "a fence fell"
                        fences[row.task_id] = row.fence
                case "settle":
                    moved = await settlements.settle(connection, [_failed(pair) for pair in pairs])
                case "settle waiting":  # one by one, as the ledger does with what it found locked
                    moved = await settlements.settle(connection, [_failed(pairs[0])], waiting=True)
                case "renew":
                    moved = await leases.renew(connection, pairs, lease=LEASE)
                case _:
                    moved = await leases.hand_back(connection, pairs, instance="worker")
        except DatabaseUnavailable as error:
            errors.append(error)
            continue
        counts[kind] = counts.get(kind, 0) + len(moved)
    await connection.close()


def _failed(pair: tuple[str, int]) -> SettleItem:
    return SettleItem(*pair, final=False, ending="FAILED", error_type="E", error_message="no")
