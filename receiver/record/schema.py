"""The tables, as SQLAlchemy metadata; `alembic/versions` creates them, a test holds the two together.

The CHECKs hold what the code assumes about states, so that no wrong combination of columns can be written: a final row is
finished, only a RUNNING row has a lease, only SUCCESSFUL has a result, only FAILED an error.

`task_id` is compared bytewise (`COLLATE "C"`): it is any text of 1 to 255 bytes, and its order is the lock order.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB, UUID

from receiver.record.whose import OWNER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from receiver.record.database import Executor

metadata = MetaData()

_moment = DateTime(timezone=True)

task_executions = Table(
    "task_executions",
    metadata,
    Column("task_id", Text(collation="C"), primary_key=True),
    Column("task_name", Text, nullable=False),
    Column("task_path", Text, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("args", JSON, nullable=False),
    Column("kwargs", JSON, nullable=False),
    Column("status", Text, nullable=False),
    Column("final", Boolean, nullable=False, server_default=text("false")),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    Column("claim_token", UUID),
    Column("lease_owner", Text),
    Column("lease_expires_at", _moment),
    Column("return_value", JSON(none_as_null=True)),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("error_traceback", Text),
    Column("skipped_by", Text),
    Column("enqueued_at", _moment, nullable=False),
    Column("run_after", _moment),
    Column("published_at", _moment),
    Column("publishing_until", _moment),
    Column("started_at", _moment),
    Column("finished_at", _moment),
    Column("group_key", Text),
    Column("label", Text),
    Column("trace", Text),
    Column("environment", Text, nullable=False, server_default=text("'dev'")),
    Column("crashes", SmallInteger, nullable=False, server_default=text("0")),
    Column("ran_on", Text),
    Column("dead_letters", SmallInteger, nullable=False, server_default=text("0")),
    Column("dead_lettered_at", _moment),
    Column("metadata", JSONB(none_as_null=True)),
    Column("attributes", JSONB(none_as_null=True)),
    CheckConstraint("octet_length(task_id) BETWEEN 1 AND 255", name="task_executions_task_id_length"),
    CheckConstraint("status IN ('READY', 'RUNNING', 'SUCCESSFUL', 'FAILED')", name="task_executions_status"),
    CheckConstraint(
        "CASE status WHEN 'SUCCESSFUL' THEN final WHEN 'FAILED' THEN true ELSE NOT final END",
        name="task_executions_final",
    ),
    CheckConstraint(
        "num_nonnulls(lease_owner, lease_expires_at, claim_token) = CASE status WHEN 'RUNNING' THEN 3 ELSE 0 END",
        name="task_executions_lease",
    ),
    CheckConstraint(
        "CASE status WHEN 'READY' THEN started_at IS NULL WHEN 'FAILED' THEN true ELSE started_at IS NOT NULL END",
        name="task_executions_started",
    ),
    CheckConstraint(
        "(finished_at IS NOT NULL) = (status IN ('SUCCESSFUL', 'FAILED'))", name="task_executions_finished"
    ),
    CheckConstraint("return_value IS NULL OR status = 'SUCCESSFUL'", name="task_executions_result"),
    CheckConstraint("(error_type IS NOT NULL) = (status = 'FAILED')", name="task_executions_error"),
    CheckConstraint("skipped_by IS NULL OR status = 'SUCCESSFUL'", name="task_executions_skipped"),
    CheckConstraint("attempt >= 0 AND fence >= attempt", name="task_executions_fence"),
    Index("task_executions_age", text(OWNER), "enqueued_at"),
    # Neither a claim nor a settlement changes what these are made of, so that their updates stay HOT.
    Index(
        "task_executions_due",
        "namespace",
        "environment",
        text("coalesce(run_after, enqueued_at)"),
        postgresql_where=text("published_at IS NULL"),
    ),
    Index("task_executions_group_key", "group_key", postgresql_where=text("group_key IS NOT NULL")),
    Index(
        "task_executions_failed_age",
        text(OWNER),
        "enqueued_at",
        postgresql_where=text("error_type IS NOT NULL"),
    ),
    Index(
        "task_executions_dead_lettered",
        "namespace",
        "environment",
        "dead_lettered_at",
        postgresql_where=text("dead_lettered_at IS NOT NULL"),
    ),
    # Otherwise a batch of claims fills whole pages, and none of its settlements is HOT.
    postgresql_with={"fillfactor": 50},
)

task_attempts = Table(
    "task_attempts",
    metadata,
    Column(
        "task_id",
        Text(collation="C"),
        ForeignKey("task_executions.task_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("fence", BigInteger, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("started_at", _moment),
    Column("ended_at", _moment, nullable=False),
    Column("ending", Text, nullable=False),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("error_traceback", Text),
    Column("message_id", Text),
    Column("delivery_attempt", Integer),
    Column("instance", Text),
    CheckConstraint(
        "ending IN ('FAILED', 'TIMED_OUT', 'LEASE_EXPIRED', 'HANDED_BACK', 'REJECTED')",
        name="task_attempts_ending",
    ),
    Index("task_attempts_died", "instance", postgresql_where=text("ending = 'LEASE_EXPIRED'")),
)

rejected_messages = Table(
    "rejected_messages",
    metadata,
    Column("key", Text(collation="C"), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("first_seen", _moment, nullable=False),
    Column("last_seen", _moment, nullable=False),
    Column("replayed_at", _moment),
    Column("task_name", Text),
    Column("environment", Text, nullable=False, server_default=text("'dev'")),
    CheckConstraint("count >= 1", name="rejected_messages_count"),
    Index(
        "rejected_messages_unknown",
        "namespace",
        "task_name",
        postgresql_where=text("reason = 'unknown_task' AND replayed_at IS NULL"),
    ),
    Index("rejected_messages_first_seen", "first_seen"),
)

INVALID_INDEXES: Final = """
SELECT c.relname AS name, i.indexrelid::regclass::text AS place
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid
  AND i.indrelid IN (to_regclass('task_executions'), to_regclass('task_attempts'), to_regclass('rejected_messages'))
ORDER BY c.relname
"""

REINDEX_COPY: Final = re.compile(r"_cc(new|old)\d*$")
"""The suffix of the copy that REINDEX CONCURRENTLY makes, and leaves behind when it is interrupted."""


async def invalid_indexes(executor: Executor) -> list[Mapping[str, Any]]:
    """The `name` and the `place` of each index of ours that is not valid, or is what a REINDEX has left. A build goes on or was cut."""
    ours = {str(index.name) for table in metadata.tables.values() for index in table.indexes}
    rows = await executor.fetch(INVALID_INDEXES)
    return [row for row in rows if REINDEX_COPY.sub("", row["name"]) in ours]
