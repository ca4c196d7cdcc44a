"""Lock discipline: every statement that changes executions, against each other, on the same rows."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any
from uuid import uuid4

from receiver.errors import DatabaseUnavailable
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql import claims, leases, settlements
from receiver.record.sql.claims import ClaimItem
from receiver.record.sql.settlements import SettleItem
from tests.postgres.record import WHOSE, route

SECONDS = float(os.environ.get("RECEIVER_LOCKS_SECONDS", "3"))
"""At least. A minute of it once in a while: what has to meet here meets rarely."""
PATIENCE = 60.0
"""Seconds after which enough must have moved; a busy machine needs more than `SECONDS`."""
IDS = [f"id-{number:02}" for number in range(40)]
LEASE = timedelta(seconds=0.1)


async def test_claims_settlements_renewals_and_hand_backs_never_deadlock(
    database_url: str,
) -> None:
    """Eight connections, overlapping ids in random order: no deadlock, and no error at all."""
    counts = Counter[str]()
    errors: list[DatabaseUnavailable] = []
    fences: dict[str, int] = {}
    goes_on = until_moved(counts, ("claim", "settle", "renew", "hand_back"), 20)
    workers = [
        _works(
            RecordConnection(Database.of(database_url), f"worker {number}"),
            random.Random(number),
            goes_on,
            counts,
            errors,
            fences,
        )
        for number in range(8)
    ]
    await asyncio.gather(*workers)
    assert errors == []  # a deadlock would be one of them
    assert len(fences) == len(IDS)


def until_moved(counts: Counter[str], kinds: Collection[str], more_than: int) -> Callable[[], bool]:
    """Whether to go on: for `SECONDS`, and until more than so many rows of each kind have moved.

    It fails after `PATIENCE`, should they not move.
    """
    began = time.monotonic()

    def goes_on() -> bool:
        taken = time.monotonic() - began
        if all(counts[kind] > more_than for kind in kinds):
            return taken < SECONDS
        assert taken < max(SECONDS, PATIENCE), counts
        return True

    return goes_on


async def _works(
    connection: RecordConnection,
    chance: random.Random,
    goes_on: Callable[[], bool],
    counts: Counter[str],
    errors: list[DatabaseUnavailable],
    fences: dict[str, int],
) -> None:
    declared = route()
    while goes_on():
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
                        connection, items, token=uuid4(), whose=WHOSE, owner="worker", lease=LEASE
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
        counts[kind] += len(moved)
    await connection.close()


def _failed(pair: tuple[str, int]) -> SettleItem:
    return SettleItem(*pair, final=False, ending="FAILED", error_type="E", error_message="no")
