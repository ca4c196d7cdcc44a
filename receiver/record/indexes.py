"""Indexes that are not valid: what an interrupted build leaves. They cost every write, and serve no query.

`receiver migrate` builds them anew, while writers go on. An index of the application's own is left alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from receiver.record.schema import metadata

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

INVALID: Final = """
SELECT c.relname AS name, i.indexrelid::regclass::text AS place
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND i.indrelid IN (SELECT to_regclass(t) FROM unnest($1::text[]) AS t)
ORDER BY c.relname
"""

COPY: Final = re.compile(r"_cc(new|old)\d*$")
"""What PostgreSQL appends to the name of the copy that REINDEX CONCURRENTLY makes, and leaves when it is interrupted."""


async def mend(connection: AsyncConnection) -> list[str]:
    """Builds the record's invalid indexes anew, and returns their names. The connection is in no transaction.

    A build of somebody else's that is under way is waited for.
    """
    driver = (await connection.get_raw_connection()).driver_connection
    if driver is None:
        return []
    ours = {str(index.name) for table in metadata.tables.values() for index in table.indexes}
    found = [
        row for row in await driver.fetch(INVALID, list(metadata.tables)) if COPY.sub("", row["name"]) in ours
    ]
    for row in found:
        if row["name"] in ours:
            await driver.execute(f"REINDEX INDEX CONCURRENTLY {row['place']}")
        else:
            await driver.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {row['place']}")
    return [row["name"] for row in found]
