"""Makes sure that what is committed, and what is read before an answer, is on the standbys too.

A row may be visible on the primary alone: somebody ended its COMMIT while that waited for a standby, or the database's settings
let a COMMIT wait for nothing. After a failover such a row is gone.

`record.connections` and `record.task_transaction` set `WAITING`. A statement contains `KEPT` when a push may be answered 200,
or a task may begin, because of what it finds.
"""

from __future__ import annotations

from typing import Final

KEPT: Final = "pg_logical_emit_message(true, 'receiver', '') IS NOT NULL"
"""SQL, always true. It writes some bytes to the WAL, so that the statement's own commit waits for the standbys, and with it
everything that the statement has seen."""

WAITING: Final = (
    "set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN 'on'"
    " ELSE current_setting('synchronous_commit') END, {local})"
)
"""SQL that lets a COMMIT wait for the disk and for the standbys. `remote_write` and `remote_apply` stay: they wait too."""
