"""Commits that wait for a standby: what a delivery is answered must be there after a failover, and nothing ends that never ran."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from receiver import TaskContext
from receiver.endings.calls import ClaimKey
from receiver.endings.outcomes import Succeeded
from receiver.errors import DatabaseUnavailable
from receiver.record.connections import RecordConnection, RecordPool
from receiver.record.database import Database, Executor
from receiver.record.lost_claims import LostClaims
from receiver.record.migrations import upgrade
from receiver.record.sql import claims, dead_letters, outbox, rejected, settlements, verdicts
from receiver.record.sql.claims import ClaimItem
from receiver.record.sql.outbox import NewRow
from tests.postgres.conftest import Instances
from tests.postgres.record import TOKEN, WHOSE, Look, call, connect, identity, noop, route
from tests.stage.proxy import Proxy
from tests.stage.servers import LocalServer
from tests.stage.standby import HeldCommits
from tests.stage.waiting import eventually

CONTESTED = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name = 'receiver ledger' AND wait_event_type = 'Lock' AND query LIKE '%task_attempts%'
"""


@pytest.fixture(scope="module")
def url(own_server: LocalServer) -> Iterator[str]:
    """A superuser's address of a record on a server of our own."""
    own_server.create_database("standbys")
    upgrade(Database.of(own_server.url("standbys")))
    yield own_server.url("standbys")
    own_server.drop_database("standbys")


@pytest.fixture
async def commits(url: str) -> AsyncIterator[HeldCommits]:
    """The commits of that server."""
    async with HeldCommits(url) as commits:
        yield commits


@pytest.fixture
async def look(commits: HeldCommits) -> AsyncIterator[Look]:
    """That record, seen from outside; empty at first."""
    connection = await connect(commits.url)
    await connection.execute(
        "TRUNCATE task_executions CASCADE; DROP TABLE IF EXISTS effects; CREATE TABLE effects ()"
    )
    yield Look(connection)
    await connection.close()


async def write_effect(ctx: TaskContext) -> None:
    """What a task writes that must not be lost."""
    await (await ctx.connection()).execute(text("INSERT INTO effects DEFAULT VALUES"))


