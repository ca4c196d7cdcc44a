"""Row level security on the record's tables: /ready, the start and doctor say what a delivery would find."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import asyncpg
import pytest

from receiver import TaskRoute
from receiver.doctor import record_look
from receiver.doctor.record_rules import Fleet, judge_record
from receiver.endings.outcomes import Succeeded
from receiver.errors import SchemaError
from receiver.record.database import Database
from receiver.record.schema_check import TABLES, VERSION_TABLE, explain
from receiver.serving.instance import Service
from receiver.settings import PushAuth, Settings
from receiver.tasks.registry import Registry
from tests.postgres.conftest import Instances
from tests.postgres.record import NAMESPACE, WHOSE, connect, noop
from tests.stage.servers import LocalServer, as_role, login

GOOD = {"database": "ok", "schema": "ok", "certificates": "ok"}
ON = "ALTER TABLE task_executions ENABLE ROW LEVEL SECURITY"
ALL = "CREATE POLICY p ON task_executions USING (true)"

SHUT = {
    "no policy": [ON],
    "reads only": [ON, "CREATE POLICY p ON task_executions FOR SELECT USING (true)"],
    "all but reads": [
        ON,
        "CREATE POLICY a ON task_executions FOR INSERT WITH CHECK (true)",
        "CREATE POLICY w ON task_executions FOR UPDATE USING (true)",
    ],
    "somebody else's": [ON, "CREATE POLICY p ON task_executions TO other_clerk USING (true)"],
    "nothing to read by": [ON, "CREATE POLICY p ON task_executions WITH CHECK (true)"],
    "a constant": [ON, "CREATE POLICY p ON task_executions USING (true) WITH CHECK (false)"],
    "restricted": [ON, ALL, "CREATE POLICY r ON task_executions AS RESTRICTIVE FOR INSERT WITH CHECK (false)"],
    "refused, not filtered": [ON, ALL, "ALTER ROLE clerk SET row_security = off"],
    "its owner, forced": ["ALTER TABLE task_executions OWNER TO clerk", ON, "ALTER TABLE task_executions FORCE ROW LEVEL SECURITY"],
}  # fmt: skip
OPEN = {
    "off": [],
    "all": [ON, ALL],
    "one a command": [
        ON,
        "CREATE POLICY r ON task_executions FOR SELECT USING (true)",
        "CREATE POLICY a ON task_executions FOR INSERT WITH CHECK (true)",
        "CREATE POLICY w ON task_executions FOR UPDATE USING (true)",
        "CREATE POLICY d ON task_executions FOR DELETE USING (true)",
    ],
    "its own": [ON, "CREATE POLICY p ON task_executions TO clerk USING (true)"],
    "its group's": [ON, "CREATE POLICY p ON task_executions TO clerks USING (true)"],
    "restricted to all": [ON, ALL, "CREATE POLICY r ON task_executions AS RESTRICTIVE USING (true)"],
    "its owner": ["ALTER TABLE task_executions OWNER TO clerk", ON],
    "bypassed": [ON, "ALTER ROLE clerk BYPASSRLS"],
}
MAYBE = {
    "one namespace": [ON, f"CREATE POLICY p ON task_executions USING (namespace = '{NAMESPACE}')"],
    "never pruned": [ON, ALL, "CREATE POLICY r ON task_executions AS RESTRICTIVE FOR DELETE USING (false)"],
}

_numbers = count(1)


@pytest.fixture
async def owner(postgres_server: LocalServer, migrated_template: str) -> AsyncIterator[Any]:
    """A connection of the tables' owner, to a database of this test's own that `clerk` may use."""
    name = f"policies_{next(_numbers)}"
    postgres_server.create_database(name, template=migrated_template)
    connection = await connect(postgres_server.url(name))
    await connection.execute(login("clerk") + "; CREATE ROLE clerks ROLE clerk; CREATE ROLE other_clerk")
    await connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(TABLES)} TO clerk")
    await connection.execute(f"GRANT SELECT ON {VERSION_TABLE} TO clerk")
    yield connection
    await connection.execute("DROP TABLE task_attempts, task_executions")  # with their policies
    await connection.execute("DROP OWNED BY clerk, clerks, other_clerk; DROP ROLE clerk, clerks, other_clerk")
    await connection.close()
    await asyncio.to_thread(postgres_server.drop_database, name)


@pytest.fixture
async def url(owner: Any, postgres_server: LocalServer) -> str:
    """The way in for `clerk`."""
    name = await owner.fetchval("SELECT current_database()")
    return as_role(postgres_server.url(name), "clerk")


@pytest.fixture
async def service(url: str) -> AsyncIterator[Service]:
    settings = Settings(database_url=url, push_auth=PushAuth.OFF)
    made = Service(settings, Registry([TaskRoute(noop)]), emit=lambda _: None)
    yield made
    await made.ledger.close()


async def codes(url: str) -> dict[str, str]:
    """What doctor finds wrong: its code, and what it says."""
    seen = await record_look.look(Database.of(url), WHOSE)
    return {
        each.code: each.what for each in judge_record(seen, Fleet(1, 1, known=True)) if each.code != "sweeper"
    }


@pytest.mark.parametrize("case", SHUT)
async def test_tables_that_are_shut_are_refused(
    owner: Any, url: str, service: Service, instances: Instances, case: str
) -> None:
    for statement in SHUT[case]:
        await owner.execute(statement)
    assert await service.readiness.look() == GOOD | {"schema": "row level security"}
    told = "row level security keeps the role clerk from task_executions; run `ALTER TABLE task_executions DISABLE"
    with pytest.raises(SchemaError, match=told):
        await service.readiness.check_schema()
    assert await codes(url) == {"schema": told.partition("; ")[0]}
    # So it is: a delivery gets nowhere.
    assert not await delivers(instances(url=url))


@pytest.mark.parametrize("case", OPEN)
async def test_tables_that_let_all_pass_are_in_order(
    owner: Any, url: str, service: Service, instances: Instances, case: str
) -> None:
    for statement in OPEN[case]:
        await owner.execute(statement)
    assert await service.readiness.look() == GOOD
    await service.readiness.check_schema()
    assert await codes(url) == {}
    assert await delivers(instances(url=url))


@pytest.mark.parametrize("case", MAYBE)
async def test_a_policy_that_lets_some_pass_is_a_warning(
    owner: Any, url: str, service: Service, instances: Instances, case: str
) -> None:
    for statement in MAYBE[case]:
        await owner.execute(statement)
    assert await service.readiness.look() == GOOD
    found = await codes(url)
    assert found == {"row-level-security": "row level security may hide rows of task_executions from clerk"}
    assert await delivers(instances(url=url))


@pytest.mark.parametrize("table", [*TABLES, VERSION_TABLE])
async def test_each_table_is_looked_at(owner: Any, url: str, service: Service, table: str) -> None:
    await owner.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    with pytest.raises(SchemaError, match=f"keeps the role clerk from {table}; "):
        await service.readiness.check_schema()


async def delivers(instance: Any) -> bool:
    """Whether a delivery is run and recorded. What stops it is explained in the words of /ready."""
    try:
        ending = await instance.run("row", noop)
    except asyncpg.InsufficientPrivilegeError as error:
        with pytest.raises(SchemaError, match="row level security"):
            await explain(instance.ledger.pool, error)
        return False
    return isinstance(ending, Succeeded)
