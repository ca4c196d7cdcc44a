"""What the record says of a delivery that claims nothing: its execution has ended, is busy, not due, or another's. All of this only reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from receiver.record.sql.crashes import COUNTED, CRASHED, SUSPECT, died
from receiver.record.sql.standbys import KEPT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from receiver.record.database import Executor
    from receiver.record.whose import Whose
    from receiver.tasks.route import TaskRoute

_DONE: Final = f"CASE WHEN {KEPT} THEN 'done' END"

VERDICTS: Final = f"""
SELECT i.task_id,
       CASE
           WHEN e.task_id IS NULL THEN 'busy'
           WHEN e.namespace <> $5 OR e.environment <> $6 THEN 'foreign'
           WHEN e.final AND e.task_name = i.task_name THEN {_DONE}
           WHEN NOT e.task_path = ANY (string_to_array(i.paths, E'\\n')) THEN 'foreign'
           WHEN e.final THEN {_DONE}
           WHEN e.status = 'RUNNING' AND e.lease_expires_at > clock_timestamp() THEN 'busy'
           WHEN e.run_after > clock_timestamp() THEN 'not_due'
           WHEN {COUNTED} >= i.max_attempts OR e.crashes + {died("$8::text")} >= {CRASHED} THEN 'exhausted'
           WHEN e.crashes + {died("$8::text")} >= $7 THEN 'suspect'
           ELSE 'locked'
       END AS verdict
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS i(task_id, task_name, paths, max_attempts)
LEFT JOIN task_executions e ON e.task_id = i.task_id
"""  # noqa: S608 - as above
# A statement of its own: few deliveries need it, and as part of the claim every one paid for it.


async def verdicts(
    executor: Executor, deliveries: Mapping[str, TaskRoute], *, whose: Whose, owner: str, suspects: bool
) -> dict[str, str]:
    """Why these ids, each with its route, could not be claimed a moment ago.

    busy, done, not_due, exhausted, foreign, suspect, or locked (free, but its row is locked). A row that cannot be seen is busy.
    """
    routes = deliveries.values()
    rows = await executor.fetch(
        VERDICTS,
        list(deliveries),
        [route.name for route in routes],
        ["\n".join(route.paths) for route in routes],
        [route.max_attempts for route in routes],
        *whose,
        CRASHED if suspects else SUSPECT,
        owner,
    )
    return {row["task_id"]: row["verdict"] for row in rows}


IS_DONE: Final = f"""
SELECT task_id, {KEPT} AS kept FROM task_executions
WHERE task_id = $1 AND final AND namespace = $2 AND environment = $3
  AND (task_name = $4 OR task_path = ANY ($5::text[]))
"""  # noqa: S608 - an expression of our own


async def is_done(executor: Executor, task_id: str, route: TaskRoute, *, whose: Whose) -> bool:
    """Whether this route's execution is final, on the standbys too."""
    return bool(await executor.fetch(IS_DONE, task_id, *whose, route.name, list(route.paths)))
