"""What the record still needs of topics that no task has any more: executions that are not final may yet be delivered.

The topic of each is found from the task's path as the row has it, so that a shortened name is found as well.
Next: `receiver.provision.planning` refuses to delete these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.provision.planning import Needed
from receiver.reading import queries

if TYPE_CHECKING:
    from receiver.provision.scope import Scope
    from receiver.record.database import Database


async def needed(database: Database, scope: Scope) -> Needed:
    """The topics of all executions of this namespace that are not final.

    Raises:
        SchemaError, DatabaseUnavailable: the record cannot be asked.
    """
    async with queries.reading(database) as connection:
        counts = await queries.unfinished(connection, scope.namespace)
    return Needed({scope.topic(path): _why(path, count) for path, count in counts.items()})


def _why(path: str, count: int) -> str:
    those = "1 execution is" if count == 1 else f"{count} executions are"
    return f"{those} not final yet; see `receiver executions list --task {path}`"
