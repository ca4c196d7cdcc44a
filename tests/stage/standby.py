"""Commits that wait for a standby, and a primary with its synchronous standby."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import asyncpg

from tests.stage import servers
from tests.stage.servers import LocalServer
from tests.stage.waiting import eventually

PROBE: Final = "SELECT pg_logical_emit_message(true, 'probe', '')"

WAITS: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event = 'SyncRep' AND datname = current_database() AND application_name = $1
"""

CUT_SHORT: Final = """
SELECT pg_cancel_backend(pid) FROM pg_stat_activity
WHERE wait_event = 'SyncRep' AND datname = current_database() AND application_name = $1
"""


class HeldCommits:
    """Lets every COMMIT of a server wait, as it does while a synchronous standby is away. To the receiver a hanging fsync looks the same.

    Args:
        url: a superuser's address of the database that is looked at.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._asking = asyncio.Lock()
        self._probing: asyncio.Future[Any] | None = None

    async def __aenter__(self) -> Self:
        self._connection: Any = await asyncpg.connect(self.url)
        self._probe: Any = await asyncpg.connect(self.url, server_settings={"application_name": "probe"})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        await self.end()
        await self._connection.close()
        await self._probe.close()

    async def begin(self) -> None:
        """Returns once commits wait."""
        await self._await("nobody")
        while not self._probing or self._probing.done():  # the server may not have read the setting yet
            self._probing = asyncio.ensure_future(self._probe.execute(PROBE))
            await eventually(self._probed)

    async def end(self) -> None:
        """Lets them all go."""
        await self._await("")
        if self._probing:
            await self._probing

    async def cut_short(self, application: str) -> None:
        """Ends the wait of an application's COMMITs, as CancelRequest does: they are visible, and on no standby."""
        await eventually(lambda: self.waiting(application))
        async with self._asking:
            await self._connection.fetch(CUT_SHORT, application)

    async def waiting(self, application: str) -> int:
        """How many COMMITs of an application wait."""
        async with self._asking:
            count: int = await self._connection.fetchval(WAITS, application)
        return count

    async def _probed(self) -> bool:
        return self._probing is not None and (self._probing.done() or await self.waiting("probe") > 0)

    async def _await(self, names: str) -> None:
        async with self._asking:
            await self._connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
            await self._connection.execute("SELECT pg_reload_conf()")


class _Standby(LocalServer):
    """Its data, and with it the password, are the primary's."""

    def _set_password(self) -> None:
        pass


class Pair:
    """A primary and a standby that its commits wait for, also while it is away.

    Args:
        settings: further parameters of both servers.
    """

    def __init__(self, **settings: str) -> None:
        self._settings = settings
        self.primary = servers.own(**settings)
        self.standby: LocalServer | None = None
        self._are_parted = False

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.primary.start)
        await self._join()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._stop)

    async def part(self) -> None:
        """The standby is away: commits wait."""
        await asyncio.to_thread(self._other.halt, "immediate")
        self._are_parted = True

    async def meet(self) -> None:
        """The standby is back."""
        await asyncio.to_thread(self._other.resume)
        self._are_parted = False

    async def fail_over(self) -> str:
        """The primary is gone for good. The address of the standby, which has taken its place."""
        await asyncio.to_thread(self.primary.halt, "immediate")
        if self._are_parted:
            await self.meet()
        await _execute(self._other.url(), "SELECT pg_promote()")
        return self._other.url()

    async def renew(self) -> None:
        """The standby that has taken over is the primary from now on, and gets a standby of its own. It restarts for that."""
        former, self.primary, self.standby = self.primary, self._other, None
        await asyncio.to_thread(_remove, former)
        await _execute(self.primary.url(), "ALTER SYSTEM RESET synchronous_standby_names")
        await self._join()

    @property
    def _other(self) -> LocalServer:
        assert self.standby is not None
        return self.standby

    async def _join(self) -> None:
        """Adds a standby, and returns when commits wait for it."""
        await asyncio.to_thread(self._copy)
        await _execute(
            self.primary.url(),
            "ALTER SYSTEM SET synchronous_standby_names = 'standby'",
            "SELECT pg_reload_conf()",
        )
        connection: Any = await asyncpg.connect(self.primary.url())
        await eventually(lambda: connection.fetchval("SELECT sync_state = 'sync' FROM pg_stat_replication"))
        await connection.close()

    def _copy(self) -> None:
        """The standby begins as a copy of the primary's folder."""
        self.primary.halt("fast")
        folder = Path(f"{self.primary.folder}-standby")
        shutil.copytree(self.primary.folder, folder)
        (folder / "data" / "standby.signal").touch()
        owner = (self.primary.folder / "data").stat()
        for path in (folder / "data", *(folder / "data").rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        self.primary.resume()
        here = urlsplit(self.primary.url())
        conninfo = f"host={here.hostname} port={here.port} user={here.username} password={here.password}"
        settings = self._settings | {"primary_conninfo": f"{conninfo} application_name=standby"}
        self.standby = _Standby(folder, settings=settings, programs=servers.PROGRAMS, password=here.password)
        self.standby.start()

    def _stop(self) -> None:
        for server in (self.standby, self.primary):
            if server is not None:
                _remove(server)


def _remove(server: LocalServer) -> None:
    """Ends it, with its data."""
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


async def _execute(url: str, *statements: str) -> None:
    connection: Any = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()
