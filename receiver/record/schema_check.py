"""Whether the tables are those of this code, and whether this role may use them.

Asked before serving and by /ready, and to explain a statement that was refused because of the tables. Serving refuses
older tables and accepts newer ones, so that the previous revision keeps working during a deployment.

Row level security is judged from the catalog: no row is read or written. PostgreSQL lets a row pass when one permissive
policy and every restrictive one let it; without a permissive policy nothing passes. An expression is judged only when it
is the constant true or false. Under `row_security = off` PostgreSQL refuses every statement that a policy would filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import asyncpg

from receiver.errors import DatabaseUnavailable, SchemaError
from receiver.record.sqlstates import schema_error, sqlstate

if TYPE_CHECKING:
    from receiver.record.database import Executor

VERSION_TABLE: Final = "receiver_alembic_version"
"""Beside the application's own table of versions."""

HEAD: Final = "0006"
"""The newest step. A test compares it with the folder of steps, so that serving need not import alembic."""

KNOWN: Final = ("0001", "0002", "0003", "0004", "0005", "0006")
"""Every step up to HEAD. Any other version is of a newer release."""

TABLES: Final = ("task_executions", "task_attempts", "rejected_messages")
"""What a delivery reads and writes."""

NAMES: Final = f"ARRAY{list(TABLES)}"
"""The same in SQL. They are no parameter, so that `schema_name.qualified` finds them."""

NEEDED: Final = ("SELECT", "INSERT", "UPDATE")
"""The rights that a delivery needs on each table; pruning needs DELETE too."""

_PASSES: Final = """
(SELECT bool_or(p.polpermissive AND {passes}) AND bool_and(p.polpermissive OR {passes})
 FROM pg_policy p
 CROSS JOIN LATERAL (SELECT pg_get_expr(p.polqual, p.polrelid) AS qual,
                            pg_get_expr(p.polwithcheck, p.polrelid) AS written) AS e
 CROSS JOIN LATERAL (SELECT CASE WHEN c = 'a' THEN 'true' ELSE coalesce(e.qual, (NOT p.polpermissive)::text) END AS reads,
                            CASE WHEN c IN ('a', 'w') THEN coalesce(e.written, e.qual, (NOT p.polpermissive)::text)
                                 ELSE 'true' END AS writes) AS x
 WHERE p.polrelid = to_regclass(t) AND p.polcmd IN ('*', c)
   AND EXISTS (SELECT FROM unnest(p.polroles) AS r WHERE r = 0 OR pg_has_role(r, 'USAGE')))
"""
"""Whether policies let rows of table `t` pass for command `c`; NULL without policies. `c` is as in pg_policy.polcmd: r SELECT,
a INSERT, w UPDATE, d DELETE. A missing expression passes nothing in a permissive policy, and everything in a restrictive one."""

MAY_PASS: Final = _PASSES.format(passes="'false' NOT IN (x.reads, x.writes)")
SURELY_PASS: Final = _PASSES.format(passes="(x.reads = 'true' AND x.writes = 'true')")


def shut(tables: str, commands: str, passes: str) -> str:
    """SQL for an array: the tables whose row level security applies to this role and stops one of the commands.

    Args:
        tables: SQL for an array of text.
        commands: their letters.
        passes: `MAY_PASS` finds what surely fails, `SURELY_PASS` what may hide rows.
    """
    return f"""
ARRAY(SELECT t FROM unnest({tables}) AS t
      WHERE row_security_active(to_regclass(t))
        AND (NOT current_setting('row_security')::bool OR EXISTS (SELECT FROM unnest('{{{",".join(commands)}}}'::"char"[]) AS c WHERE NOT coalesce({passes}, false))))
"""  # noqa: S608 - constants of ours


LOOK: Final = f"""
SELECT (SELECT version_num FROM {VERSION_TABLE} LIMIT 1) AS version,
       current_setting('transaction_read_only')::bool AS read_only,
       current_user::text AS role,
       ARRAY(SELECT t FROM unnest({NAMES}) AS t WHERE to_regclass(t) IS NULL) AS missing,
       ARRAY(SELECT t FROM unnest({NAMES}) AS t
             WHERE NOT (SELECT bool_and(has_table_privilege(to_regclass(t), p)) FROM unnest($1::text[]) AS p)) AS denied,
       {shut(f"ARRAY['{VERSION_TABLE}']", "r", MAY_PASS)}
       || {shut(NAMES, "raw", MAY_PASS)} AS shut
"""  # noqa: S608 - a constant of ours


class ReadOnly(DatabaseUnavailable):
    """The database takes no writes: a replica, or `default_transaction_read_only`."""


async def check(executor: Executor) -> None:
    """Passes when the tables are those of this code, or newer, and this role may use them. One statement.

    Raises:
        SchemaError: they are missing or older, the role lacks rights, or row level security lets nothing pass.
        ReadOnly: nothing can be written.
        DatabaseUnavailable: not known.
    """
    try:
        [found] = await executor.fetch(LOOK, NEEDED)
    except asyncpg.UndefinedTableError as error:
        raise schema_error(error) or error from None
    except asyncpg.InsufficientPrivilegeError:
        raise _denied(f"may not read {VERSION_TABLE}", "this role") from None
    if found["shut"]:
        tables, role = found["shut"], found["role"]
        disabled = " ".join(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;" for table in tables)
        raise SchemaError(
            f"row level security keeps the role {role} from {', '.join(tables)}; run `{disabled}`, or give the role BYPASSRLS or "
            "a policy for all commands USING (true)",
            state="row level security",
        )
    version = found["version"]
    if version != HEAD and (version in KNOWN or version is None):
        raise SchemaError(
            f"the database is at version {version or 'nothing'}, this code needs {HEAD}; run `receiver migrate`"
        )
    if found["missing"]:
        raise SchemaError(
            f"the database has no {' and no '.join(found['missing'])}, although it is migrated: give it its name back, or "
            "set TASKS_DB_SCHEMA or put its schema on the search_path",
            state="a table is missing",
        )
    if found["denied"]:
        raise _denied(f"may not use {', '.join(found['denied'])}", f"the role {found['role']}")
    if found["read_only"]:
        raise ReadOnly("it is read-only: a replica, or default_transaction_read_only is on")


async def explain(executor: Executor, error: asyncpg.PostgresError) -> None:
    """Raises what `check` says, when a statement of ours was refused because of the tables (SQLSTATE class 42)."""
    if sqlstate(error).startswith("42"):
        try:
            await check(executor)
        except SchemaError as explained:
            raise explained from error


def _denied(what: str, who: str) -> SchemaError:
    return SchemaError(
        f"{who} {what}; grant it SELECT on {VERSION_TABLE}, and SELECT, INSERT, UPDATE, DELETE on {', '.join(TABLES)}",
        state="no rights",
    )
