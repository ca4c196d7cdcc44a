"""One run: how it is called off."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import cast

from receiver.delivery.run import Reason, Run
from receiver.endings.calls import Claimed


class Watched(Run):
    """Both threads that call it off look for a reason before either has set one, if anything lets them."""

    def __init__(self) -> None:
        self.seen: list[Reason | None] = []
        self._both = threading.Barrier(2)
        super().__init__(cast("Claimed", None), None, 0)

    @property
    def reason(self) -> Reason | None:
        found = self.seen[-1] if self.seen else None
        if found is None:
            with suppress(threading.BrokenBarrierError):
                self._both.wait(0.3)
        return found

    @reason.setter
    def reason(self, value: Reason | None) -> None:
        if value is not None:
            self.seen.append(value)


async def test_the_first_reason_counts_though_two_threads_have_one() -> None:
    """What a task's end comes to depends on it."""
    run = Watched()
    await asyncio.gather(
        *(asyncio.to_thread(run.call_off, reason) for reason in (Reason.LEASE_LOST, Reason.DEADLINE))
    )
    assert len(run.seen) == 1


def test_a_run_whose_loop_has_ended_can_be_called_off() -> None:
    """By the heartbeat, in the last moment of the process: it has other leases to look after."""

    async def begin() -> Run:
        return Run(cast("Claimed", None), None, 0)

    run = asyncio.run(begin())
    run.call_off(Reason.LEASE_LOST)
    assert run.reason is Reason.LEASE_LOST
