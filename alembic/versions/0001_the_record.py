"""The record: executions, the attempts of them that did not succeed, and messages that were rejected."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE rejected_messages (
            key TEXT COLLATE "C" NOT NULL,
            body BYTEA NOT NULL,
            reason TEXT NOT NULL,
            detail TEXT NOT NULL,
            namespace TEXT NOT NULL,
            count INTEGER NOT NULL,
            first_seen TIMESTAMP WITH TIME ZONE NOT NULL,
            last_seen TIMESTAMP WITH TIME ZONE NOT NULL,
            replayed_at TIMESTAMP WITH TIME ZONE,
            PRIMARY KEY (key),
            CONSTRAINT rejected_messages_count CHECK (count >= 1)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE task_executions (
            task_id TEXT COLLATE "C" NOT NULL,
            task_name TEXT NOT NULL,
            task_path TEXT NOT NULL,
            namespace TEXT NOT NULL,
            args JSONB NOT NULL,
            kwargs JSONB NOT NULL,
            status TEXT NOT NULL,
            final BOOLEAN DEFAULT false NOT NULL,
            attempt INTEGER DEFAULT 0 NOT NULL,
            fence BIGINT DEFAULT 0 NOT NULL,
            claim_token UUID,
            lease_owner TEXT,
            lease_expires_at TIMESTAMP WITH TIME ZONE,
            return_value JSONB,
            error_type TEXT,
            error_message TEXT,
            error_traceback TEXT,
            skipped_by TEXT,
            enqueued_at TIMESTAMP WITH TIME ZONE NOT NULL,
            run_after TIMESTAMP WITH TIME ZONE,
            published_at TIMESTAMP WITH TIME ZONE,
            publishing_until TIMESTAMP WITH TIME ZONE,
            started_at TIMESTAMP WITH TIME ZONE,
            finished_at TIMESTAMP WITH TIME ZONE,
            group_key TEXT,
            label TEXT,
            trace TEXT,
            PRIMARY KEY (task_id),
            CONSTRAINT task_executions_task_id_length CHECK (octet_length(task_id) BETWEEN 1 AND 255),
            CONSTRAINT task_executions_status CHECK (status IN ('READY', 'RUNNING', 'SUCCESSFUL', 'FAILED')),
            CONSTRAINT task_executions_final CHECK (CASE status WHEN 'SUCCESSFUL' THEN final WHEN 'FAILED' THEN true ELSE NOT final END),
            CONSTRAINT task_executions_lease CHECK (num_nonnulls(lease_owner, lease_expires_at, claim_token) = CASE status WHEN 'RUNNING' THEN 3 ELSE 0 END),
            CONSTRAINT task_executions_started CHECK (CASE status WHEN 'READY' THEN started_at IS NULL WHEN 'FAILED' THEN true ELSE started_at IS NOT NULL END),
            CONSTRAINT task_executions_finished CHECK ((finished_at IS NOT NULL) = (status IN ('SUCCESSFUL', 'FAILED'))),
            CONSTRAINT task_executions_result CHECK (return_value IS NULL OR status = 'SUCCESSFUL'),
            CONSTRAINT task_executions_error CHECK ((error_type IS NOT NULL) = (status = 'FAILED')),
            CONSTRAINT task_executions_skipped CHECK (skipped_by IS NULL OR status = 'SUCCESSFUL'),
            CONSTRAINT task_executions_fence CHECK (attempt >= 0 AND fence >= attempt)
        )
        """
    )
    op.execute(
        """
        CREATE INDEX task_executions_enqueued_at ON task_executions (enqueued_at)
        """
    )
    op.execute(
        """
        CREATE TABLE task_attempts (
            task_id TEXT COLLATE "C" NOT NULL,
            fence BIGINT NOT NULL,
            attempt INTEGER NOT NULL,
            started_at TIMESTAMP WITH TIME ZONE,
            ended_at TIMESTAMP WITH TIME ZONE NOT NULL,
            ending TEXT NOT NULL,
            error_type TEXT,
            error_message TEXT,
            error_traceback TEXT,
            message_id TEXT,
            delivery_attempt INTEGER,
            instance TEXT,
            PRIMARY KEY (task_id, fence),
            CONSTRAINT task_attempts_ending CHECK (ending IN ('FAILED', 'TIMED_OUT', 'LEASE_EXPIRED', 'HANDED_BACK', 'REJECTED')),
            FOREIGN KEY(task_id) REFERENCES task_executions (task_id) ON DELETE CASCADE
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE rejected_messages")
    op.execute("DROP TABLE task_attempts")
    op.execute("DROP TABLE task_executions")
