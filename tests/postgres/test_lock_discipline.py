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

from receiver.endings.calls import ClaimKey
from receiver.errors import DatabaseUnavailable
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql import claims, leases, settlements
from receiver.record.sql.claims import ClaimItem
from receiver.record.sql.settlements import SettleItem
from tests.postgres.record import TOKEN, WHOSE, route

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
    keys: dict[str, ClaimKey] = {}
    given = set[tuple[str, int]]()
    goes_on = until_moved(counts, ("claim", "settle", "renew", "hand_back"), 20)
    workers = [
        _works(
            RecordConnection(Database.of(database_url), f"worker {number}"),
            random.Random(number),
            goes_on,
            counts,
            errors,
            keys,
            given,
        )
        for number in range(8)
    ]
    await asyncio.gather(*workers)
    assert errors == []  # a deadlock would be one of them
    assert len(keys) == len(IDS)


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
    keys: dict[str, ClaimKey],
    given: set[tuple[str, int]],
) -> None:
    declared = route()
    while goes_on():
        ids = chance.sample(IDS, chance.randint(1, 20))
        mine = [keys.get(task_id, ClaimKey(task_id, 0, TOKEN)) for task_id in ids]
        kind = chance.choice(["claim", "claim", "settle", "settle waiting", "renew", "hand_back"])
        moved: Any
        try:
            match kind:
                case "claim":
                    items = [
                        ClaimItem(
                            task_id=task_id,
                            route=declared,
                            args=b"[]",
                            kwargs=b"{}",
                            enqueued_at=None,
                            trace=None,
                            size=500,
                        )
                        for task_id in sorted(ids)  # as a group commit hands them in
                    ]
                    found = await claims.claim(
                        connection, items, token=uuid4(), whose=WHOSE, owner="worker", lease=LEASE
                    )
                    moved = [row.key for row in found.values() if row.key is not None]
                    for key in moved:
                        assert (key.task_id, key.fence) not in given, "a fence fell"
                        given.add((key.task_id, key.fence))
                        # On a busy machine the answer of an earlier claim may be read after that of a later one.
                        keys[key.task_id] = max(key, keys.get(key.task_id, key), key=lambda each: each.fence)
                case "settle":
                    moved = await settlements.settle(connection, [_failed(key) for key in mine])
                case "settle waiting":  # one by one, as the ledger does with what it found locked
                    moved = await settlements.settle(connection, [_failed(mine[0])], waiting=True)
                case "renew":
                    moved = await leases.renew(connection, mine, lease=LEASE)
                case _:
                    moved = await leases.hand_back(connection, mine, instance="worker")
        except DatabaseUnavailable as error:
            errors.append(error)
            continue
        counts[kind] += len(moved)
    await connection.close()


def _failed(key: ClaimKey) -> SettleItem:
    return SettleItem(key, route().path, final=False, ending="FAILED", error_type="E", error_message="no")
