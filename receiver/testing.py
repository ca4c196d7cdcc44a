"""A pytest plugin for the authors of tasks: what Pub/Sub does on good and on bad days, in the test's own process.

    def test_the_mail_goes_out_once(task_queue):
        task_queue.push(send_welcome_email, "42")
        task_queue.redeliver_last()
        assert task_queue.executions[0].return_value == {"sent_to": "42"}

The fixture `task_queue` is a `TaskQueue`: the real thing without sockets, on a real PostgreSQL. Override
`receiver_database_url` to use a database of yours (its receiver tables are emptied before each test), and
`receiver_registry` to say which tasks there are; otherwise PostgreSQL comes from the wheel of the extra `local`, and the
tasks from `TASKS_MODULES` or the installed plugins.

pytest imports this module in every run, so it imports nothing else before a test asks for the fixture.

Next: `receiver.testkit.queue` is the queue.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from receiver.tasks.registry import Registry
    from receiver.testkit.queue import Delivered, InjectedFailure, Message, TaskQueue

__all__ = ["Delivered", "InjectedFailure", "Message", "TaskQueue"]


def __getattr__(name: str) -> Any:
    """The kit's types, for annotations, loaded when they are asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from receiver.testkit import queue as kit  # noqa: PLC0415 - see above

    return getattr(kit, name)


@pytest.fixture(scope="session")
def receiver_database_url() -> Iterator[str]:
    """A PostgreSQL for the tests' record, from the wheel; override it to use one of yours."""
    from receiver.local_postgres.server import Postgres  # noqa: PLC0415 - only who uses the fixture needs the wheel

    with Postgres() as postgres:
        yield postgres.url()


@pytest.fixture(scope="session")
def receiver_registry() -> Registry:
    """The tasks under test: those of `TASKS_MODULES`, or of the installed plugins; override it to choose."""
    from receiver.settings import Settings  # noqa: PLC0415 - as above
    from receiver.tasks.registry import load  # noqa: PLC0415 - as above

    return load(Settings.from_environ(os.environ))


@pytest.fixture(scope="session")
def _receiver_tables(receiver_database_url: str) -> str:
    from receiver.record.migrations import upgrade  # noqa: PLC0415 - as above

    upgrade(receiver_database_url)
    return receiver_database_url


@pytest.fixture
def task_queue(_receiver_tables: str, receiver_registry: Registry) -> Iterator[TaskQueue]:
    """Tasks, delivered by hand, on an empty record."""
    from receiver.testkit.queue import running  # noqa: PLC0415 - as above

    with running(_receiver_tables, receiver_registry) as queue:
        yield queue
