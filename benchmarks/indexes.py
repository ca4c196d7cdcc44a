"""What each question costs a record of ten million rows, and what each index costs a delivery that nobody ever looks for.

Two tables. `explained`: every statement with its plan, and those that need a secondary index once more without it. `costs`: claims and
settlements with and without each index, those there are and those that one might want, with the share of updates that stay
within their page (HOT). An index on a column that a settlement changes makes it write a new entry into *every* index of the row.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from itertools import count
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from benchmarks import filling, gauges, queries
from benchmarks.queries import BATCH, Question, literal, questions
from benchmarks.rivals import new_database
from receiver.record.connections import SERVER_SETTINGS
from receiver.record.database import Database
from receiver.record.migrations import upgrade
from receiver.record.sql import settlements
from receiver.record.sql.settlements import SettleItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.ground import Ground

Rows = list[dict[str, Any]]

CANDIDATES: Final = {
    "on status": "CREATE INDEX candidate ON task_executions (status)",
    "on the lease": "CREATE INDEX candidate ON task_executions (lease_expires_at) WHERE status = 'RUNNING'",
    "of what is not final": "CREATE INDEX candidate ON task_executions (namespace, enqueued_at) WHERE NOT final",
    "on finished_at": "CREATE INDEX candidate ON task_executions (finished_at)",
    "on receiver and age, as columns": "CREATE INDEX candidate ON task_executions (namespace, environment, enqueued_at)",
    "on the task": "CREATE INDEX candidate ON task_executions (task_name, enqueued_at)",
}
"""Indexes that are not there, each with what one would want it for."""

SLOW: Final = 30.0
"""Seconds after which a statement is given up; the doctor's are at 3, listings at 30."""


@dataclass(frozen=True, slots=True)
class Explained:
    """What one question cost. `node`: the deepest scan of the most rows; `blocks`: of 8 kB, read or found in memory."""

    ms: float
    plan: str
    blocks: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one delivery with some set of indexes. `cpu`: seconds of the server's; `hot`: updates that stayed within their page."""

    rate: float
    cpu: float
    hot: float
    wal: float


def explained(ground: Ground, rows: int) -> Rows:
    """Every statement at so many rows: its plan, its time and the blocks that it touched."""
    url = new_database(ground, "indexes")
    upgrade(Database.of(url))
    built = asyncio.run(filling.fill(url, rows))
    return asyncio.run(_explained(url, rows)) + [
        {"": "build", "statement": name, "ms": seconds * 1e3} for name, seconds in built.items()
    ]


def costs(ground: Ground, *, seconds: float, rounds: int) -> Rows:
    """Claims and settlements a second with the indexes there are, without each, and with those one might want."""
    ways = {"as it is": "SELECT 1"}
    url = new_database(ground, "template_of_costs")
    upgrade(Database.of(url))
    ways |= {f"without {name}": f"DROP INDEX {name}" for name in asyncio.run(_secondary(url))}
    ways |= {
        f"fillfactor {share}": f"ALTER TABLE task_executions SET (fillfactor = {share})"
        for share in (100, 70)
    }
    ways |= {f"one {name}": statement for name, statement in CANDIDATES.items()}
    found: dict[str, list[Cost]] = {way: [] for way in ways}
    for number in range(rounds):
        turns = list(ways.items())
        for way, statement in turns if number % 2 == 0 else reversed(turns):
            url = new_database(ground, "costs")
            found[way].append(asyncio.run(_delivered(url, statement, seconds, ground.postgres.pid)))
    base = median(cost.cpu for cost in found["as it is"])
    return [
        {
            "": way,
            "server CPU µs each": (cpu := median(cost.cpu for cost in costs)) * 1e6,
            "ratio": f"{cpu / base:.2f} x",
            "HOT": f"{median(cost.hot for cost in costs):.0%}",
            "WAL bytes each": median(cost.wal for cost in costs),
            "deliveries/s": median(cost.rate for cost in costs),
        }
        for way, costs in found.items()
    ]


