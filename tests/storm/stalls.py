"""COMMITs that hang: whatever was written waits for longer than a statement may take.

The standby's receiver of the WAL is stopped (SIGSTOP), so that each COMMIT waits for its flush. To the receivers a hanging disk
looks the same. In the middle their connections are cut: the server goes on with claims of which nobody hears.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import Final

from receiver.record.connections import SERVER_SETTINGS
from tests.stage.record import Record
from tests.storm.ground import WAITING, Ground, within

STATEMENT: Final = float(SERVER_SETTINGS["statement_timeout"].removesuffix("s"))
MORE: Final = 3.0
"""Seconds more, in which a COMMIT must have come to wait for so long."""


async def hang(ground: Ground) -> bool:
    """One stall. Counted when a COMMIT has waited for longer than `statement_timeout`."""
    standby = ground.pair.standby
    assert standby is not None
    receivers = await Record(standby.url()).fetch("SELECT pid FROM pg_stat_wal_receiver")
    if not receivers:  # it connects anew after a failover
        return False
    asking = await ground.connect()
    os.kill(receivers[0]["pid"], signal.SIGSTOP)
    try:
        await within(STATEMENT, lambda: asking.fetchval(WAITING, 1.0))
        for place in ground.places:
            await asyncio.to_thread(place.proxy.cut)
        waited = await within(STATEMENT + MORE, lambda: asking.fetchval(WAITING, STATEMENT))
    finally:
        with suppress(ProcessLookupError):
            os.kill(receivers[0]["pid"], signal.SIGCONT)
        await asking.close()
    ground.noted["COMMITs that hung for longer than statement_timeout"] += waited
    return bool(waited)
