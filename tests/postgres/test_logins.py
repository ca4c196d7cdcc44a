"""How connections log in: a password that is changed, tokens of Cloud SQL's IAM login, sockets, and proxies that hang up."""

from __future__ import annotations

import asyncio
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from google.auth.compute_engine import _metadata
from sqlalchemy import text

from receiver.endings.calls import ClaimKey
from receiver.enqueue import PubSubBackend
from receiver.errors import OutOfConnections, SettingError
from receiver.local_postgres import files
from receiver.local_postgres.server import Postgres, free_port
from receiver.reading import queries
from receiver.record import logins, migrations
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sqlstates import LoginRefused, NotConnected
from receiver.record.task_pool import TaskPool
from receiver.record.task_transaction import TaskTransaction
from receiver.record.tls import TlsFailed
from receiver.settings import Settings
from tests.postgres.outbox import Published, mail
from tests.postgres.record import TOKEN
from tests.stage import servers
from tests.stage.metadata import Metadata, metadata
from tests.stage.proxy import Proxy

ROLE, FIRST, SECOND = "app", "first password", "second password"
SERVICE_ACCOUNT = "us@shop.iam"
INSTANCE = "cloudsql/shop:europe-west2:db"
SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"

# A service account's token comes in clear text, as with Cloud SQL.
RULES = f"""
local all all scram-sha-256
host all postgres all trust
host all "{SERVICE_ACCOUNT}" all password
host all all all scram-sha-256
"""


@pytest.fixture(scope="module")
def sockets() -> Iterator[Path]:
    """A folder as Cloud Run mounts it; short, because a socket's path has 107 bytes at most."""
    top = Path(tempfile.mkdtemp(prefix="s-", dir=files.temporary_folder()))
    folder = top / INSTANCE
    folder.mkdir(parents=True)
    for each in (top, top / "cloudsql", folder):
        each.chmod(0o777)
    yield folder
    shutil.rmtree(top)


@pytest.fixture(scope="module")
def server(sockets: Path) -> Iterator[Postgres]:
    """A server that asks for passwords; `postgres` needs none."""
    settings = {"unix_socket_directories": str(sockets), "autovacuum": "off", "max_connections": "20"}
    with servers.own(**settings) as made:
        migrations.upgrade(Database.of(made.url()))
        (made.folder / "pg_hba.conf").write_text(RULES)
        asyncio.run(
            run(
                made,
                f'CREATE ROLE {ROLE} LOGIN; CREATE ROLE "{SERVICE_ACCOUNT}" LOGIN',
                f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}",
                "SELECT pg_reload_conf()",
            )
        )
        yield made


async def run(server: Postgres, *statements: str) -> None:
    connection = await asyncpg.connect(server.url())
    for each in statements:
        await connection.execute(each)
    await connection.close()


async def set_password(server: Postgres, password: str, role: str = ROLE) -> None:
    """A new password; whoever is connected is cut off, as everybody is sooner or later."""
    await run(
        server,
        f"ALTER ROLE \"{role}\" PASSWORD '{password}'",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'",  # noqa: S608 - a name of this module
    )


def url(server: Postgres, *, user: str = f"{ROLE}@", query: str = "") -> str:
    return f"postgresql://{user}127.0.0.1:{server.port}/postgres{query}"


def configured(address: str, **more: str) -> Database:
    return Database.configured(Settings.from_environ({"DATABASE_URL": address} | more))


async def who(database: Database) -> str:
    """The role of a new connection."""
    connection = await database.connect("a test")
    try:
        found: str = await connection.fetchval("SELECT current_user::text")
        return found
    finally:
        await connection.close()


# --- a password that is changed -------------------------------------------------------------------------------------


async def by_record(settings: Settings) -> Callable[[], Awaitable[object]]:
    connection = RecordConnection(Database.configured(settings), "a test")

    async def use() -> None:
        await connection.fetch("SELECT 1")
        await connection.close()

    return use


