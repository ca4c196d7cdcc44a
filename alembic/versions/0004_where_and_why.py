"""Whose a row is, where it ran, how its process died, and what its message carried.

Every column has a constant default or none, so that no row is rewritten, and inserts of the previous release still work. No claim and
no settlement changes a column that is in an index, so that they stay HOT.

The default of `environment` is the `TASKS_ENVIRONMENT` of this migration: the rows that are there are of that environment, and so are
those that the previous release inserts while the new one is deployed. Where there are rows, it has to be set.

What is owed is found by namespace and environment: the rows of a copied database would otherwise be read by every sweep.
The indexes are built CONCURRENTLY, outside of a transaction. When that is interrupted, the next try finds the columns, and an index that
is not valid, which it removes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

from receiver.errors import SettingError
from receiver.record.migrations import LOCK_TIMEOUT

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


ROWS = "SELECT EXISTS (SELECT FROM task_executions) OR EXISTS (SELECT FROM rejected_messages)"


def upgrade() -> None:
    environment = context.config.attributes.get("environment")
    if environment is None and op.get_bind().scalar(sa.text(ROWS)):
        raise SettingError(
            "TASKS_ENVIRONMENT",
            None,
            "the record has rows: set it to the environment that they are of, such as production, and migrate again",
        )
    default = f"DEFAULT '{environment or 'dev'}'"
    op.execute(
        f"""
        ALTER TABLE task_executions
            ADD COLUMN IF NOT EXISTS environment TEXT NOT NULL {default},
            ADD COLUMN IF NOT EXISTS crashes SMALLINT NOT NULL DEFAULT 0,
            ADD COLUMN IF NOT EXISTS ran_on TEXT,
            ADD COLUMN IF NOT EXISTS dead_letters SMALLINT NOT NULL DEFAULT 0,
            ADD COLUMN IF NOT EXISTS dead_lettered_at TIMESTAMPTZ,
            ADD COLUMN IF NOT EXISTS metadata JSONB,
            ADD COLUMN IF NOT EXISTS attributes JSONB
        """
    )
    op.execute(f"ALTER TABLE rejected_messages ADD COLUMN IF NOT EXISTS environment TEXT NOT NULL {default}")
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS task_executions_dead_lettered")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY task_executions_dead_lettered
            ON task_executions (namespace, environment, dead_lettered_at) WHERE dead_lettered_at IS NOT NULL
            """
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS task_executions_due")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY task_executions_due
            ON task_executions (namespace, environment, (coalesce(run_after, enqueued_at))) WHERE published_at IS NULL
            """
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS task_executions_owed")
        # What was in flight in an instance that died. Only such lines are in it.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS task_attempts_died")
        op.execute(
            "CREATE INDEX CONCURRENTLY task_attempts_died ON task_attempts (instance) WHERE ending = 'LEASE_EXPIRED'"
        )
    op.execute(
        f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"
    )  # the block above ended the transaction that had it


def downgrade() -> None:
    op.execute(
        """
        CREATE INDEX task_executions_owed ON task_executions (namespace, (coalesce(run_after, enqueued_at)))
        WHERE published_at IS NULL
        """
    )
    op.execute("DROP INDEX task_executions_due")
    op.execute("DROP INDEX task_executions_dead_lettered")
    op.execute("DROP INDEX task_attempts_died")
    op.execute("ALTER TABLE rejected_messages DROP COLUMN environment")
    op.execute(
        """
        ALTER TABLE task_executions
            DROP COLUMN environment, DROP COLUMN crashes, DROP COLUMN ran_on, DROP COLUMN dead_letters,
            DROP COLUMN dead_lettered_at, DROP COLUMN metadata, DROP COLUMN attributes
        """
    )
