"""Renews leases, whatever may be wrong with a connection or with one of the rows.

PostgreSQL may have no connection slot for the heartbeat's own connection. Then one of the ledger's renews, by way of its loop. A trigger
of the application may fail the statement for one row, or make it take seconds. Then the rows are renewed task by task. The rows of a task
that fails come last, one by one, as many as `ALONE` allows in one beat: that task may lose leases by it, but its neighbours do not.

Invariant: only claims that still own their rows are renewed, and only before their leases end.

Next: `receiver.record.sql.leases`.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from receiver.errors import DatabaseUnavailable, OutOfConnections
from receiver.record.in_parts import written
from receiver.record.sql import leases
from receiver.record.sqlstates import NotConnected, is_of_some_row
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import timedelta

    from receiver.endings.calls import ClaimKey
    from receiver.record.connections import RecordConnection
    from receiver.record.database import Executor


ALONE: Final = 1 / 12
"""Part of the lease after which no further row is renewed by itself in one beat: its statement may take seconds, and the neighbours'
next renewal has to come in time."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """What became of leases; those in no set are lost.

    Attributes:
        locked: still ours. Somebody locks the row, and nobody can claim it meanwhile.
        failed: for an error of its own, or it has not had its turn.
    """

    done: set[ClaimKey]
    locked: set[ClaimKey]
    failed: set[ClaimKey]


@dataclass(frozen=True, slots=True)
class Lent:
    """An executor of another event loop, which must be running.

    Args:
        within: seconds for a statement.
    """

    executor: Executor
    loop: asyncio.AbstractEventLoop
    within: float

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Mapping[str, Any]]:
        """As the executor's. TimeoutError when that loop is blocked."""
        sent = asyncio.run_coroutine_threadsafe(self._fetch(statement, arguments), self.loop)
        async with asyncio.timeout(self.within):
            return await asyncio.wrap_future(sent)

    async def _fetch(self, statement: str, arguments: tuple[Any, ...]) -> Sequence[Mapping[str, Any]]:
        return await self.executor.fetch(statement, *arguments)


class Renewals:
    """The renewals of one instance. `lent`: what renews while `own` cannot connect."""

    def __init__(self, own: RecordConnection, lease: timedelta, emit: Emit) -> None:
        self._own = own
        self._lease = lease
        self._emit = emit
        self._failing: set[str] = set()
        self._turns: defaultdict[ClaimKey, float] = defaultdict(float)
        self.lent: Executor | None = None

    async def connect(self) -> None:
        """Opens the connection ahead of its first use, if PostgreSQL gives one now."""
        with suppress(DatabaseUnavailable):
            await self._own.open()

    async def renew(self, held: Mapping[ClaimKey, str]) -> Renewed:
        """Renews the leases of these claims; raises as `RecordConnection.fetch`.

        Args:
            held: for each claim the path of its task.
        """
        try:
            return await self._renew(self._own, held)
        except (OutOfConnections, NotConnected) as error:
            if self.lent is None:
                raise
            self._emit(ReceiverTrouble("the heartbeat renews by the ledger's connections", str(error)))
            return await self._renew(self.lent, held)

    async def shorten(
        self, keys: Sequence[ClaimKey], *, left: timedelta, overdue: Collection[ClaimKey]
    ) -> None:
        """As `leases.shorten_leases`, on exit: what fails is told, and runs out by itself."""
        shorten = partial(leases.shorten_leases, self._own, left=left, overdue=overdue)
        try:
            _, failed = await written(shorten, keys)
            errors = list(failed.values())
        except Exception as error:  # noqa: BLE001 - the process ends
            errors = [error]
        for why in errors:
            self._emit(ReceiverTrouble("leases not shortened; they run out by themselves", str(why)))

    async def _renew(self, executor: Executor, held: Mapping[ClaimKey, str]) -> Renewed:
        beat = _Beat(executor, self._lease, held)
        await self._together(beat)
        await self._alone(beat)
        errors = beat.errors
        if len(errors) == len(held):
            raise next(iter(errors.values()))
        if errors:
            key, why = next(iter(errors.items()))
            self._emit(
                ReceiverTrouble("lease not renewed", f"{len(errors)} of {len(held)}: {why}", key.task_id)
            )
        missing = held.keys() - beat.done - beat.unknown
        locked = await leases.find_live(executor, sorted(missing)) if missing else set()
        return Renewed(beat.done, locked, beat.unknown)

    async def _together(self, beat: _Beat) -> None:
        """By one statement, or by one for each task."""
        tasks: dict[str, list[ClaimKey]] = defaultdict(list)
        for key in sorted(beat.held):
            if beat.held[key] not in self._failing:
                tasks[beat.held[key]].append(key)
        if not tasks or await beat.ask([key for keys in tasks.values() for key in keys]):
            return
        # All have their turn: a task that is left waits for the next beat, behind the next slow one.
        for path, keys in tasks.items():
            if len(tasks) == 1 or not await beat.ask(keys):
                self._failing.add(path)

    async def _alone(self, beat: _Beat) -> None:
        """Those of the failing tasks one by one, the one whose turn was first."""
        end = self._end()
        alone = sorted(
            (key for key in beat.held if beat.held[key] in self._failing), key=self._turns.__getitem__
        )
        for key in alone:
            if time.monotonic() < end:
                self._turns[key] = time.monotonic()
                await beat.ask([key])
        self._turns = defaultdict(float, {key: self._turns[key] for key in alone})
        self._failing &= {beat.held[key] for key in beat.unknown}

    def _end(self) -> float:
        return time.monotonic() + self._lease.total_seconds() * ALONE


class _Beat:
    """One renewal of all that is held, statement by statement."""

    def __init__(self, executor: Executor, lease: timedelta, held: Mapping[ClaimKey, str]) -> None:
        self._executor = executor
        self._lease = lease
        self._waiting = set(held)
        self.held = held
        self.done: set[ClaimKey] = set()
        self.errors: dict[ClaimKey, Exception] = {}

    @property
    def unknown(self) -> set[ClaimKey]:
        """Those that failed, or had no turn."""
        return self._waiting | self.errors.keys()

    async def ask(self, keys: Sequence[ClaimKey]) -> bool:
        """Renews these by one statement; False when one of them fails it."""
        self._waiting.difference_update(keys)
        try:
            self.done |= await leases.renew(self._executor, keys, lease=self._lease)
        except Exception as error:
            if not is_of_some_row(error):
                raise
            self.errors |= dict.fromkeys(keys, error)
            return False
        for key in keys:
            self.errors.pop(key, None)
        return True
