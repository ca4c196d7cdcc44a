"""Renews leases, whatever may be wrong with a connection or with one of the rows.

PostgreSQL may have no connection slot for the heartbeat's own connection. Then one of the ledger's renews, by way of its loop. A trigger
of the application may fail the statement for one row. Then the rows are renewed one by one, and that row last from then on.

Invariant: only claims that still own their rows are renewed, and only before their leases end.

Next: `receiver.record.sql.leases`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from receiver.errors import DatabaseUnavailable, OutOfConnections
from receiver.record.sql import leases
from receiver.record.sqlstates import NotConnected, is_of_some_row
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from receiver.endings.calls import ClaimKey
    from receiver.record.connections import RecordConnection
    from receiver.record.database import Executor


@dataclass(frozen=True, slots=True)
class Renewed:
    """What became of leases; those in no set are lost.

    Attributes:
        locked: still ours. Somebody locks the row, and nobody can claim it meanwhile.
        failed: for an error of one row alone.
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
        self._failing: set[ClaimKey] = set()
        self.lent: Executor | None = None

    async def connect(self) -> None:
        """Opens the connection ahead of its first use, if PostgreSQL gives one now."""
        with suppress(DatabaseUnavailable):
            await self._own.open()

    async def renew(self, keys: Sequence[ClaimKey]) -> Renewed:
        """Renews the leases of these claims; raises as `RecordConnection.fetch`."""
        try:
            return await self._renew(self._own, keys)
        except (OutOfConnections, NotConnected) as error:
            if self.lent is None:
                raise
            self._emit(ReceiverTrouble("the heartbeat renews by the ledger's connections", str(error)))
            return await self._renew(self.lent, keys)

    async def _renew(self, executor: Executor, keys: Sequence[ClaimKey]) -> Renewed:
        alone = [key for key in keys if key in self._failing]
        together = [key for key in keys if key not in self._failing]
        done: set[ClaimKey] = set()
        try:
            if together:
                done = await leases.renew(executor, together, lease=self._lease)
        except Exception as error:
            if not is_of_some_row(error):
                raise
            alone = together + alone
        errors: dict[ClaimKey, Exception] = {}
        for key in alone:
            try:
                done |= await leases.renew(executor, [key], lease=self._lease)
            except Exception as error:
                if not is_of_some_row(error):
                    raise
                errors[key] = error
        if len(errors) == len(keys):
            raise next(iter(errors.values()))
        self._failing = (self._failing & set(keys)) | errors.keys()
        for key, why in errors.items():
            self._emit(ReceiverTrouble("lease not renewed", str(why), key.task_id))
        missing = [key for key in keys if key not in done and key not in errors]
        locked = await leases.find_live(executor, missing) if missing else set()
        return Renewed(done, locked, set(errors))
