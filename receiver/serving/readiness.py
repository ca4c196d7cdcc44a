"""Whether this instance can serve: the state of the database, of its tables, and of the certificates.

It is asked once before the port is opened, where older tables are refused, and then by each request to /ready. A database that
is away, silent or read-only does not stop a start: it may recover.
"""

from __future__ import annotations

import asyncio
import time

from receiver.delivery.certificates import Certificates
from receiver.errors import DatabaseUnavailable, SchemaError
from receiver.record import schema_check
from receiver.record.database import Executor
from receiver.record.sqlstates import LoginRefused
from receiver.record.tls import TlsFailed
from receiver.telemetry.events import Emit, ReceiverTrouble, ServiceState

GOOD_FOR = 1.0
"""Seconds for which a good answer is given again."""

CHECK_TIMEOUT = 2.0
"""Seconds that a start waits for the database: Cloud Run's start-up probe waits for the port."""

LONGEST_RETRY_PAUSE = 30.0
"""Seconds between two checks of a database that was away at start."""


class Readiness:
    """The readiness of one instance. `certificates` is None where push authentication is off."""

    def __init__(self, executor: Executor, certificates: Certificates | None, emit: Emit) -> None:
        self._executor = executor
        self._certificates = certificates
        self._emit = emit
        self._looking = asyncio.Lock()
        self._seen: tuple[float, dict[str, str] | None] = (0.0, None)
        self._checked = False
        self._later: asyncio.Task[None] | None = None

    async def check_schema(self) -> None:
        """Refuses tables that are older than this code or that this role may not use. Once, and within `CHECK_TIMEOUT`.

        When the database does not answer, it is checked again in the background until it does; the log then has the result.

        Raises:
            SchemaError: run `receiver migrate`, or grant what it names.
        """
        if self._checked:
            return
        self._checked = True
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await schema_check.check(self._executor)
        except (DatabaseUnavailable, TimeoutError) as error:
            why = str(error) or f"it has not answered for {CHECK_TIMEOUT:g} s"
            self._emit(ReceiverTrouble("the database cannot be used yet", why))
            self._later = asyncio.create_task(self._check_later(), name="check the schema")

    async def look(self) -> dict[str, str]:
        """`database`, `schema` and `certificates`, each "ok" or what is wrong, in one constant phrase.

        Anybody may ask. One check runs at a time and a good answer is kept for a second, so that requests cost the claims nothing.
        """
        async with self._looking:
            at, found = self._seen
            if found is None or time.monotonic() - at > GOOD_FOR:
                found = await self._look()
                good = all(state == "ok" for state in found.values())
                self._seen = (time.monotonic(), found if good else None)  # a recovery shows at once
        return found

    def close(self) -> None:
        """Stops the check in the background."""
        if self._later is not None:
            self._later.cancel()

    async def _check_later(self) -> None:
        pause = CHECK_TIMEOUT
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_RETRY_PAUSE)
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
        except LoginRefused:
            found |= {"database": "login refused", "schema": "unknown"}
        except DatabaseUnavailable as error:
            why = str(error) if isinstance(error, TlsFailed) else "unavailable"
            found |= {"database": why, "schema": "unknown"}
        if self._certificates is not None and not await self._certificates.ready():
            found["certificates"] = "unavailable"
        return found