async def by_tasks(settings: Settings) -> Callable[[], Awaitable[object]]:
    pool = TaskPool(Database.configured(settings), size=1, wait=5)

    async def use() -> None:
        async with pool.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        await pool.engine.dispose()

    return use


async def by_enqueue_in_a_thread(settings: Settings) -> Callable[[], Awaitable[object]]:
    backend = PubSubBackend(settings)

    async def use() -> None:
        await asyncio.to_thread(backend.enqueue, mail.entry("ada"))
        await asyncio.to_thread(backend.close)

    return use


async def by_migrate(settings: Settings) -> Callable[[], Awaitable[object]]:
    return lambda: asyncio.to_thread(migrations.current, Database.configured(settings))


async def by_commands(settings: Settings) -> Callable[[], Awaitable[object]]:
    async def use() -> None:
        async with queries.reading(Database.configured(settings)) as connection:
            await queries.execution(connection, "nothing")

    return use


@pytest.mark.parametrize("ways", [by_record, by_tasks, by_enqueue_in_a_thread, by_migrate, by_commands])
async def test_a_password_in_a_file_is_read_again_when_it_is_refused(
    server: Postgres,
    published: Published,
    tmp_path: Path,
    ways: Callable[[Settings], Awaitable[Callable[[], Awaitable[object]]]],
) -> None:
    file = tmp_path / "password"
    file.write_text(f"{FIRST}\n")
    await set_password(server, FIRST)
    settings = Settings.from_environ(
        {
            "DATABASE_URL": url(server),
            "DATABASE_PASSWORD_FILE": str(file),
            "GCP_PROJECT_ID": "test",
            "PUBSUB_EMULATOR_HOST": published.host,
        }
    )
    use = await ways(settings)
    await use()
    await set_password(server, SECOND)
    file.write_text(SECOND)
    await use()
    file.unlink()
    await set_password(server, FIRST)
    with pytest.raises(LoginRefused, match="password authentication failed"):
        await use()
    file.write_text(FIRST)
    await use()


async def test_a_task_whose_connection_is_refused_is_not_at_fault(server: Postgres) -> None:
    """As when the pool is empty: the delivery gets 429, and the attempt is not counted."""
    await set_password(server, FIRST)
    pool = TaskPool(configured(url(server), DATABASE_PASSWORD=SECOND), size=1, wait=5)
    transaction = TaskTransaction(pool, ClaimKey("t", 1, TOKEN), deadline=time.monotonic() + 60)
    with pytest.raises(OutOfConnections, match="no connection for a task: PostgreSQL refuses the login"):
        await transaction.connection()
    await pool.close()


async def test_a_task_that_asks_while_postgresql_is_away_is_not_at_fault() -> None:
    pool = TaskPool(configured(f"postgresql://app@127.0.0.1:{free_port()}/shop"), size=1, wait=5)
    transaction = TaskTransaction(pool, ClaimKey("t", 1, TOKEN), deadline=time.monotonic() + 60)
    with pytest.raises(OutOfConnections, match=r"no connection for a task: .*Connect call failed"):
        await transaction.connection()
    await pool.close()


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), (b"\n", "does not hold a password"), (b"a\xff", "does not hold a password")],
)
def test_a_file_without_a_password_stops_the_start(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingError, match=says) as refused:
        configured("postgresql://app@db/shop", DATABASE_PASSWORD_FILE=str(file))
    assert str(refused.value).startswith(f"DATABASE_PASSWORD_FILE is '{file}'; ")


def test_one_variable_has_the_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(FIRST)
    with pytest.raises(SettingError, match="unset it or DATABASE_PASSWORD"):
        configured("postgresql://app@db/shop", DATABASE_PASSWORD_FILE=str(file), DATABASE_PASSWORD=FIRST)
    for name in ("DATABASE_PASSWORD", "DATABASE_PASSWORD_FILE"):
        with pytest.raises(SettingError, match=r"^DATABASE_AUTH is 'iam'; unset DATABASE_PASSWORD"):
            configured("postgresql://app@db/shop", DATABASE_AUTH="iam", **{name: str(file)})


