"""Whose a row is, where it ran, how its process died, and what its message carried.

Every column has a constant default or none, so that no row is rewritten, and inserts of the previous release still work. None is in an
index, so that claims and settlements stay HOT.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE task_executions
            ADD COLUMN environment TEXT NOT NULL DEFAULT 'dev',
            ADD COLUMN crashes SMALLINT NOT NULL DEFAULT 0,
            ADD COLUMN ran_on TEXT,
            ADD COLUMN dead_letters SMALLINT NOT NULL DEFAULT 0,
            ADD COLUMN dead_lettered_at TIMESTAMPTZ,
            ADD COLUMN message_published_at TIMESTAMPTZ,
            ADD COLUMN metadata JSONB,
            ADD COLUMN attributes JSONB
        """
    )
    op.execute("ALTER TABLE rejected_messages ADD COLUMN environment TEXT NOT NULL DEFAULT 'dev'")


def downgrade() -> None:
    op.execute("ALTER TABLE rejected_messages DROP COLUMN environment")
    op.execute(
        """
        ALTER TABLE task_executions
            DROP COLUMN environment, DROP COLUMN crashes, DROP COLUMN ran_on, DROP COLUMN dead_letters,
            DROP COLUMN dead_lettered_at, DROP COLUMN message_published_at, DROP COLUMN metadata,
            DROP COLUMN attributes
        """
    )
