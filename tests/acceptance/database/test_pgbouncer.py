"""The contract, tasks' transactions, takeover and migrations behind a real PgBouncer that pools transactions.

With `TASKS_DB_PREPARED_STATEMENTS=off`, and PgBouncer as docs/operate/pooler.md sets it. What a test looks at, it looks at directly.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from receiver.emulator import push_client as pusher
from receiver.emulator.signer import Signer
from receiver.errors import DatabaseUnavailable, OutOfConnections
from receiver.record import schema_check
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from tests.acceptance.delivery import contract
from tests.acceptance.delivery.contract import CASES, ENVIRONMENTS, Case, Profile
from tests.acceptance.delivery.playing import plays_out
from tests.stage.commands import run_command
from tests.stage.instance import Instance
from tests.stage.pgbouncer import SETTINGS, NoPgBouncerError, pooling, program, through
from tests.stage.receivers import Stage, new_instance
from tests.stage.record import Record
from tests.stage.servers import LocalServer
from tests.stage.waiting import eventually

OFF = {"TASKS_DB_PREPARED_STATEMENTS": "off"}
EXCEPTIONS = {
    "PostgreSQL's slots": "once it knows the server, it keeps the service waiting and then ends its connection: 500, as for a database that is down",
    "after the database came back": "PgBouncer itself looks again only after server_login_retry",
}
BEHIND = [
    case
    for case in CASES
    if case.ending is not contract.FORBIDDEN  # the database is not asked
    and not case.name.startswith("malformed: ")  # likewise, but for keeping it, which "unknown task" does too
    and case.name not in EXCEPTIONS
]


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    try:
        program()
    except NoPgBouncerError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def port(postgres_server: LocalServer) -> Iterator[int]:
    """A PgBouncer before the session's PostgreSQL."""
    with pooling(postgres_server) as found:
        yield found


@pytest.fixture(scope="module")
def fragile_port(own_postgres: LocalServer) -> Iterator[int]:
    """A PgBouncer before the PostgreSQL that is halted and filled up."""
    with pooling(own_postgres) as found:
        yield found


class Receivers:
    """One process a profile, started when the first case needs it."""

    def __init__(self, stack: ExitStack, request: pytest.FixtureRequest) -> None:
        self._stack = stack
        self._request = request
        self._running: dict[Profile, tuple[Instance, str, LocalServer]] = {}

    def of(self, profile: Profile) -> tuple[Instance, str, LocalServer]:
        """The receiver, its database's own address, and the server."""
        if profile not in self._running:
            self._running[profile] = self._started(profile)
        return self._running[profile]

    def _started(self, profile: Profile) -> tuple[Instance, str, LocalServer]:
        ask = self._request.getfixturevalue
        fragile = profile is Profile.FRAGILE
        server: LocalServer = ask("own_postgres" if fragile else "postgres_server")
        url: str = server.url() if fragile else ask("shared_database_url")
        pooled = through(url, ask("fragile_port" if fragile else "port"))
        env = {**ENVIRONMENTS[profile], **OFF}
        instance = new_instance(pooled, ask("signer"), ask("certs_url"), ask("folder"), env)
        return self._stack.enter_context(instance), url, server


@pytest.fixture(scope="module")
def receivers(request: pytest.FixtureRequest) -> Iterator[Receivers]:
    with ExitStack() as stack:
        yield Receivers(stack, request)


@pytest.mark.slow
@pytest.mark.parametrize("case", BEHIND, ids=lambda case: f"{case.ending.status}-{case.name}")
async def test_a_delivery_ends_as_the_contract_says(
    case: Case, receivers: Receivers, folder: Path, label: str
) -> None:
    instance, url, postgres = await asyncio.to_thread(receivers.of, case.profile)
    await eventually(
        lambda: _served(instance.environ["DATABASE_URL"])
    )  # a case before may have halted the server
    await plays_out(case, Stage(instance, Record(url), folder, postgres, label))


async def _served(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, statement_cache_size=0)
        try:
            return bool(await connection.fetchval("SELECT true"))
        finally:
            connection.terminate()
    except (OSError, asyncpg.PostgresError):
        return False


