"""A topic that refuses everything, with many owed rows, beside a healthy one with a few."""

from __future__ import annotations

from typing import Final

from tests.storm.ground import Ground, within

HEALTHY: Final = 20
"""Rows beside it."""
WITHIN: Final = 90.0
"""Seconds in which they are published: sweeps come every three seconds, die as often as anybody, and there may be no database for some
time. Kept by the sick ones, they would wait for minutes."""
OWED: Final = """
SELECT count(*)::int FROM task_executions
WHERE task_id = ANY ($1::text[]) AND published_at IS NULL AND status = 'READY' AND fence = 0
"""


async def sicken(ground: Ground, rows: int) -> bool:
    """One sickness. Counted when a request was refused, and the sick rows are still owed when the healthy ones are not."""
    sickness = ground.sickness
    before = sickness.refused
    sickness.sick = True
    try:
        # A failover may be going on, and take longer than all tries.
        sick = await within(WITHIN, lambda: ground.application.enqueue("sick", rows))

        async def refused() -> int:
            return sickness.refused - before

        met = await within(WITHIN, refused)
        healthy = await within(WITHIN, lambda: ground.application.enqueue("transactional", HEALTHY))

        async def published() -> bool:
            left: int = await ground.ask(OWED, healthy)
            return left == 0

        if not await within(WITHIN, published):
            ground.wrong.append(f"rows beside a sick topic are not published within {WITHIN:g} s")
        waiting: int = await ground.ask(OWED, sick)
        requests = await refused()
    finally:
        sickness.sick = False
    if requests >= rows:
        ground.wrong.append(f"{requests} requests for {rows} rows of a topic that refuses all")
    ground.noted["requests that a sick topic refused"] += requests
    return bool(sick and met and healthy and waiting == rows)
