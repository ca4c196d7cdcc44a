"""Renews the leases of what this instance runs, from a thread with its own event loop and its own connection.

A task that blocks the main loop, or a pool that is used up, must not cost a lease. Every third of the lease one
statement renews exactly the (task_id, fence) pairs that are held. A pair that does not come back is lost only when a
plain SELECT shows another fence or status: its row may just be locked by its own settlement.

A lease that could not be renewed until it ran out (this instance is cut off from the database) is lost too: another
instance may run the execution from then on, so here it is called off in time.

On exit it is this thread that leaves a short lease to what does not stop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from receiver.errors import DatabaseUnavailable
from receiver.record.connections import RecordConnection
from receiver.record.sql import leases, settlements
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from receiver.record.database import Database

BEATS_PER_LEASE = 3
"""A renewal may fail twice before the lease is in danger."""

EXPIRY_MARGIN = 0.1
"""Part of the lease before its end at which an unrenewed execution is called off."""


@dataclass(slots=True)
class _Held:
    fence: int
    confirmed: float
    """When the lease was last known to start, by `time.monotonic()`, taken before the statement was sent."""
    lost: Callable[[], None] | None = None
    gone: bool = False


class Heartbeat:
    """The leases of one instance, one of each execution at most. `hold` and `release` may be called from any thread.

    Args:
        lease: how long a renewal stands; a beat is a third of it.
    """

    def __init__(self, database: Database, *, lease: timedelta, emit: Emit) -> None:
        self._database = database
        self._lease = lease
        self._emit = emit
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._stopped = False
        self._left: timedelta | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Starts the thread; its connection is opened when there is something to renew."""
        self._thread.start()

    def leave(self, *, left: timedelta | None = None) -> None:
        """Tells the thread to end, and does not wait. What is still held then stays RUNNING for no longer than `left`."""
        self._left = left
        self._stopped = True
        self._wake()

    async def ended(self) -> None:
        """Returns once the thread has ended; it never begins if it was not started."""
        while self._thread.is_alive():  # noqa: ASYNC110 - a thread of its own would be needed to wait for a thread
            await asyncio.sleep(0.005)

    def stop(self, *, left: timedelta | None = None, within: float = 5.0) -> None:
        """`leave`, and waits for it so many seconds; may be called from any thread."""
        self.leave(left=left)
        if self._thread.is_alive():
            self._thread.join(timeout=within)

    def hold(self, pair: tuple[str, int], *, since: float) -> bool:
        """Renews the pair from now on. False, and nothing is held, when another fence of the execution is: its code may run.

        Args:
            since: `time.monotonic()` before the claim was sent.
        """
        task_id, fence = pair
        with self._lock:
            held = self._held.get(task_id)
            if held is not None and held.fence != fence:
                return False
            self._held[task_id] = _Held(fence, since)
            return True

    def find(self, task_id: str) -> tuple[str, int] | None:
        """The pair that is held of an execution, lost or not: what it ran may still run here."""
        with self._lock:
            held = self._held.get(task_id)
        return None if held is None else (task_id, held.fence)

    def watch(self, pair: tuple[str, int], lost: Callable[[], None]) -> None:
        """Has `lost` called, in any thread, once the pair is another's; at once if it already is, or is not held."""
        with self._lock:
            held = self._of(pair)
            if held is not None:
                held.lost = lost
            late = held is None or held.gone
        if late:
            lost()

    def expired(self, pair: tuple[str, int]) -> bool:
        """Whether the pair is not held, lost, or not known to be renewed for nearly a lease."""
        with self._lock:
            held = self._of(pair)
        return held is None or held.gone or held.confirmed < self._limit()

    def release(self, pair: tuple[str, int]) -> None:
        """No longer renews the pair."""
        with self._lock:
            if self._of(pair) is not None:
                del self._held[pair[0]]

    @property
    def held(self) -> list[tuple[str, int]]:
        """The pairs that are renewed now."""
        with self._lock:
            return [(task_id, held.fence) for task_id, held in self._held.items()]

    def _of(self, pair: tuple[str, int]) -> _Held | None:
        """What is held under exactly this fence; asked under the lock."""
        held = self._held.get(pair[0])
        return held if held is not None and held.fence == pair[1] else None

    def _wake(self) -> None:
        if self._loop is not None:
            with suppress(
                RuntimeError
            ):  # it has ended already, or ends in this moment: leaving may be asked for twice
                self._loop.call_soon_threadsafe(self._stopping.set)

    def _run(self) -> None:
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        self._loop = asyncio.get_running_loop()
        beat = self._lease.total_seconds() / BEATS_PER_LEASE
        connection = RecordConnection(self._database, "receiver heartbeat", deadline=min(10.0, beat))
        pause = beat
        watch = asyncio.create_task(self._call_off_in_time(), name="expiry")
        while not await self._stopped_within(pause):
            pause = beat if await self._renew(connection) else beat / 4
        watch.cancel()
        await self._shorten(connection)
        await connection.close()

    async def _call_off_in_time(self) -> None:
        """Beside the renewal, not after it: a silent database may keep that waiting beyond the lease's end."""
        while True:
            self._call_off_expired()
            await asyncio.sleep(self._lease.total_seconds() * EXPIRY_MARGIN / 4)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(0 if self._stopped else seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
        return self._stopped

    async def _renew(self, connection: RecordConnection) -> bool:
        pairs = sorted(self.held)
        if not pairs:
            return True
        sent = time.monotonic()
        try:
            renewed = await leases.renew(connection, pairs, lease=self._lease)
            missing = [pair for pair in pairs if pair not in renewed]
            status = await settlements.find_status(connection, missing) if missing else {}
        except Exception as error:  # noqa: BLE001 - whatever it is, the next beat must come: this thread has no other guard
            unexpected = None if isinstance(error, DatabaseUnavailable) else error
            self._emit(ReceiverTrouble("leases not renewed", str(error), error=unexpected))
            return False
        with self._lock:
            for pair in renewed:
                if held := self._of(pair):
                    held.confirmed = sent
        for pair in missing:
            if status.get(pair) != "RUNNING":
                self._lose(pair)
        return True

    async def _shorten(self, connection: RecordConnection) -> None:
        """On exit. By this thread's own connection, because the main loop may be blocked and the ledger's in use."""
        pairs = sorted(self.held)
        if self._left is None or not pairs:
            return
        try:
            await leases.shorten_leases(connection, pairs, left=self._left)
        except Exception as error:  # noqa: BLE001 - the process ends, and the leases run out by themselves
            self._emit(ReceiverTrouble("leases not shortened; they run out by themselves", str(error)))

    def _limit(self) -> float:
        """What was last renewed before this moment is as good as lost."""
        return time.monotonic() - self._lease.total_seconds() * (1 - EXPIRY_MARGIN)

    def _call_off_expired(self) -> None:
        limit = self._limit()
        with self._lock:
            expired = [
                (task_id, held.fence) for task_id, held in self._held.items() if held.confirmed < limit
            ]
        for pair in expired:
            self._lose(pair)

    def _lose(self, pair: tuple[str, int]) -> None:
        with self._lock:
            held = self._of(pair)
            if held is None or held.gone:
                return
            held.gone = True
            lost = held.lost
        if lost is not None:
            lost()
