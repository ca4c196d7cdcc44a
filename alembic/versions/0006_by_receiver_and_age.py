"""Rows by age, of each receiver and environment by themselves.

The index on `enqueued_at` alone had the rows of all receivers of a database in one order: a receiver with a shorter retention walked
past its neighbour's rows at every sweep, and a listing of a quiet one past those of a busy one. No claim and no settlement changes what
the new ones are made of. A delivery writes 18 bytes of WAL more.

They are built CONCURRENTLY, outside of a transaction, while writers go on: a minute for ten million rows. Until it is replaced, a
revision from before reads more of the table for a listing and a prune.
"""

from __future__ import annotations

from alembic import op

from receiver.record.migrations import LOCK_TIMEOUT

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OWNER = "((namespace || '/') || environment)"
NEW = {
    "task_executions_age": f"({OWNER}, enqueued_at)",
    "task_executions_failed_age": f"({OWNER}, enqueued_at) WHERE error_type IS NOT NULL",
}
OLD = {
    "task_executions_enqueued_at": "(enqueued_at)",
    "task_executions_failed": "(enqueued_at) WHERE error_type IS NOT NULL",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, what in NEW.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON task_executions {what}")
        for name in OLD:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    op.execute(
        f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"
    )  # the block above ended the transaction that had it


def downgrade() -> None:
    for name in NEW:
        op.execute(f"DROP INDEX {name}")
    for name, what in OLD.items():
        op.execute(f"CREATE INDEX {name} ON task_executions {what}")
