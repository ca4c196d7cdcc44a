"""Real receivers: processes of their own, on loopback, with OIDC on and a throw-away key in Google's place."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Protocol

import pytest

from receiver.executions.migrations import upgrade
from receiver.local.instance import Instance
from receiver.local.postgres import Postgres
from receiver.local.signer import Signer, serve_certificates
from tests import servers
from tests.acceptance.stage import MODULE, Record
from tests.servers import Server

PLUGIN = Path(__file__).parent / "plugin"
_numbers = count(1)


class Start(Protocol):
    """Starts a receiver on a database; it ends with the test."""

    def __call__(
        self,
        database_url: str,
        env: Mapping[str, str] | None = None,
        *,
        signed: bool = True,
        modules: str = MODULE,
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


@pytest.fixture
def label() -> str:
    """A name of this test's own: its task_id and its mark."""
    return uuid.uuid4().hex


def new_instance(
    database_url: str,
    signer: Signer | None,
    certs_url: str | None,
    folder: Path,
    env: Mapping[str, str] | None = None,
    modules: str = MODULE,
) -> Instance:
    """A receiver that has not been started."""
    return Instance(
        database_url=database_url,
        modules=modules,
        signer=signer,
        certs_url=certs_url,
        folder=PLUGIN,
        env={"ACCEPTANCE_FOLDER": str(folder), **(env or {})},
    )


@pytest.fixture
def start(signer: Signer, certs_url: str, folder: Path) -> Iterator[Start]:
    """Starts receivers for one test."""
    with ExitStack() as running:

        def start_one(
            database_url: str,
            env: Mapping[str, str] | None = None,
            *,
            signed: bool = True,
            modules: str = MODULE,
        ) -> Instance:
            key, certificates = (signer, certs_url) if signed else (None, None)
            instance = new_instance(database_url, key, certificates, folder, env, modules)
            return running.enter_context(instance)

        yield start_one


@pytest.fixture
def record(database_url: str) -> Record:
    """What stands in this test's own database."""
    return Record(database_url)


@pytest.fixture(scope="module")
def shared_database_url(postgres_server: Server, migrated_template: str) -> Iterator[str]:
    """A migrated database for the tests of one module that disturb nobody."""
    name = f"shared_{next(_numbers)}"
    postgres_server.create_database(name, template=migrated_template)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A server that tests of this module may halt, restart and fill up; its database `postgres` is migrated.

    Always started here, also where another server is given.
    """
    with servers.own(max_connections="8", autovacuum="off") as server:
        upgrade(server.url())
        yield server
