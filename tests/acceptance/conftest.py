"""Real receivers: processes of their own, on loopback, with OIDC on and a throw-away key in Google's place."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Protocol

import pytest

from receiver.emulator.in_thread import serve_certificates
from receiver.emulator.signer import Signer
from receiver.record.database import Database
from receiver.record.migrations import upgrade
from tests.stage import servers
from tests.stage.executions import EFFECTS
from tests.stage.instance import Instance
from tests.stage.proxy import HoldingProxy
from tests.stage.receivers import Marks, Receiver, launched, new_instance, new_label
from tests.stage.record import MODULE, Record
from tests.stage.servers import LocalServer

_numbers = count(1)


Launch = Callable[..., Awaitable[Receiver]]


class Start(Protocol):
    """Starts a receiver on a database; it ends with whoever asked."""

    def __call__(
        self,
        database_url: str,
        env: Mapping[str, str] | None = None,
        *,
        signed: bool = True,
        certs_url: str | None = None,
        modules: str = MODULE,
        port: int | None = None,
    ) -> Instance: ...


@pytest.fixture(scope="session")
def signer() -> Signer:
    """Google's stand-in."""
    return Signer.create()


@pytest.fixture(scope="session")
def certs_url(signer: Signer) -> Iterator[str]:
    """Where its certificates are."""
    with serve_certificates(signer) as url:
        yield url


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tasks leave their marks."""
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="session")
def marks(folder: Path) -> Marks:
    """What tasks left behind; labels keep the tests apart."""
    return Marks(folder)


@pytest.fixture
def label() -> str:
    """A name of this test's own: its task_id and its mark."""
    return new_label()


@pytest.fixture(scope="module", params=["direct", pytest.param("asgi", marks=pytest.mark.slow)])
def door(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The environment of a receiver whose pushes come by this door."""
    return {"direct": {}, "asgi": {"TASKS_SETUP": "asgi_door:watch"}}[request.param]


def _starter(running: ExitStack, signer: Signer, own_certs_url: str, folder: Path) -> Start:
    def start(
        database_url: str,
        env: Mapping[str, str] | None = None,
        *,
        signed: bool = True,
        certs_url: str | None = None,
        modules: str = MODULE,
        port: int | None = None,
    ) -> Instance:
        key, certificates = (signer, certs_url or own_certs_url) if signed else (None, None)
        return running.enter_context(
            new_instance(database_url, key, certificates, folder, env, modules, port)
        )

    return start


@pytest.fixture
def start(signer: Signer, certs_url: str, folder: Path) -> Iterator[Start]:
    """Starts receivers for one test."""
    with ExitStack() as running:
        yield _starter(running, signer, certs_url, folder)


@pytest.fixture
def begin(start: Start) -> Start:
    """The same, with the hostile tasks."""
    return functools.partial(start, modules="hostile_tasks")


@pytest.fixture(scope="module")
def begin_shared(signer: Signer, certs_url: str, folder: Path) -> Iterator[Start]:
    """Starts receivers with the hostile tasks for the tests of a module that leave them as they found them."""
    with ExitStack() as running:
        yield functools.partial(_starter(running, signer, certs_url, folder), modules="hostile_tasks")


@pytest.fixture
async def launch(database_url: str, record: Record, marks: Marks) -> AsyncIterator[Launch]:
    """Starts receivers of `fault_tasks` on this test's database, or through a proxy; they end with the test, frozen or not.

    Nothing here needs a token: `TASKS_PUSH_AUTH=off`.
    """
    running: list[Receiver] = []
    await record.fetch(EFFECTS)

    async def start(
        url: str | None = None, *, lease: float = 2, grace: float = 8, wait: bool = True, **env: str
    ) -> Receiver:
        limits = {"TASKS_LEASE_SECONDS": str(lease), "TASKS_SHUTDOWN_GRACE": str(grace)}
        one = launched(url or database_url, marks, limits | env)
        running.append(one)
        if wait:
            await one.started()
        return one

    yield start
    for one in running:
        one.close()


@pytest.fixture
def proxy(database_url: str) -> Iterator[HoldingProxy]:
    """A proxy to this test's database."""
    with HoldingProxy(database_url) as made:
        yield made


@pytest.fixture
def record(database_url: str) -> Record:
    """What stands in this test's own database."""
    return Record(database_url)


@pytest.fixture(scope="module")
def shared_database_url(postgres_server: LocalServer, migrated_template: str) -> Iterator[str]:
    """A migrated database for the tests of one module that disturb nobody."""
    name = f"shared_{next(_numbers)}"
    postgres_server.create_database(name, template=migrated_template)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[LocalServer]:
    """A server that tests of this module may halt, restart and fill up; its database `postgres` is migrated.

    Always started here, also where another server is given.
    """
    with servers.own(max_connections="8", autovacuum="off") as server:
        upgrade(Database.of(server.url()))
        yield server
