"""A web application with a small pool goes on while Pub/Sub is silent, and its tasks are published once each when that is over."""

from __future__ import annotations

from collections import Counter

import httpx

from receiver.enqueue.breaker import FAILURES
from receiver.enqueue.publications import BATCHES
from tests.acceptance.enqueue.conftest import House
from tests.stage.brownout import ENQUEUES, HANDLERS, Manner, peer, press, shop
from tests.stage.waiting import eventually

ROWS = "SELECT task_id, published_at FROM task_executions WHERE task_path LIKE '%brownout_web.confirm'"


async def test_a_silent_pubsub_stops_no_handler_and_loses_nothing(house: House) -> None:
    """Before there was a breaker each of the forty that enqueue asked the silent Pub/Sub, one after the other."""
    with peer() as (pubsub, behave), shop(house.record.url, pubsub.host) as web:
        behave(Manner.SILENT)
        await press(web)
        await press(web)
        rows = await house.record.fetch(ROWS)
        assert len(rows) == 2 * HANDLERS * 2 // 3
        assert not [row for row in rows if row["published_at"]]
        assert 0 < pubsub.requests <= BATCHES + FAILURES

        behave(Manner.TAKE)

        async def is_published() -> bool:
            async with httpx.AsyncClient(base_url=web, trust_env=False) as client:
                order = (await client.post(ENQUEUES)).text
            return order in pubsub.task_ids

        await eventually(is_published)

        async def all_told() -> bool:
            marked = {row["task_id"] for row in await house.record.fetch(ROWS) if row["published_at"]}
            return marked == set(pubsub.task_ids)

        await eventually(all_told)
        assert max(Counter(pubsub.task_ids).values()) == 1
        assert pubsub.faults == []
