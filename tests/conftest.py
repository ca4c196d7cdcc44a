"""What every test may ask for: a real PostgreSQL, started once (`tests.stage.servers`), and a migrated, empty database for each test."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.noskips import NoSkips
from tests.stage import authorities, servers
from tests.stage.reused import ReusedDatabase
from tests.stage.servers import LocalServer

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = "receiver_template"
_numbers = count(1)
authorities.read_once()

# A failing example prints what repeats it; pytest-randomly prints the seed of everything else. No deadline: the
# machines that run this are shared. In CI more examples are tried.
settings.register_profile("dev", deadline=None, print_blob=True, database=None)
settings.register_profile(
    "ci", parent=settings.get_profile("dev"), max_examples=200, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts this in the background has it ignore Ctrl-C, and every process that a test starts inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("RECEIVER_NO_SKIPS") == "1":
        config.pluginmanager.register(NoSkips(), "receiver-no-skips")


def pytest_collection_finish() -> None:
    # Half a million objects of the collection stay to the end. Looking through them takes the collector half a second.
    gc.freeze()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[LocalServer]:
    """One PostgreSQL for the whole session. Whoever restarts or halts a server makes one of their own."""
    with servers.shared() as started:
        yield started


@pytest.fixture(scope="session")
def migrated_template(postgres_server: LocalServer) -> str:
    """The name of a migrated database that others are copied from. Nobody connects to it."""
    from receiver.record.database import Database  # noqa: PLC0415 - as below
    from receiver.record.migrations import upgrade  # noqa: PLC0415 - alembic is loaded only when a test needs tables

    postgres_server.create_database(TEMPLATE)
    upgrade(Database.of(postgres_server.url(TEMPLATE)))
    return TEMPLATE


@pytest.fixture(scope="session")
def reused_database(postgres_server: LocalServer, migrated_template: str) -> Iterator[ReusedDatabase]:
    """The database behind `database_url`."""
    reused = ReusedDatabase(postgres_server, migrated_template)
    yield reused
    reused.close()


@pytest.fixture
def database_url(reused_database: ReusedDatabase) -> Iterator[str]:
    """The address of a migrated database that is empty, and this test's alone while it runs."""
    yield reused_database.url()
    reused_database.empty()


@pytest.fixture
def empty_database_url(postgres_server: LocalServer) -> Iterator[str]:
    """The address of a fresh database without any table; dropped afterwards."""
    name = f"empty_{next(_numbers)}"
    postgres_server.create_database(name)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture
def project_root(pytestconfig: pytest.Config) -> Path:
    """The checkout."""
    return pytestconfig.rootpath


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tests log lone surrogates on purpose; a report that holds one cannot travel from a worker to its controller."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections
    ]
    return report
