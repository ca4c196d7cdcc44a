"""May this instance serve: what is known of the database, of its tables, and of the certificates.

Asked once before anything is listened for, where older tables are refused, and then by whoever asks /ready. A database that
is away, silent or read-only is never a reason to refuse, nor to keep anybody waiting for long: it may recover.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from receiver.errors import DatabaseUnavailable, SchemaError
from receiver.record import schema_check
from receiver.record.tls import TlsFailed
from receiver.telemetry.events import Emit, ReceiverTrouble, ServiceState

if TYPE_CHECKING:
    from receiver.delivery.certificates import Certificates
    from receiver.record.database import Executor

AGE = 1.0
"""Seconds for which a good answer is given again."""

PATIENCE = 2.0
"""Seconds at start for the database to say how old its tables are: Cloud Run's start-up probe waits for the port."""

PAUSE = 30.0
"""Seconds, at most, between two looks at a database that was away at start."""


class Readiness:
    """One instance's. `executor` reaches the database; `certificates` is None with push authentication off."""

    def __init__(self, executor: Executor, certificates: Certificates | None, emit: Emit) -> None:
        self._executor = executor
        self._certificates = certificates
        self._emit = emit
        self._looking = asyncio.Lock()
        self._seen: tuple[float, dict[str, str] | None] = (0.0, None)
        self._checked = False
        self._later: asyncio.Task[None] | None = None

    async def check_schema(self) -> None:
        """Refuses tables that are older than this code, or not ours to use; once, and within `PATIENCE`.

        A database that cannot be asked is looked at again in the background until it can; the log then says what it holds.

        Raises:
            SchemaError: run `receiver migrate`, or grant what it names.
        """
        if self._checked:
            return
        self._checked = True
        try:
            async with asyncio.timeout(PATIENCE):
                await schema_check.check(self._executor)
        except (DatabaseUnavailable, TimeoutError) as error:
            why = str(error) or f"it has not answered for {PATIENCE:g} s"
            self._emit(ReceiverTrouble("the database cannot be used yet", why))
            self._later = asyncio.create_task(self._check_later(), name="check the schema")

    async def look(self) -> dict[str, str]:
        """`database`, `schema` and `certificates`, each "ok" or what is wrong, in one constant phrase.

        Anybody may ask: one look at a time, and a good one stands for a second, so that asking takes nothing from the claims.
        """
        async with self._looking:
            at, found = self._seen
            if found is None or time.monotonic() - at > AGE:
                found = await self._look()
                good = all(state == "ok" for state in found.values())
                self._seen = (time.monotonic(), found if good else None)  # what mends is seen at once
        return found

    def close(self) -> None:
        """Looks no more."""
        if self._later is not None:
            self._later.cancel()

    async def _check_later(self) -> None:
        pause = PATIENCE
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE)
            try:
                await schema_check.check(self._executor)
            except DatabaseUnavailable:
                continue
            except SchemaError as error:
                self._emit(ReceiverTrouble("not ready", str(error)))
            else:
                self._emit(ServiceState("the database can be used now"))
            return

    async def _look(self) -> dict[str, str]:
        found = {"database": "ok", "schema": "ok", "certificates": "ok"}
        try:
            await schema_check.check(self._executor)
        except SchemaError as error:
            found["schema"] = error.state
        except schema_check.ReadOnly:
            found["database"] = "read-only"
        except DatabaseUnavailable as error:
            why = str(error) if isinstance(error, TlsFailed) else "unavailable"
            found |= {"database": why, "schema": "unknown"}
        if self._certificates is not None and not await self._certificates.ready():
            found["certificates"] = "unavailable"
        return found
