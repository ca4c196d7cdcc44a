"""The schema of the record's tables (`TASKS_DB_SCHEMA`), written before their names.

A search path belongs to a role, a database, or whoever has the connection now: a row that is written by one and looked for by
another is lost. So with a schema set, each statement names it. The statements of `receiver.record.sql` are written without;
whoever sends one qualifies it: the connections of the record, the task's transaction, migrations, the doctor. What SQLAlchemy
builds (an enqueue on the caller's connection, listings) gets it as `translation`.

Invariant: only names of our tables change, as whole words that stand alone, and the index that a DROP INDEX names.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

NAMES: Final = ("task_executions", "task_attempts", "rejected_messages", "receiver_alembic_version")
"""Our tables. A test compares them with the metadata."""

_TABLE: Final = re.compile(rf'(?<![\w."$])(?:{"|".join(NAMES)})(?![\w"$.])')
_DROPPED: Final = re.compile(r"\bDROP INDEX (?:CONCURRENTLY )?(?:IF EXISTS )?")


@lru_cache(maxsize=512)
def qualified(statement: str, schema: str) -> str:
    """The statement, with the schema before our tables; in string literals too, which are read as the name of a table."""
    prefix = quoted(schema) + "."
    found = _TABLE.sub(lambda name: prefix + name.group(), statement)
    return _DROPPED.sub(lambda begin: begin.group() + prefix, found)


def quoted(schema: str) -> str:
    """As an identifier. `parsers.db_schema` lets no quote pass."""
    return f'"{schema}"'


def translation(schema: str | None) -> dict[str, Any]:
    """The execution options for statements that SQLAlchemy builds from `receiver.record.schema`."""
    return {} if schema is None else {"schema_translate_map": {None: schema}}
