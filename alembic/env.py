"""How alembic runs our steps: on the connection that `receiver.record.migrations` hands it.

In one transaction, but for a step that builds an index CONCURRENTLY: what came before it is committed then.
"""

from __future__ import annotations

from alembic import context

from receiver.record.migrations import LIMITS, LOCK_TIMEOUT
from receiver.record.schema import metadata
from receiver.record.schema_check import VERSION_TABLE

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    version_table_schema=context.config.attributes["schema"],
    transactional_ddl=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    for name, value in {**LIMITS, "lock_timeout": LOCK_TIMEOUT}.items():
        context.execute(f"SET LOCAL {name} = '{value}'")
    context.run_migrations()
