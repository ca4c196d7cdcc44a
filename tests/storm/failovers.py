"""The standby takes the primary's place, and everybody is led to it. What was answered 200 by then must be there."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.stage.record import Record
from tests.storm.ground import WAITING, Ground, within

ALONE: Final = (2.5, 4.0)
"""Seconds that a primary without its standby goes on: longer than a task's COMMIT may take in the storm."""

WITHIN: Final = 8.0
"""Seconds in which somebody's COMMIT must come to wait for the standby, or the partition met nobody."""


async def kill(ground: Ground) -> bool:
    """The primary dies."""
    await _promote(ground)
    return True


async def part(ground: Ground) -> bool:
    """The two are parted. COMMITs wait, and become visible on the primary alone: it crashes, and comes back before it is given up."""
    await ground.pair.part()
    asking = await ground.connect()
    waited = await within(WITHIN, lambda: asking.fetchval(WAITING, 0.0))
    if waited:
        await asyncio.sleep(ground.chance.uniform(*ALONE))
        waited = await asking.fetchval(WAITING, 0.0)
    await asking.close()
    if not waited:
        await ground.pair.meet()
        return False
    ground.noted["COMMITs that no standby had when their primary was given up"] += waited
    await asyncio.to_thread(ground.pair.primary.restart, "immediate")
    await asyncio.sleep(ground.chance.uniform(*ALONE))  # duplicates of what is visible there are delivered
    await _promote(ground)
    return True


async def _promote(ground: Ground) -> None:
    pair = ground.pair
    await pair.fail_over()
    standby = pair.standby
    assert standby is not None
    after = Record(standby.url("storm"))
    # Nobody has come to it yet: what is there was there before.
    ground.wrong += [
        f"failover: {each}"
        for each in (*await ground.acks.lost(after), *await ground.application.lost(after))
    ]
    ground.noted["answers of 200 that were looked for right after a failover"] += len(ground.acks.first)
    for proxy in (*(place.proxy for place in ground.places), ground.application.door):
        await asyncio.to_thread(proxy.lead_to, after.url)
    await pair.renew()
