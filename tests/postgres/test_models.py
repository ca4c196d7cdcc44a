"""The record as SQLAlchemy classes: read by sync and async sessions, joined with the application's tables, never changed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, create_engine, delete, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, selectinload

from receiver import models
from receiver.models import RecordReadOnly, RejectedMessage, TaskAttempt, TaskExecution
from receiver.record import migrations, schema_check
from receiver.record.database import Database
from tests.postgres.record import Look
from tests.stage.commands import ROOT, clean_environ
from tests.stage.servers import for_sqlalchemy

KINDS = (TaskExecution, TaskAttempt, RejectedMessage)


class Base(DeclarativeBase):
    """The application's."""


class Order(Base):
    """A row of the application that refers to the execution that it waits for."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[str | None] = mapped_column(ForeignKey(TaskExecution.task_id, ondelete="SET NULL"))


@pytest.fixture
async def filled(look: Look) -> None:
    await look.seed("bad", "FAILED", metadata='{"tenant": "7"}')
    await look.seed("good", "SUCCESSFUL", args='["Ada"]', return_value='{"sent": 1}')
    for fence in (2, 1):
        await look.execute(
            "INSERT INTO task_attempts (task_id, fence, attempt, ended_at, ending) VALUES ('bad', $1, 1, now(), 'FAILED')",
            fence,
        )
    await look.execute(
        "INSERT INTO rejected_messages (key, body, reason, detail, namespace, count, first_seen, last_seen)"
        " VALUES ('s 1', 'body', 'unknown_task', '', 'test', 1, now(), now())"
    )


@pytest.fixture(params=["psycopg", "psycopg2"])
def session(request: pytest.FixtureRequest, database_url: str) -> Iterator[Session]:
    engine = create_engine(for_sqlalchemy(database_url, request.param))
    Base.metadata.create_all(engine)
    with Session(engine) as made:
        yield made
    engine.dispose()


def test_a_session_reads_related_rows_beside_the_applications_own(filled: None, session: Session) -> None:
    session.add(Order(id=1, task_id="good"))
    session.flush()
    waiting = select(Order, TaskExecution).join(TaskExecution, TaskExecution.task_id == Order.task_id)
    [(order, execution)] = session.execute(waiting).all()
    assert (order.id, execution.args, execution.return_value) == (1, ["Ada"], {"sent": 1})
    assert isinstance(execution.enqueued_at, datetime)
    bad = session.scalars(select(TaskExecution).where(TaskExecution.status == "FAILED")).one()
    assert [attempt.fence for attempt in bad.attempts] == [1, 2]
    assert bad.attempts[0].execution is bad
    assert bad.metadata == {"tenant": "7"}
    assert session.scalars(select(RejectedMessage.reason)).all() == ["unknown_task"]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_async_session_reads(filled: None, database_url: str, driver: str) -> None:
    engine = create_async_engine(for_sqlalchemy(database_url, driver))
    async with AsyncSession(engine) as session:
        query = select(TaskExecution).options(selectinload(TaskExecution.attempts))
        found = {one.task_id: len(one.attempts) for one in await session.scalars(query)}
    await engine.dispose()
    assert found == {"bad": 2, "good": 0}


def change(session: Session) -> None:
    session.scalars(select(TaskExecution).limit(1)).one().status = "READY"


def add(session: Session) -> None:
    made: Any = TaskAttempt()
    made.task_id, made.fence = "bad", 3
    session.add(made)


def remove(session: Session) -> None:
    session.delete(session.scalars(select(RejectedMessage)).one())


@pytest.mark.parametrize("act", [change, add, remove])
def test_a_flush_of_a_change_raises(filled: None, session: Session, act: Any) -> None:
    act(session)
    with pytest.raises(RecordReadOnly, match="the receiver alone changes its record"):
        session.flush()


def test_deleting_an_execution_by_a_statement_is_the_databases_business(
    filled: None, session: Session
) -> None:
    """It is no flush: the foreign keys of the record and of the application hold."""
    session.add(Order(id=1, task_id="bad"))
    session.flush()
    session.execute(delete(TaskExecution).where(TaskExecution.task_id == "bad"))
    assert session.scalars(select(TaskAttempt)).all() == []
    assert session.scalars(select(Order.task_id)).all() == [None]


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_is_typed_as_it_may_be(kind: type) -> None:
    """A column added to the tables and forgotten here would not be known to type checkers."""
    hints = typing.get_type_hints(kind)
    mapped: Any = inspect(kind)
    columns: dict[str, Column[Any]] = dict(mapped.local_table.c.items())
    assert hints.keys() - {"attempts", "execution"} == columns.keys()
    for name, column in columns.items():
        [inner] = typing.get_args(hints[name])
        assert (types.NoneType in typing.get_args(inner)) is bool(column.nullable), name


ENV = """
from alembic import context
from sqlalchemy import create_engine
{imported}
from tests.postgres.test_models import Base

with create_engine(context.config.get_main_option("sqlalchemy.url")).connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata{option})
    with context.begin_transaction():
        context.run_migrations()
"""


@pytest.mark.parametrize("documented", [True, False])
def test_an_applications_autogenerate_leaves_our_tables_alone(
    database_url: str, tmp_path: Path, *, documented: bool
) -> None:
    """Without `include_object` it proposes to drop them."""
    script = tmp_path / "alembic"
    (script / "versions").mkdir(parents=True)
    imported, option = ("from receiver.models import include_object", ", include_object=include_object")
    (script / "env.py").write_text(
        ENV.format(imported=imported if documented else "", option=option if documented else "")
    )
    copy(ROOT / "alembic" / "script.py.mako", script)
    url = for_sqlalchemy(database_url, "psycopg")
    (tmp_path / "alembic.ini").write_text(
        f"[alembic]\nscript_location = alembic\npath_separator = os\nsqlalchemy.url = {url}\n"
    )
    made = subprocess.run(
        [sys.executable, "-m", "alembic", "revision", "--autogenerate", "-m", "x"],
        cwd=tmp_path,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    [written] = (script / "versions").glob("*.py")
    upgrades = written.read_text().partition("def downgrade")[0]
    assert "create_table('orders'" in upgrades
    assert ("drop_table" not in upgrades) is documented


READ = """
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session
from receiver.models import TaskExecution
with Session(create_engine("{url}")) as session:
    print(*session.scalars(select(TaskExecution.task_id)))
"""


async def test_the_classes_are_of_the_schema_that_is_set(empty_database_url: str, tmp_path: Path) -> None:
    database = Database.of(empty_database_url, schema="tenant-7")
    await asyncio.to_thread(migrations.upgrade, database)
    connection = await database.connect("test")
    await connection.execute('SET search_path = "tenant-7"')
    await Look(connection).seed("a")
    await connection.close()
    script = READ.format(url=for_sqlalchemy(empty_database_url, "psycopg"))
    env = clean_environ() | {"TASKS_DB_SCHEMA": "tenant-7"}
    read = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], env=env, capture_output=True, text=True
    )
    assert (read.returncode, read.stdout) == (0, "a\n"), read.stderr


def test_the_names_are_those_that_are_documented() -> None:
    assert set(models.__all__) == {
        *(kind.__name__ for kind in KINDS),
        "RecordReadOnly",
        "include_object",
        "metadata",
    }
    assert not models.include_object(None, schema_check.VERSION_TABLE, "table")
