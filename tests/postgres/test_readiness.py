"""/ready and the start: what keeps a service from writing is said, and not only found out by pushes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from receiver import TaskRoute
from receiver.errors import SchemaError
from receiver.serving.instance import Service
from receiver.settings import PushAuth, Settings
from receiver.tasks.registry import Registry
from receiver.telemetry.events import Event
from tests.postgres.record import Look, noop
from tests.stage.servers import as_role, login

GOOD = {"database": "ok", "schema": "ok", "certificates": "ok"}


class Said(list[Event]):
    """What a service has emitted."""


@pytest.fixture
async def said() -> Said:
    return Said()


@pytest.fixture
async def service(database_url: str, said: Said) -> AsyncIterator[Service]:
    """A service that was not started: nothing runs."""
    settings = Settings(database_url=database_url, push_auth=PushAuth.OFF)
    made = Service(settings, Registry([TaskRoute(noop)]), emit=said.append)
    yield made
    await made.ledger.close()


async def test_a_database_in_order_is_ready(service: Service, said: Said) -> None:
    await service.readiness.check_schema()
    assert await service.readiness.look() == GOOD
    assert said == []


async def test_a_database_that_takes_no_writes_is_not_ready_and_may_recover(
    service: Service, said: Said, look: Look
) -> None:
    """A replica, or one that an operator has set so: no reason not to start, and one not to be sent anything."""
    name = await look.value("SELECT current_database()")
    await look.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await service.readiness.check_schema()
    assert "read-only" in str(said)
    assert await service.readiness.look() == GOOD | {"database": "read-only"}
    await look.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await service.ledger.close()  # new connections
    assert await service.readiness.look() == GOOD


@pytest.mark.parametrize("table", ["task_executions", "task_attempts", "rejected_messages"])
async def test_a_table_that_is_not_there_is_said(service: Service, look: Look, table: str) -> None:
    await look.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
    try:
        assert await service.readiness.look() == GOOD | {"schema": "a table is missing"}
        with pytest.raises(SchemaError, match=f"has no {table}, although it is migrated"):
            await service.readiness.check_schema()
    finally:
        await look.execute(f"ALTER TABLE elsewhere RENAME TO {table}")
    assert await service.readiness.look() == GOOD


async def test_a_role_without_rights_is_not_ready_and_is_refused_at_the_start(
    database_url: str, look: Look, said: Said
) -> None:
    await look.execute("DROP ROLE IF EXISTS reader")
    await look.execute(login("reader"))
    await look.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    settings = Settings(database_url=as_role(database_url, "reader"), push_auth=PushAuth.OFF)
    service = Service(settings, Registry([TaskRoute(noop)]), emit=said.append)
    try:
        assert await service.readiness.look() == GOOD | {"schema": "no rights"}
        with pytest.raises(SchemaError, match="the role reader may not use task_executions"):
            await service.readiness.check_schema()
    finally:
        await service.ledger.close()
        await look.execute("DROP OWNED BY reader")
        await look.execute("DROP ROLE reader")