async def test_an_execution_whose_instance_was_killed_is_taken_over(
    database_url: str,
    port: int,
    signer: Signer,
    certs_url: str,
    folder: Path,
    postgres_server: LocalServer,
    label: str,
) -> None:
    env = {**OFF, "TASKS_LEASE_SECONDS": "2"}
    record, body = Record(database_url), pusher.message("wait", kwargs={"label": label}, task_id=label)
    pooled = through(database_url, port)
    with (
        new_instance(pooled, signer, certs_url, folder, env) as first,
        new_instance(pooled, signer, certs_url, folder, env) as second,
    ):
        stage = Stage(second, record, folder, postgres_server, label)
        doomed = asyncio.create_task(asyncio.to_thread(first.pusher().send, body))
        await stage.called()
        first.kill()
        await asyncio.gather(doomed, return_exceptions=True)
        stage.let_go()

        async def taken_over() -> bool:
            answer = await stage.push(body)
            assert answer.status in {200, 429}
            return answer.status == 200

        await eventually(taken_over)
    row = await record.row(label)
    assert row is not None
    assert (row["status"], row["attempt"], stage.calls()) == ("SUCCESSFUL", 1, 2)


def test_migrate_check_and_executions_go_through_it(empty_database_url: str, port: int) -> None:
    def run(*arguments: str) -> str:
        environ = {**os.environ, "DATABASE_URL": through(empty_database_url, port), **OFF}
        done = run_command(*arguments, cwd=Path.cwd(), env=environ)
        return f"{done.returncode} {done.stdout}{done.stderr}"

    assert run("migrate", "--check").startswith("1 behind")
    assert run("migrate") == f"0 migrated: nothing → {schema_check.HEAD}\n"
    assert run("migrate") == f"0 up to date at {schema_check.HEAD}\n"
    assert "no executions" in run("executions", "list")


async def test_it_is_transactions_that_are_pooled(database_url: str, port: int) -> None:
    """Or these tests would show nothing: a connection that begins with settings is refused, as the driver makes it else."""
    url = through(database_url, port)
    with pytest.raises(asyncpg.PostgresError, match="unsupported startup parameter"):
        await asyncpg.connect(url, server_settings={"lock_timeout": "1s"})
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        async with connection.transaction():
            first = await connection.fetchval("SELECT pg_backend_pid()")
            other = await asyncpg.connect(url, statement_cache_size=0)
            async with other.transaction():
                assert await other.fetchval("SELECT pg_backend_pid()") != first
            await other.close()
    finally:
        await connection.close()


@pytest.mark.parametrize("full", ["PostgreSQL", "PgBouncer"])
async def test_a_lack_of_slots_that_it_passes_on_is_no_broken_database(full: str) -> None:
    """It says so under a SQLSTATE of its own, 08P01, which otherwise means a database that is down: 429, not 500."""
    taken: list[asyncpg.Connection[asyncpg.Record]] = []
    with LocalServer(settings={"max_connections": "8"}) as server, pooling(server) as port:
        pooled = through(server.url(), port)
        url = server.url() if full == "PostgreSQL" else pooled
        refused = ""
        while not refused:
            try:
                taken.append(await asyncpg.connect(url, statement_cache_size=0))
            except asyncpg.PostgresError as error:
                refused = str(error)
        assert "too many clients" in refused or "no more connections allowed" in refused
        connection = RecordConnection(Database.of(pooled, prepared_statements=False), "connection")
        with pytest.raises(OutOfConnections):
            await connection.fetch("SELECT 1")
        for other in taken:
            other.terminate()

        async def served() -> bool:
            try:
                return bool(await connection.fetch("SELECT 1"))
            except DatabaseUnavailable:  # server_login_retry has not passed
                return False

        await eventually(served)
        await connection.close()


def test_the_page_names_these_settings(project_root: Path) -> None:
    page = (project_root / "docs" / "operate" / "pooler.md").read_text()
    assert [name for name, value in SETTINGS.items() if f"{name} = {value}" not in page] == []
