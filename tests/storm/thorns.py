"""An application's trigger on our table: for some rows it raises, for others it takes longer than a statement may."""

from __future__ import annotations

from typing import Final

from tests.storm import traffic
from tests.storm.flood import Crowd
from tests.storm.ground import Ground, within

STAGE: Final = """
CREATE TABLE thorns (n int);
CREATE FUNCTION prick() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM thorns) THEN
        IF right(NEW.task_id, 1) IN ('0', '5') THEN
            RAISE LOG 'the shop is slow';
            PERFORM pg_sleep(7);
        END IF;
        RAISE EXCEPTION 'the shop is closed';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER prick BEFORE INSERT OR UPDATE ON task_executions
FOR EACH ROW WHEN (NEW.task_id LIKE 'thorny%') EXECUTE FUNCTION prick();
"""
SLOW: Final = "LOG:  the shop is slow"
CLOSED: Final = "ERROR:  the shop is closed"
ROWS: Final = 5
"""One of them slow. A slow row takes a connection of the ledger's four whenever it is tried."""
TIMES: Final = 5
"""How often a raising row is pushed to each receiver together with neighbours. A lie or a cut may fail some of those, not most."""
WITHIN: Final = 20.0
"""Seconds in which each receiver answers a neighbour, and in which both kinds of trouble must be seen: a claim may be in the batch
that the slow row fails after five seconds, and in that of the next one."""


async def grow(ground: Ground, crowd: Crowd, slots: int) -> bool:
    """One growth, in which every receiver must answer neighbours. Counted when rows have both raised and slept.

    Args:
        slots: the capacity of a receiver.
    """
    count = ground.log()

    async def pricked() -> bool:
        return count(SLOW) > 0 and count(CLOSED) > 0

    await ground.ask("INSERT INTO thorns VALUES (1)")
    try:
        labels = await traffic.put(ground.pubsub, ground.expected, "thorny", ROWS)
        met = await within(WITHIN, pricked)
        if met:
            ground.wrong += await crowd.fresh(WITHIN, "beside a row with a slow trigger")
            raises = next(label for label in labels if label[-1] not in "05")
            first = await crowd.beside("thorny", raises, TIMES, slots)
            if first[500] > first[200]:
                ground.wrong.append(f"neighbours of a row whose trigger raises were answered {dict(first)}")
            for status, times in first.items():
                ground.noted[f"neighbours of a row whose trigger raises, answered {status}"] += times
    finally:
        await ground.ask("DELETE FROM thorns")
    ground.noted["statements that a trigger failed"] += count(CLOSED)
    ground.noted["statements that a trigger slowed"] += count(SLOW)
    return bool(met)