@pytest.mark.parametrize("user", [f"{ROLE}@", f"{ROLE}:old@"])
async def test_a_password_that_comes_apart_wins_over_the_addresss(server: Postgres, user: str) -> None:
    await set_password(server, "p@/ %41")
    assert await who(configured(url(server, user=user), DATABASE_PASSWORD="p@/ %41")) == ROLE
    assert await who(Database.of(url(server, user=f"{ROLE}:{quote('p@/ %41', safe='@')}@"))) == ROLE


async def test_a_password_that_cannot_change_is_given_up_after_a_minute_of_refusals(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_password(server, FIRST)
    database = configured(url(server), DATABASE_PASSWORD=FIRST)
    told: list[str] = []
    database.login.on_lasting_refusal = lambda: told.append("now")
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    async def refused() -> None:
        with pytest.raises(LoginRefused):
            await who(database)

    await set_password(server, SECOND)
    await refused()
    now += logins.LASTING
    await set_password(server, FIRST)
    assert await who(database) == ROLE  # it was changed back
    await set_password(server, SECOND)
    await refused()
    now += logins.LASTING - 1
    await refused()
    assert told == []
    now += 1
    await refused()
    await refused()
    assert told == ["now"]


async def test_a_password_that_can_change_is_not_given_up(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text("wrong")
    await set_password(server, FIRST)
    database = configured(url(server), DATABASE_PASSWORD_FILE=str(file))
    told: list[str] = []
    database.login.on_lasting_refusal = lambda: told.append("now")
    monkeypatch.setattr(logins, "LASTING", 0.0)
    with pytest.raises(LoginRefused):
        await who(database)
    assert told == []


async def test_a_role_that_may_not_log_in_is_a_refusal_and_a_missing_database_is_none(
    server: Postgres,
) -> None:
    await run(server, "CREATE ROLE asleep NOLOGIN PASSWORD 'x'")
    with pytest.raises(LoginRefused, match="not permitted"):
        await who(Database.of(url(server, user="asleep:x@")))
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await who(Database.of(servers.no_such_database(server.url())))


def test_the_pools_of_a_process_share_one_login() -> None:
    settings = Settings.from_environ({"DATABASE_URL": "postgresql://app@db/shop"})
    other = Settings.from_environ({"DATABASE_URL": "postgresql://app@db/shop"})
    assert Database.configured(settings).login is Database.configured(settings).login
    assert Database.configured(settings).login is not Database.configured(other).login


# --- Cloud SQL's IAM login ------------------------------------------------------------------------------------------


@pytest.fixture
async def machine(
    server: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Metadata]:
    """A machine of Google's; its account's first token is the role's password."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with metadata() as made:
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", made.place)
        monkeypatch.setenv("GCE_METADATA_IP", made.place)
        await set_password(server, made.tokens[0], SERVICE_ACCOUNT)
        yield made


@pytest.mark.parametrize(
    ("user", "query"),
    [
        ("", ""),
        ("us%40shop.iam@", ""),
        ("us@shop.iam@", ""),
        ("us%40shop.iam.gserviceaccount.com@", ""),
        ("", "?user=us%40shop.iam"),
    ],
)
async def test_a_token_of_the_service_account_is_its_password(
    server: Postgres, machine: Metadata, user: str, query: str
) -> None:
    database = configured(url(server, user=user, query=query), DATABASE_AUTH="iam")
    assert await who(database) == SERVICE_ACCOUNT
    assert await who(database) == SERVICE_ACCOUNT
    assert machine.scopes == ["https://www.googleapis.com/auth/sqlservice.login"]


async def test_a_token_is_replaced_before_its_end_and_when_it_is_refused(
    server: Postgres, machine: Metadata
) -> None:
    machine.lifetime = 100
    database = configured(url(server, user=""), DATABASE_AUTH="iam")
    assert await who(database) == SERVICE_ACCOUNT
    machine.tokens, machine.lifetime = ["second"], 3599
    await set_password(server, "second", SERVICE_ACCOUNT)
    assert await who(database) == SERVICE_ACCOUNT  # the first was near its end
    machine.tokens = ["third"]
    await set_password(server, "third", SERVICE_ACCOUNT)
    assert await who(database) == SERVICE_ACCOUNT  # the second was refused
    asked = len(machine.scopes)
    await set_password(server, "fourth", SERVICE_ACCOUNT)
    with pytest.raises(LoginRefused):
        await who(database)
    assert len(machine.scopes) == asked + 1


async def test_without_a_token_there_is_no_connection(server: Postgres, machine: Metadata) -> None:
    machine.has_account = False
    database = configured(url(server, user=""), DATABASE_AUTH="iam")
    with pytest.raises(NotConnected, match=r"^no token for the login: "):
        await who(database)


@pytest.mark.parametrize(
    ("address", "mode"),
    [
        ("postgresql://a%40b.iam@10.1.2.3/shop", "require"),
        ("postgresql://a%40b.iam@10.1.2.3/shop?application_name=x", "require"),
        ("postgresql://a%40b.iam@db/shop?sslmode=verify-ca", "verify-ca"),
        ("postgresql://a%40b.iam@/shop?host=db", "require"),
        ("postgresql:///shop", "require"),
        ("postgresql://a%40b.iam@/shop?host=/cloudsql/p:r:i", None),
        ("postgresql://a%40b.iam@localhost/shop", None),
        ("postgresql://a%40b.iam@127.0.0.1:6543/shop?sslmode=disable", "disable"),
    ],
)
def test_a_token_leaves_this_machine_encrypted(address: str, mode: str | None) -> None:
    dsn = configured(address, DATABASE_AUTH="iam").dsn
    assert [each for each in dsn.partition("?")[2].split("&") if each.startswith("sslmode=")] == (
        [f"sslmode={mode}"] if mode else []
    )


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_an_address_that_would_send_a_token_in_clear_is_refused(mode: str) -> None:
    with pytest.raises(SettingError, match="use sslmode=require, verify-ca or verify-full") as refused:
        configured(f"postgresql://a:hunter2@10.1.2.3/shop?sslmode={mode}", DATABASE_AUTH="iam")
    assert "hunter2" not in str(refused.value)


# --- sockets and proxies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["", "+asyncpg", "+psycopg"])
async def test_a_socket_of_cloud_sql_is_connected_through(
    server: Postgres, sockets: Path, driver: str
) -> None:
    await set_password(server, FIRST)
    address = f"postgresql{driver}://{ROLE}@/postgres?host={sockets}&port={server.port}"
    assert await who(configured(address, DATABASE_PASSWORD=FIRST)) == ROLE


class HangsUp(Proxy):
    """Hangs up when it is asked for TLS, as some proxies do that encrypt by themselves."""

    resets = True
    asked = 0

    def _sent(self, link: Any, chunk: bytes) -> bool:
        if not chunk.startswith(SSL_REQUEST):
            return super()._sent(link, chunk)
        self.asked += 1
        if self.resets:
            peer: socket.socket = link.client.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.cut()
        return False


@pytest.mark.parametrize("resets", [True, False])
async def test_a_proxy_that_hangs_up_at_the_question_for_tls_is_asked_without(
    server: Postgres,
    resets: bool,  # noqa: FBT001 - a parameter
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    await set_password(server, FIRST)
    with HangsUp(server.url()) as proxy:
        proxy.resets = resets
        address = f"postgresql://{ROLE}@127.0.0.1:{proxy.port}/postgres"
        assert await who(configured(address, DATABASE_PASSWORD=FIRST)) == ROLE
        assert await who(configured(f"{address}?sslmode=disable", DATABASE_PASSWORD=FIRST)) == ROLE
        assert proxy.asked == 1
        with pytest.raises(TlsFailed, match="set sslmode=disable in DATABASE_URL"):
            await who(configured(f"{address}?sslmode=require", DATABASE_PASSWORD=FIRST))
