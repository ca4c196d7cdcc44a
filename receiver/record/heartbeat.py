"""Renews the leases of what this instance runs, from a thread with its own event loop and its own connection.

So a task that blocks the main loop, or a pool that is used up, costs no lease. Every third of the lease one statement
renews exactly the claims that are held. One that does not come back may only be locked by its own settlement. It is lost
when a plain SELECT shows another owner or status, or a lease that has ended: no statement revives it.

A lease that could not be renewed until it ran out is lost too: this instance is cut off from the database, and another
one may run the execution from then on. It is called off here before that. A row that somebody locks cannot be claimed by
anybody: its renewal is tried again and again, until shortly before its lease ends.

The connection is opened at the first claim, as long as PostgreSQL has a slot for it.

On exit this thread shortens the leases of code that does not stop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from receiver.errors import DatabaseUnavailable
from receiver.record.connections import RecordConnection
from receiver.record.renewals import Lent, Renewals
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import timedelta

    from receiver.endings.calls import ClaimKey
    from receiver.record.database import Database, Executor

BEATS_PER_LEASE = 3
"""Renewals in one lease: two may fail before the lease is in danger."""

EXPIRY_MARGIN = 0.1
"""An execution that was not renewed is called off when this part of its lease is left."""

LOCKED_MARGIN = 0.02
"""The same when somebody locks its row. It is less: the lock may go in time, and until it goes nobody can take the row over."""

LOCKED_PAUSE = 0.025
"""Part of the lease between two tries to renew a locked row."""


class Lease:
    """The right to run one execution under one fence, renewed until it is given back. Any thread may use it.

    Attributes:
        path: its task's.
        confirmed: when it was last known to start, by `time.monotonic()`, taken before the statement was sent.
        gone: whether it is lost, or was given back.
        margin: part of the lease that is left when its execution is called off.
        released: called once, when it is given back.
    """

    __slots__ = ("_heartbeat", "_kept", "confirmed", "gone", "key", "lost", "margin", "path", "released")

    def __init__(self, heartbeat: Heartbeat, key: ClaimKey, path: str, confirmed: float) -> None:
        self._heartbeat = heartbeat
        self._kept = False
        self.key = key
        self.path = path
        self.confirmed = confirmed
        self.margin = EXPIRY_MARGIN
        self.lost: Callable[[], None] | None = None
        self.released: Callable[[], None] | None = None
        self.gone = False

    @property
    def expired(self) -> bool:
        """Whether it was given back, lost, or has not been renewed for nearly its whole length."""
        return self.gone or self._heartbeat.is_ending(self)

    def watch(self, lost: Callable[[], None]) -> None:
        """Has `lost` called, in any thread, once it is another's; at once if it already is."""
        with self._heartbeat.lock:
            self.lost = lost
            late = self.gone
        if late:
            lost()

    def lose(self) -> None:
        """It is another's: says so, once."""
        with self._heartbeat.lock:
            if self.gone:
                return
            self.gone = True
            lost = self.lost
        if lost is not None:
            lost()

    def keep(self) -> None:
        """Keeps it beyond the end of the present block: its code still runs."""
        self._kept = True

    def give_back(self) -> None:
        """Renews it no longer, unless it is kept: then the next block gives it back."""
        if self._kept:
            self._kept = False
            return
        self._heartbeat.release(self)
        self.gone = True
        released, self.released = self.released, None
        if released is not None:
            released()
        self.lost = None  # breaks a circle with the claim: the task's arguments are freed at once


