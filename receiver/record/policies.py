"""What row level security does to this role on the record's tables, asked of the catalog: no row is read or written.

PostgreSQL lets a row pass when one permissive policy and every restrictive one let it. Without a permissive policy nothing passes.
What a policy's expression lets pass is known here only when it is the constant true or false.

Next: `receiver.record.migrations.check` refuses what surely fails, `receiver.doctor` warns of what may.
"""

from __future__ import annotations

from typing import Final

PASSES: Final = """
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
"""Whether policies let rows of table `t` pass for command `c`; NULL when there are none. `c` is as in pg_policy.polcmd: r SELECT,
a INSERT, w UPDATE, d DELETE. A policy without the expression that is asked for passes nothing if permissive, all if restrictive."""

MAY_PASS: Final = PASSES.format(passes="'false' NOT IN (x.reads, x.writes)")
SURELY_PASS: Final = PASSES.format(passes="(x.reads = 'true' AND x.writes = 'true')")


def shut(tables: str, commands: str, passes: str) -> str:
    """SQL for an array: those of the tables on which row level security applies to this role, and some command is not passed.

    Args:
        tables: SQL for an array of text.
        commands: their letters.
        passes: `MAY_PASS` finds what surely fails, `SURELY_PASS` what may hide rows.
    """
    return f"""
ARRAY(SELECT t FROM unnest({tables}) AS t
      WHERE row_security_active(to_regclass(t))
        AND EXISTS (SELECT FROM unnest('{{{",".join(commands)}}}'::"char"[]) AS c WHERE NOT coalesce({passes}, false)))
"""  # noqa: S608 - constants of ours
