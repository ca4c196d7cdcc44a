"""What the doctor asks the record, one statement for each question.

Invariant: none reads the whole table, however large it is. They are planned anew each time, and find their rows by an index.

Next: `receiver.doctor.record_look` sends them.
"""

from __future__ import annotations

from typing import Final

from receiver.reading.queries import NEWEST
from receiver.record.schema_check import NAMES, SURELY_PASS, shut
from receiver.record.whose import OURS, OWNER
from receiver.sweep.sweeper import PATROL

SERVER: Final = f"""
SELECT current_setting('server_version_num')::int AS version, current_user::text AS role,
       current_setting('synchronous_commit') AS synchronous_commit,
       least(current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                 - coalesce(current_setting('reserved_connections', true), '0')::int,
             (SELECT nullif(greatest(rolconnlimit, -1), -1) FROM pg_roles WHERE rolname = current_user),
             (SELECT nullif(greatest(datconnlimit, -1), -1) FROM pg_database WHERE datname = current_database())
       ) AS connections,
       (SELECT sum(numbackends)::int FROM pg_stat_database) AS in_use,
       ARRAY(SELECT t FROM unnest({NAMES}) AS t
             WHERE to_regclass(t) IS NOT NULL AND NOT has_table_privilege(to_regclass(t), 'DELETE')) AS undeletable,
       {shut(NAMES, "rawd", SURELY_PASS)} AS filtered,
       ARRAY(SELECT relnamespace::regnamespace::text FROM pg_class
             WHERE relname LIKE 'receiver\\_alembic\\_version' AND relkind = 'r' ORDER BY 1) AS schemas
"""  # noqa: S608 - constants of ours

OWED: Final = f"""
SELECT count(*) AS count, clock_timestamp() - min(due) AS since FROM (
    SELECT coalesce(run_after, enqueued_at) AS due FROM task_executions
    WHERE namespace = $1 AND environment = $2 AND published_at IS NULL AND NOT final AND status <> 'RUNNING'
      AND coalesce(run_after, enqueued_at) <= (SELECT clock_timestamp()) - $3::interval
    ORDER BY coalesce(run_after, enqueued_at) LIMIT {NEWEST}
) AS owed
"""  # noqa: S608 - a constant of ours

EXPIRED: Final = f"""
SELECT count(*) AS count, clock_timestamp() - min(lease_expires_at) AS since FROM (
    SELECT status, lease_expires_at FROM task_executions WHERE {OURS} ORDER BY enqueued_at DESC LIMIT {NEWEST}
) AS newest
WHERE status = 'RUNNING' AND lease_expires_at <= clock_timestamp() - $3::interval
"""  # noqa: S608 - constants of ours
# The sweeps' patrol finds older ones: `Sweeps.stranded`.

REJECTED: Final = """
SELECT reason, count(*) AS count, clock_timestamp() - min(first_seen) AS since,
       count(*) FILTER (WHERE octet_length(body) = 0) AS unkept
FROM rejected_messages
WHERE namespace = $1 AND environment = $2 AND replayed_at IS NULL GROUP BY reason ORDER BY reason
"""

GIVEN_UP: Final = f"""
SELECT final, count(*) AS count, clock_timestamp() - min(dead_lettered_at) AS since FROM (
    SELECT final, dead_lettered_at FROM task_executions
    WHERE namespace = $1 AND environment = $2 AND dead_lettered_at IS NOT NULL AND status <> 'SUCCESSFUL'
    ORDER BY dead_lettered_at LIMIT {NEWEST}
) AS first GROUP BY final
"""  # noqa: S608 - a constant of ours

CRASHED: Final = f"""
SELECT count(*) FILTER (WHERE error_type = 'Crashed') AS count, count(*) = {NEWEST} AS at_least,
       clock_timestamp() - min(finished_at) FILTER (WHERE error_type = 'Crashed') AS since
FROM (
    SELECT error_type, finished_at FROM task_executions
    WHERE error_type IS NOT NULL AND enqueued_at >= (SELECT clock_timestamp()) - $3::interval AND {OURS}
    ORDER BY enqueued_at DESC LIMIT {NEWEST}
) AS newest
"""  # noqa: S608 - constants of ours

OTHERS: Final = f"""
WITH RECURSIVE found AS (
    SELECT NULL AS namespace, NULL AS environment, '' AS owner
    UNION ALL
    SELECT next.* FROM found CROSS JOIN LATERAL (
        SELECT namespace, environment, {OWNER} FROM task_executions WHERE {OWNER} > found.owner ORDER BY 3 LIMIT 1
    ) AS next
)
SELECT environment FROM found WHERE namespace = $1 AND environment <> $2
"""  # noqa: S608 - an expression of our own
# One look at the index for each receiver and environment.

SWEPT: Final = f"""
WITH kept AS MATERIALIZED (
    SELECT status, enqueued_at, finished_at, error_type, error_message, return_value FROM task_executions
    WHERE task_id >= 'scheduled-' || $3::text || '-' AND task_id < 'scheduled-' || $3 || '.'
      AND namespace = $1 AND environment = $2 AND task_path = $3
),
recent AS (SELECT * FROM kept WHERE enqueued_at >= clock_timestamp() - $4::interval)
SELECT (SELECT min(enqueued_at) FROM task_executions WHERE {OURS}) IS NULL AS untouched,
       (SELECT clock_timestamp() - max(finished_at) FROM recent WHERE status = 'SUCCESSFUL') AS ended,
       (SELECT error_type || ': ' || left(error_message, 200) FROM recent ORDER BY enqueued_at DESC LIMIT 1) AS failure,
       (SELECT coalesce(sum((return_value ->> 'stranded')::int), 0) FROM kept WHERE enqueued_at >= (
            SELECT clock_timestamp() - $5::interval - make_interval(mins =>
                (pg_relation_size('task_executions') / current_setting('block_size')::bigint / {PATROL})::int)
        )) AS stranded
"""  # noqa: S608 - constants of ours
# By the ids of its firings, which are kept for a day: by their age it would walk past everything that ran meanwhile.