async def _secondary(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [row["name"] for row in await connection.fetch(filling.SECONDARY)]
    finally:
        await connection.close()


async def _explained(url: str, rows: int) -> Rows:
    connection = await asyncpg.connect(
        url, statement_cache_size=0
    )  # it prepares and forgets statements of its own
    try:
        blocks = await connection.fetchval("SELECT pg_relation_size('task_executions') / 8192")
        made: Rows = []
        asked = await asyncio.to_thread(questions, rows, blocks)
        for question in asked:
            found = await explain(connection, question)
            row = {"": question.asker, "statement": question.name}
            made.append(row | _told(found))
        for index in await connection.fetch(filling.SECONDARY):
            made += await _without(connection, index["name"], asked, made)
        return made
    finally:
        await connection.close()


async def _without(
    connection: asyncpg.Connection[asyncpg.Record], index: str, asked: Sequence[Question], made: Rows
) -> Rows:
    """The statements that are answered by this index, once more without it."""
    rows: Rows = []
    for question, row in zip(asked, made, strict=False):
        if index in row["plan"]:
            found = await explain(connection, question, f"DROP INDEX {index}")
            rows.append({"": question.asker, "statement": f"{question.name}, without it"} | _told(found))
    return rows


def _told(found: Explained | None) -> dict[str, Any]:
    if found is None:
        return {"plan": f"over {SLOW:g} s"}
    return {"ms": found.ms, "blocks": found.blocks, "plan": found.plan}


async def explain(
    connection: asyncpg.Connection[asyncpg.Record], question: Question, change: str = "SELECT 1"
) -> Explained | None:
    """Runs it as its asker would, twice, and rolls it back; the second time counts, because the first fills the caches. Changed, once."""
    found = None
    for _ in range(2 if change == "SELECT 1" else 1):
        transaction = connection.transaction()
        await transaction.start()
        try:
            for name, value in (question.settings or {}).items():
                if name not in ("statement_timeout", "default_transaction_isolation"):
                    await connection.execute(f"SET LOCAL {name} = '{value}'")
            await connection.execute(f"SET LOCAL statement_timeout = '{SLOW:g}s'")
            await connection.execute(change)
            await connection.execute(f"PREPARE question AS {question.statement}")
            values = ", ".join(literal(value) for value in question.arguments)
            call = f"question({values})" if values else "question"
            text = await connection.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {call}", timeout=2 * SLOW
            )
            [plan] = json.loads(text)
            root = plan["Plan"]
            blocks = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
            found = Explained(plan["Execution Time"], _scans(root), blocks)
        except asyncpg.QueryCanceledError:
            return None
        finally:
            await transaction.rollback()
            await connection.execute("DEALLOCATE ALL")
    return found


def _scans(node: dict[str, Any]) -> str:
    """How the tables were read, each way once."""
    found: list[str] = []

    def walk(node: dict[str, Any]) -> None:
        table = node.get("Relation Name")
        kind = node["Node Type"]
        if "Index Name" in node:
            found.append(f"{kind.removesuffix(' Scan')} {node['Index Name']}")
        elif table and "Scan" in kind and kind != "Bitmap Heap Scan":
            found.append(f"{kind} of {table}")
        for child in node.get("Plans", []):
            walk(child)

    walk(node)
    return ", ".join(dict.fromkeys(found))


CONNECTIONS: Final = 2
"""Connections that write: as many batches as the ledger has under way at most."""


async def _delivered(url: str, change: str, seconds: float, pid: int) -> Cost:
    """Claims and settles batches of new rows by the ledger's own two statements, for so many seconds."""
    await asyncio.to_thread(upgrade, Database.of(url))
    look = await asyncpg.connect(url)
    connections = [
        await asyncpg.connect(url, server_settings=dict(SERVER_SETTINGS)) for _ in range(CONNECTIONS)
    ]
    ids = count(0, BATCH)
    done = 0
    try:
        await look.execute(change)
        written = await look.fetchval("SELECT pg_current_wal_insert_lsn()")
        used, begun = gauges.usage(pid).cpu, time.perf_counter()

        async def work(own: asyncpg.Connection[asyncpg.Record]) -> None:
            nonlocal done
            while time.perf_counter() < begun + seconds:
                first = next(ids)
                new = [f"new-{number:012d}" for number in range(first, first + BATCH)]
                claimed = await queries.claim(own, queries.items(new))
                settled = await settlements.settle(
                    own, [SettleItem(key, "shop.send", return_value="2") for key in claimed]
                )
                if len(claimed) != BATCH or len(settled) != BATCH:
                    raise RuntimeError("a batch of new rows was not claimed and settled as a whole")
                done += BATCH
            await own.execute("SELECT pg_stat_force_next_flush()")

        await asyncio.gather(*map(work, connections))
        took, used = time.perf_counter() - begun, gauges.usage(pid).cpu - used
        wal = await look.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", written)
        updates = "SELECT n_tup_hot_upd::float8 / n_tup_upd FROM pg_stat_user_tables WHERE relname = 'task_executions'"
        return Cost(done / took, used / done, await look.fetchval(updates), float(wal) / done)
    finally:
        for connection in (look, *connections):
            await connection.close()
