"""The record as a test sees it from outside, and rows as somebody else left them."""

from __future__ import annotations

import json
from typing import Any

import asyncpg

from receiver.contract.identity import rejection_key

MODULE = "acceptance_tasks"
NAMESPACE = "gyrinx"


class Record:
    """Reads what the receiver wrote, and writes what must have been there before."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def connect(self) -> Any:
        """A connection of the test's own, in autocommit."""
        return await asyncpg.connect(self.url)

    async def fetch(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        connection = await self.connect()
        try:
            return [dict(row) for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()

    async def row(self, task_id: str) -> dict[str, Any] | None:
        """The execution, with `return_value`, `args` and `kwargs` decoded."""
        for row in await self.fetch("SELECT * FROM task_executions WHERE task_id = $1", task_id):
            decoded = {
                name: json.loads(row[name]) for name in ("args", "kwargs", "return_value") if row[name]
            }
            return row | decoded
        return None

    async def attempts(self, task_id: str) -> list[dict[str, Any]]:
        """Its attempts that did not succeed, oldest first."""
        return await self.fetch("SELECT * FROM task_attempts WHERE task_id = $1 ORDER BY fence", task_id)

    async def rejected(self, body: bytes) -> dict[str, Any] | None:
        """What is kept of a rejected body."""
        rows = await self.fetch("SELECT * FROM rejected_messages WHERE key = $1", rejection_key(body))
        return rows[0] if rows else None

    async def forget(self, body: bytes) -> None:
        """Bodies of the catalogue share message ids; each starts its own count."""
        await self.fetch("DELETE FROM rejected_messages WHERE key = $1", rejection_key(body))

    async def insert(self, task_id: str, task_name: str, **columns: Any) -> None:
        """A row as an enqueuer or a former attempt would have left it; READY unless given otherwise.

        A column whose name ends in `_in` is a time, so many seconds from now.
        """
        given = {"task_path": f"{MODULE}.{task_name}", "namespace": NAMESPACE, "status": "READY"} | columns
        values: dict[str, Any] = {
            "task_id": task_id,
            "task_name": task_name,
            "args": "[]",
            # As `receivers.message` sends them.
            "kwargs": "{}" if "args" in columns else json.dumps({"label": task_id}, separators=(",", ":")),
        } | given
        times = {name.removesuffix("_in"): values.pop(name) for name in list(values) if name.endswith("_in")}
        times = {"enqueued_at": 0} | times
        places = [f"${index}" for index in range(1, len(values) + 1)]
        places += [f"clock_timestamp() + interval '{seconds} s'" for seconds in times.values()]
        await self.fetch(
            f"INSERT INTO task_executions ({', '.join([*values, *times])}) VALUES ({', '.join(places)})",  # noqa: S608 - names and numbers of this suite
            *values.values(),
        )
