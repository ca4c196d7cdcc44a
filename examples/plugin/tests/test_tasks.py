"""A task is its function: call it, and look at what comes back. How it lives with Pub/Sub is in test_deliveries.py."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from example_tasks import tasks
from example_tasks.images import resize_image
from example_tasks.mail import send_welcome_email
from example_tasks.maintenance import cleanup_old_data
from example_tasks.payments import ProviderUnavailableError, charge

from receiver import PermanentError, TaskContext


class Connection:
    """Stands in for the task's connection, and remembers what it was asked."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    async def execute(self, statement: object, _parameters: object = None) -> Any:
        self.statements.append(str(statement))
        return SimpleNamespace(rowcount=4)


def context(*, cancelled: bool = False, connection: Connection | None = None) -> TaskContext:
    async def connect() -> Connection:
        return connection or Connection()

    facts = {
        "task_id": "0197-welcome-000001",
        "attempt": 1,
        "message_id": "1",
        "deadline": datetime.now(UTC) + timedelta(minutes=5),
        "cancelled": cancelled,
        "connection": connect,
    }
    return cast("TaskContext", SimpleNamespace(**facts))


def test_a_welcome_email_speaks_the_users_language() -> None:
    assert asyncio.run(send_welcome_email("42", language="de")) == {"user_id": "42", "subject": "Willkommen"}


def test_an_image_is_resized_to_every_width() -> None:
    assert resize_image(context(), "cat.png", [320, 640])["widths"] == [320, 640]


def test_resizing_stops_when_it_is_called_off() -> None:
    with pytest.raises(TimeoutError, match=r"cat\.png"):
        resize_image(context(cancelled=True), "cat.png", [320])


def test_a_charge_is_the_same_on_every_attempt() -> None:
    first, second = (asyncio.run(charge(context(), "A-1", 1999)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("pence", "card"), [(0, "card_ok"), (1999, "card_declined")])
def test_what_no_retry_can_help_is_permanent(pence: int, card: str) -> None:
    with pytest.raises(PermanentError):
        asyncio.run(charge(context(), "A-1", pence, card))


def test_a_provider_that_is_down_is_tried_again() -> None:
    with pytest.raises(ProviderUnavailableError):
        asyncio.run(charge(context(), "A-1", 1999, card="card_timeout"))


def test_cleaning_up_says_how_much_went() -> None:
    connection = Connection()
    cleaned = asyncio.run(cleanup_old_data(context(connection=connection), days=30))
    assert cleaned["deleted"] == 4
    assert connection.statements[-1].startswith("DELETE")


def test_every_task_is_declared_with_what_it_needs() -> None:
    routes = {route.name: route for route in tasks}
    assert sorted(routes) == ["charge", "cleanup_old_data", "resize_image", "send_welcome_email"]
    assert routes["cleanup_old_data"].is_scheduled
    assert routes["charge"].max_attempts == 3
