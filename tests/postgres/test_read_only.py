"""A moment in which PostgreSQL takes no writes costs no attempt, and nothing of it stays behind."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from receiver import TaskContext
from receiver.endings.outcomes import HandedBack, Succeeded
from receiver.errors import DatabaseUnavailable
from tests.postgres.conftest import Instances
from tests.postgres.record import Instance, Look, call, connect, route
from tests.stage.waiting import eventually

WRITABLE = "default_transaction_read_only=off"


@pytest.fixture
async def database(look: Look) -> AsyncIterator[Database]:
    """The database, which may be made read-only."""
    made = Database(look)
    yield made
    await made.obeys("off")


class Database:
    """A server whose sessions take no writes, as those of a standby."""

    def __init__(self, look: Look) -> None:
        self._look = look

    async def obeys(self, setting: str) -> None:
        """`default_transaction_read_only` of every session, those that are open already too."""
        await self._look.execute("SET default_transaction_read_only = off")
        await self._look.execute(f"ALTER SYSTEM SET default_transaction_read_only = {setting}")
        await self._look.execute("SELECT pg_reload_conf()")


async def in_force(url: str, setting: str) -> None:
    """Returns when new sessions have it so."""

    async def seen() -> bool:
        connection = await connect(url)
        try:
            found: str = await connection.fetchval("SHOW default_transaction_read_only")
        finally:
            await connection.close()
        return found == setting

    await eventually(seen)


async def writes(ctx: TaskContext) -> None:
    connection = await ctx.connection()
    await connection.execute(text("CREATE TEMP TABLE mine (id int) ON COMMIT DROP"))


@pytest.fixture
def instance(instances: Instances, database_url: str) -> Instance:
    """One whose ledger may write all the time."""
    sign = "&" if "?" in database_url else "?"
    return instances(url=f"{database_url}{sign}{WRITABLE}", tasks_url=database_url, pool_size=3)


async def test_tasks_cost_no_attempt_and_find_a_good_pool_afterwards(
    instance: Instance, look: Look, database: Database, database_url: str
) -> None:
    """Connections from before and from within that moment are closed when a task gets them."""
    assert isinstance(await instance.run("before", writes), Succeeded)
    await database.obeys("on")
    await in_force(database_url, "on")
    declared = route(writes, max_attempts=1)
    for fence in (1, 2, 3):
        ending = await instance.finish(await instance.claim("meanwhile", declared))
        assert ending == HandedBack("connection for the task")
        assert await look.state("meanwhile") == ("READY", False, 0, fence)
    await database.obeys("off")
    await in_force(database_url, "off")
    assert isinstance(await instance.finish(await instance.claim("meanwhile", declared)), Succeeded)
    assert await look.state("meanwhile") == ("SUCCESSFUL", True, 1, 4)


async def test_a_connection_that_stays_read_only_is_closed(
    instance: Instance, look: Look, database_url: str
) -> None:
    """Opened in that moment, it would refuse every task's writes until the process ends."""
    name = database_url.partition("?")[0].rpartition("/")[2]
    await look.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        first = await instance.run("first", writes, max_attempts=1)
    finally:
        await look.execute("SET default_transaction_read_only = off")
        await look.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert first == HandedBack("connection for the task")
    assert isinstance(await instance.run("first", writes, max_attempts=1), Succeeded)
    assert await look.state("first") == ("SUCCESSFUL", True, 1, 2)


async def test_the_ledger_opens_another_connection(
    instances: Instances, look: Look, database: Database, database_url: str
) -> None:
    """Nothing was done, so that nothing is looked for; the next delivery finds a server that takes writes."""
    plain = instances(url=database_url)
    await plain.claim("open")
    before = await look.others("receiver ledger")
    await database.obeys("on")
    await in_force(database_url, "on")
    with pytest.raises(DatabaseUnavailable, match="25006"):
        await plain.ledger.claim(call("refused"))
    assert before == 1
    await database.obeys("off")
    await in_force(database_url, "off")
    claimed = await plain.claim("refused")
    assert (claimed.fence, claimed.attempt) == (1, 1)