class Heartbeat:
    """The leases of one instance, at most one for each execution. The loop that runs them and the heartbeat's thread both use it.

    `hold`, `find` and `release` take no lock: only the loop changes the dict, each time by one operation, which is atomic, by the
    interpreter's lock or, without that, by the dict's own. Who walks through the dict walks through a copy, which is one operation
    too. The lock is for `watch` and `lose`: one of them sees what the other one did, and only one calls.

    Args:
        lease: how long a renewal lasts; a beat is a third of it.
    """

    def __init__(self, database: Database, *, lease: timedelta, emit: Emit) -> None:
        self._database = database
        self._lease = lease
        self._length = lease.total_seconds()
        self._emit = emit
        self._held: dict[str, Lease] = {}
        self.lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._stopped = False
        self._lender: Executor | None = None
        self._main: asyncio.AbstractEventLoop | None = None
        self._left: timedelta | None = None
        self._overdue: Collection[ClaimKey] = ()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Starts the thread; its connection is opened at the first claim."""
        self._thread.start()

    def lend(self, executor: Executor) -> None:
        """Has this renew while PostgreSQL gives the heartbeat no connection, in the loop that holds the leases."""
        self._lender = executor

    def leave(self, *, left: timedelta | None = None, overdue: Collection[ClaimKey] = ()) -> None:
        """Tells the thread to end, and does not wait. Executions that are still held stay RUNNING for at most `left`.

        Args:
            overdue: those past their deadline: the exit counts as their crash.
        """
        self._left, self._overdue = left, overdue
        self._stopped = True
        self._wake()

    async def ended(self) -> None:
        """Returns once the thread has ended, or was never started."""
        while self._thread.is_alive():  # noqa: ASYNC110 - waiting for a thread would take another thread
            await asyncio.sleep(0.005)

    def stop(
        self,
        *,
        left: timedelta | None = None,
        overdue: Collection[ClaimKey] = (),
        within: float = 5.0,
    ) -> None:
        """`leave`, then waits for the thread for `within` seconds; may be called from any thread."""
        self.leave(left=left, overdue=overdue)
        if self._thread.is_alive():
            self._thread.join(timeout=within)

    def hold(self, key: ClaimKey, path: str = "", *, since: float) -> Lease | None:
        """The lease of this claim, renewed from now on; None when the execution is held already: its code may run.

        Args:
            path: its task's: a trigger may make trouble for all of one.
            since: `time.monotonic()` before the claim was sent.
        """
        lease = Lease(self, key, path, since)
        if self._held.setdefault(key.task_id, lease) is not lease:
            return None
        if self._main is None:
            self._main = asyncio.get_running_loop()
            self._wake()
        return lease

    def find(self, task_id: str) -> Lease | None:
        """The lease that is held of an execution, lost or not: its code may still run here."""
        return self._held.get(task_id)

    def release(self, lease: Lease) -> None:
        """Renews this lease no longer; for `Lease.give_back`. One that followed it is not its own."""
        if self._held.get(lease.key.task_id) is lease:
            del self._held[lease.key.task_id]

    def is_ending(self, lease: Lease) -> bool:
        """Whether a lease was last renewed so long ago that it is as good as lost."""
        return time.monotonic() - lease.confirmed > self._length * (1 - lease.margin)

    @property
    def held(self) -> list[ClaimKey]:
        """The claims that are renewed now."""
        return [lease.key for lease in self._held.copy().values()]

    def _wake(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # its loop has ended: `leave` may be called twice
                self._loop.call_soon_threadsafe(self._woken.set)

    def _run(self) -> None:
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        self._loop = asyncio.get_running_loop()
        beat = self._length / BEATS_PER_LEASE
        connection = RecordConnection(self._database, "receiver heartbeat", deadline=min(10.0, beat))
        renewals = Renewals(connection, self._lease, self._emit)
        watch = asyncio.create_task(self._call_off_in_time(), name="expiry")
        pause = beat
        while not await self._stopped_within(pause):
            if renewals.lent is None and self._main is not None:
                if self._lender is not None:
                    renewals.lent = Lent(self._lender, self._main, min(10.0, beat))
                await renewals.connect()
            pause = self._until_due(beat) or await self._renew(renewals)
        watch.cancel()
        await self._shorten(renewals)
        await connection.close()

    async def _call_off_in_time(self) -> None:
        """Runs beside the renewal: a silent database may keep that waiting until after the lease's end."""
        while True:
            self._call_off_expired()
            await asyncio.sleep(self._length * LOCKED_MARGIN / 2)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(0 if self._stopped else seconds):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()
        return self._stopped

    def _until_due(self, beat: float) -> float:
        """Seconds until some lease is a beat old, and is to be renewed; 0 when one is."""
        oldest = min((lease.confirmed for lease in self._held.copy().values()), default=0.0)
        return max(0.0, oldest + beat - time.monotonic())

    async def _renew(self, renewals: Renewals) -> float:
        """Renews what is held, and returns after how many seconds to do it again."""
        beat = self._length / BEATS_PER_LEASE
        keys = {lease.key: lease.path for lease in self._held.copy().values()}
        if not keys:
            return beat
        sent = time.monotonic()
        try:
            renewed = await renewals.renew(keys)
        except Exception as error:  # noqa: BLE001 - the next beat must come, whatever the error is
            unexpected = None if isinstance(error, DatabaseUnavailable) else error
            self._emit(ReceiverTrouble("leases not renewed", str(error), error=unexpected))
            return beat / 4
        held = {lease.key: lease for lease in self._held.copy().values()}
        for key in keys:
            if (lease := held.get(key)) is None:
                continue
            lease.margin = LOCKED_MARGIN if key in renewed.locked else EXPIRY_MARGIN
            if key in renewed.done:
                lease.confirmed = sent
            elif key not in renewed.locked | renewed.failed:
                lease.lose()
        return self._length * LOCKED_PAUSE if renewed.locked else beat / 4 if renewed.failed else beat

    async def _shorten(self, renewals: Renewals) -> None:
        """On exit, by this thread's own connection: the main loop may be blocked, and the ledger's connections in use."""
        keys = sorted(self.held)
        if self._left is None or not keys:
            return
        await renewals.shorten(keys, left=self._left, overdue=self._overdue)

    def _call_off_expired(self) -> None:
        for lease in self._held.copy().values():
            if self.is_ending(lease):
                lease.lose()
