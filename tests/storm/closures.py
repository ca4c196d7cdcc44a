"""A moment in which the database takes no writes."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.storm.ground import Ground, within

REFUSED: Final = "in a read-only transaction"
WITHIN: Final = 8.0
"""Seconds in which somebody's write must be refused."""


async def close(ground: Ground) -> bool:
    """One of some seconds. Counted when somebody's write was refused."""
    count = ground.log()

    async def refused() -> int:
        return count(REFUSED)

    await _obey(ground, "on")
    try:
        met = await within(WITHIN, refused)
        await asyncio.sleep(ground.chance.uniform(0.5, 2.0))
    finally:
        await _obey(ground, "off")
    ground.noted["writes refused as read-only"] += count(REFUSED)
    return bool(met)


async def _obey(ground: Ground, setting: str) -> None:
    await ground.ask(f"ALTER SYSTEM SET default_transaction_read_only = {setting}")
    await ground.ask("SELECT pg_reload_conf()")
