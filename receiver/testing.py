"""A pytest plugin for tests of tasks: deliveries and their failures, as Pub/Sub makes them, in the test's own process.

    def test_the_mail_goes_out_once(task_queue):
        task_queue.push(send_welcome_email, "42")
        task_queue.redeliver_last()
        assert task_queue.executions[0].return_value == {"sent_to": "42"}

The fixture `task_queue` is a `TaskQueue`: a receiver without sockets, on a real PostgreSQL. Two fixtures may be overridden.
`receiver_database_url` is the database; its receiver tables are emptied before each test. Default: a PostgreSQL from the
wheel of the extra `local`. `receiver_registry` is the `Registry` of the tasks. Default: `TASKS_MODULES`, or the installed
plugins.

pytest imports this module in every run, so it imports nothing else until a test asks for a fixture.

Next: `receiver.testkit.queue` is the queue.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from receiver.tasks.registry import Registry
    from receiver.testkit.faulty import DeliveryResult as Delivered
    from receiver.testkit.faulty import InjectedFailure
    from receiver.testkit.faulty import QueuedMessage as Message
    from receiver.testkit.queue import TaskQueue

__all__ = ["Delivered", "InjectedFailure", "Message", "Registry", "TaskQueue"]


def __getattr__(name: str) -> Any:
    """Loads the kit's types at their first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from receiver.tasks.registry import Registry  # noqa: PLC0415 - see above
    from receiver.testkit import faulty, queue  # noqa: PLC0415 - see above

    return {
        "Delivered": faulty.DeliveryResult,
        "InjectedFailure": faulty.InjectedFailure,
        "Message": faulty.QueuedMessage,
        "Registry": Registry,
        "TaskQueue": queue.TaskQueue,
    }[name]


@pytest.fixture(scope="session")
def receiver_database_url() -> Iterator[str]:
    """The database of the record: a PostgreSQL from the wheel. Override it to use your own."""
    from receiver.local_postgres.server import Postgres  # noqa: PLC0415 - only this fixture needs the wheel

    with Postgres() as postgres:
        yield postgres.url()


@pytest.fixture(scope="session")
def receiver_registry() -> Registry:
    """The tasks under test: those of `TASKS_MODULES`, or of the installed plugins. Override it to choose."""
    from receiver.settings import Settings  # noqa: PLC0415 - as above
    from receiver.tasks.registry import load  # noqa: PLC0415 - as above

    return load(Settings.from_environ(os.environ))


@pytest.fixture(scope="session")
def _receiver_tables(receiver_database_url: str) -> str:
    from receiver.record.database import Database  # noqa: PLC0415 - as above
    from receiver.record.migrations import upgrade  # noqa: PLC0415 - as above

    upgrade(Database.of(receiver_database_url), environment="dev")  # that of the queue
    return receiver_database_url


@pytest.fixture
def task_queue(_receiver_tables: str, receiver_registry: Registry) -> Iterator[TaskQueue]:
    """A queue on an empty record; each method delivers by hand."""
    from receiver.testkit.queue import running  # noqa: PLC0415 - as above

    with running(_receiver_tables, receiver_registry) as queue:
        yield queue
