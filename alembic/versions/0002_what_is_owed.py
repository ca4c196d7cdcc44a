"""Indexes for the sweeper, groups and replays, and the task that a rejected message named.

No index is on a column that a claim or a settlement changes, and none has such a column in its predicate: their updates stay HOT.
Only the first publication of a row removes its entry from an index.

Writers wait while an index is built: seconds for a million rows, during which claims are answered 429.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE INDEX task_executions_owed ON task_executions (namespace, (coalesce(run_after, enqueued_at)))
        WHERE published_at IS NULL
        """
    )
    op.execute(
        """
        CREATE INDEX task_executions_group_key ON task_executions (group_key) WHERE group_key IS NOT NULL
        """
    )
    op.execute("ALTER TABLE rejected_messages ADD COLUMN task_name TEXT")
    op.execute(
        """
        CREATE INDEX rejected_messages_unknown ON rejected_messages (namespace, task_name)
        WHERE reason = 'unknown_task' AND replayed_at IS NULL
        """
    )
    op.execute("CREATE INDEX rejected_messages_first_seen ON rejected_messages (first_seen)")


def downgrade() -> None:
    op.execute("DROP INDEX rejected_messages_first_seen")
    op.execute("DROP INDEX rejected_messages_unknown")
    op.execute("ALTER TABLE rejected_messages DROP COLUMN task_name")
    op.execute("DROP INDEX task_executions_group_key")
    op.execute("DROP INDEX task_executions_owed")
