"""The rights that the page on deploying gives the web application's role are what it needs, and no more."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from receiver import task
from receiver.enqueue import PubSubBackend
from receiver.google.pubsub import Message
from receiver.settings import Settings
from receiver.tasks.backend import configure
from receiver.tasks.call import TaskResultStatus
from tests.postgres.record import Look
from tests.stage.servers import as_role, for_sqlalchemy, login


@task
async def send_mail(to: str) -> None: ...


class Taken:
    """Pub/Sub, which takes everything."""

    async def publish(self, topic: str, messages: Sequence[Message]) -> list[str]:
        return ["1" for _ in messages]


@pytest.fixture
async def address(database_url: str, look: Look, project_root: Path) -> AsyncIterator[str]:
    """The record's address, for a role with exactly the rights of the page."""
    (granted,) = re.findall(
        r"```sql\n(GRANT .*?)```", (project_root / "docs" / "operate" / "web.md").read_text(), re.DOTALL
    )
    role = f"shop_{uuid4().hex}"
    await look.execute(login(role))
    await look.execute(granted.replace(" TO shop;", f" TO {role};"))
    yield as_role(database_url, role)
    await look.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_the_rights_of_the_page_are_enough_to_enqueue_and_to_look(address: str, look: Look) -> None:
    backend = PubSubBackend(Settings(database_url=address, project_id="local"), pubsub=Taken())
    engine = create_async_engine(for_sqlalchemy(address, "asyncpg"))
    configure(backend)
    try:
        alone = await send_mail.aenqueue("ada")
        async with AsyncSession(engine) as session, session.begin():
            joined = await send_mail.using(connection=session).aenqueue("bob")
        for each in (alone, joined):
            assert (await send_mail.aget_result(each.id)).status is TaskResultStatus.READY
    finally:
        configure(None)
        await backend.aclose()
        await engine.dispose()
    assert await look.value("SELECT count(*) FROM task_executions WHERE published_at IS NOT NULL") == 2
    assert (
        await look.value("SELECT has_table_privilege($1, 'task_executions', 'DELETE')", role_of(address))
        is False
    )


def role_of(address: str) -> str:
    return address.partition("//")[2].partition(":")[0]