async def test_a_commit_that_nobody_waits_for_any_longer_goes_on_waiting_for_the_standby(
    commits: HeldCommits, look: Look, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled, it would be visible at once, on the primary alone, and be taken for a success."""
    monkeypatch.setattr("receiver.record.task_transaction.COMMIT_DEADLINE", 0.3)
    instance = instances(url=commits.url)

    async def work(ctx: TaskContext) -> None:
        await write_effect(ctx)
        await commits.begin()

    running = asyncio.create_task(instance.run("waits", work))
    await eventually(lambda: commits.waiting("receiver task"))
    # The COMMIT's own time is over, and its fate is contested.
    await eventually(lambda: running.done() or look.value(CONTESTED))
    assert await commits.waiting("receiver task") == 1
    assert await look.state("waits") == ("RUNNING", False, 1, 1)
    assert await look.value("SELECT count(*) FROM effects") == 0
    assert not running.done()
    await commits.end()
    assert isinstance(await running, Succeeded)
    assert await look.value("SELECT count(*) FROM effects") == 1


async def test_a_commit_whose_request_is_cancelled_goes_on_waiting_for_the_standby(
    commits: HeldCommits, look: Look, instances: Instances
) -> None:
    instance = instances(url=commits.url)

    async def work(ctx: TaskContext) -> None:
        await write_effect(ctx)
        await commits.begin()

    running = asyncio.create_task(instance.run("cancelled", work))
    await eventually(lambda: commits.waiting("receiver task"))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await arrived(commits)
    assert await commits.waiting("receiver task") == 1
    assert await look.value("SELECT count(*) FROM effects") == 0


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("how", ["cancelled", "too late", "closed"])
async def test_a_statement_that_nobody_waits_for_any_longer_goes_on_waiting_for_the_standby(
    commits: HeldCommits, look: Look, how: str, *, prepared: bool
) -> None:
    """It has been carried out, and waits in its own COMMIT."""
    database = Database.of(commits.url, prepared_statements=prepared)
    connection = RecordConnection(database, "ours", deadline=0.5 if how == "too late" else 10)
    await connection.fetch("SELECT 1")
    await commits.begin()
    writing = asyncio.create_task(connection.fetch("INSERT INTO effects DEFAULT VALUES"))
    await eventually(lambda: commits.waiting("ours"))
    if how == "cancelled":
        writing.cancel()
    elif how == "closed":
        await connection.close()
    with pytest.raises((DatabaseUnavailable, asyncio.CancelledError)):
        await writing
    await arrived(commits)
    assert await commits.waiting("ours") == 1
    assert await look.value("SELECT count(*) FROM effects") == 0


async def arrived(commits: HeldCommits) -> None:
    """Returns when what this process has sent before has reached the server: PostgreSQL takes connections in turn."""
    for _ in range(3):
        connection = await connect(commits.url)
        await connection.fetch("SELECT 1")
        await connection.close()


# --- what is answered by looking ----------------------------------------------------------------------------------


async def _claim(executor: Executor) -> bool:
    terms: dict[str, Any] = {"whose": WHOSE, "owner": "here", "lease": timedelta(seconds=60)}
    found = await claims.claim(executor, [ClaimItem.of(call("seen"))], token=uuid4(), **terms)
    return found["seen"].verdict == "done"


async def _is_done(executor: Executor) -> bool:
    return await verdicts.is_done(executor, "seen", call("seen").route, whose=WHOSE)


async def _is_final(executor: Executor) -> bool:
    return await rejected.is_final(executor, identity("seen"), whose=WHOSE)


async def _take_back(executor: Executor) -> bool:
    """A dead letter of it."""
    terms: dict[str, Any] = {"whose": WHOSE, "max_attempts": None, "known": True, "published": None}
    return await dead_letters.take_back(executor, ["seen"], ["noop"], **terms) == {"seen": "done"}


async def _find_status(executor: Executor) -> bool:
    key = ClaimKey("seen", 1, TOKEN)
    return await settlements.find_status(executor, [key]) == {key: "SUCCESSFUL"}


async def _insert(executor: Executor) -> bool:
    row = NewRow("seen", "noop", route(noop).path, "[]", "{}")
    return set(await outbox.insert(executor, [row], whose=WHOSE, ours=None)) == {"seen"}


async def _find_claimed(executor: Executor) -> bool:
    return set(await claims.find_claimed(executor, [ClaimItem.of(call("seen"))], TOKEN)) == {"seen"}


@pytest.mark.parametrize(
    "ask", [_claim, _is_done, _is_final, _take_back, _find_status, _insert, _find_claimed]
)
async def test_what_is_answered_by_looking_waits_for_the_standby_too(
    commits: HeldCommits, look: Look, ask: Callable[[Executor], Coroutine[Any, Any, bool]]
) -> None:
    """The end of the execution, or its claim, is visible on the primary alone: a failover would undo it."""
    await commits.begin()
    status = "RUNNING" if ask is _find_claimed else "SUCCESSFUL"
    seeding = asyncio.create_task(look.seed("seen", status))
    await commits.cut_short("")
    await seeding
    connection = RecordConnection(Database.of(commits.url), "asks")
    asking = asyncio.create_task(ask(connection))
    await eventually(lambda: asking.done() or commits.waiting("asks"))
    assert not asking.done()
    await commits.end()
    assert await asking
    await connection.close()


# --- claims without an answer -------------------------------------------------------------------------------------


async def test_a_claim_whose_commit_waits_for_longer_than_a_lease_is_handed_back(
    commits: HeldCommits, look: Look, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk or a standby hangs. Nobody runs what is claimed then: its only attempt is still to come, and no process has crashed."""
    monkeypatch.setattr("receiver.record.lost_claims.LOOK_PAUSE", 0.05)
    lease = timedelta(seconds=0.5)
    once = route(max_attempts=1)
    with Proxy(commits.url) as proxy:
        instance = instances(url=proxy.url, lease=lease)
        await instance.claim("warm")
        await commits.begin()
        claiming = asyncio.create_task(instance.ledger.claim(call("unanswered", once)))
        await eventually(lambda: commits.waiting("receiver ledger"))
        claimed = time.monotonic()
        proxy.cut()
        with pytest.raises(DatabaseUnavailable):
            await claiming
        await eventually(lambda: time.monotonic() > claimed + 2 * lease.total_seconds())
        assert await look.find("unanswered") is None
        await commits.end()
        await eventually(lambda: _is_ready(look, "unanswered"))
        assert await look.state("unanswered") == ("READY", False, 0, 1)
        assert (await look.row("unanswered"))["crashes"] == 0
        await instance.close()


async def _is_ready(look: Look, task_id: str) -> bool:
    row = await look.find(task_id)
    return row is not None and row["status"] == "READY"


async def test_a_claim_is_not_looked_for_as_long_as_another_connection_has_the_number_of_its_process(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new primary gives out numbers of its own. Whoever has this one now is idle, and stays for days."""
    monkeypatch.setattr("receiver.record.lost_claims.LOOK_PAUSE", 0.05)
    other = await connect(url)
    pool = RecordPool(Database.of(url), size=1, application="receiver ledger", wait=10)
    lost = LostClaims(pool, instance="i", lease=timedelta(seconds=0.2), emit=lambda _: None)
    [asking] = await pool.fetch("SELECT pg_backend_pid() AS pid")
    for number in (other.get_server_pid(), asking["pid"]):
        lost.expect(["gone"], TOKEN, number)
    await eventually(lambda: not lost._looks, patience=10)
    await pool.close()
    await other.close()


# --- synchronous_commit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("off", "on"),
        ("local", "on"),
        ("on", "on"),
        ("remote_write", "remote_write"),
        ("remote_apply", "remote_apply"),
    ],
)
async def test_the_record_commits_for_good_whatever_the_database_is_set_to(
    commits: HeldCommits, look: Look, given: str, used: str, *, prepared: bool
) -> None:
    name = await look.value("SELECT current_database()")
    await look.execute(f"ALTER DATABASE {name} SET synchronous_commit = {given}")
    try:
        connection = RecordConnection(Database.of(commits.url, prepared_statements=prepared), "ours")
        [row] = await connection.fetch("SELECT current_setting('synchronous_commit') AS used")
        assert row["used"] == used
        await connection.close()
    finally:
        await look.execute(f"ALTER DATABASE {name} RESET synchronous_commit")


async def test_a_task_that_wants_a_quick_commit_gets_one_that_lasts(
    commits: HeldCommits, look: Look, instances: Instances
) -> None:
    instance = instances(url=commits.url)

    async def work(ctx: TaskContext) -> None:
        await write_effect(ctx)
        await (await ctx.connection()).execute(text("SET LOCAL synchronous_commit = off"))
        await commits.begin()

    running = asyncio.create_task(instance.run("quick", work))
    await eventually(lambda: running.done() or commits.waiting("receiver task"))
    assert not running.done()
    await commits.end()
    assert isinstance(await running, Succeeded)
