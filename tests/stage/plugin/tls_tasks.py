"""Tasks that say how their process and their transaction are connected."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from receiver import PermanentError, TaskContext, TaskRoute, task


@task
async def leaf(label: str) -> str:
    return label


@task
async def look_around(ctx: TaskContext, label: str) -> list[object]:
    """The module of the loop's class; whether the transaction's connection has TLS; what was enqueued here."""
    connection = await ctx.connection()
    has_tls = await connection.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
    return [type(asyncio.get_running_loop()).__module__, has_tls, (await leaf.aenqueue(label)).id]


@task
async def give_up(label: str) -> None:
    raise PermanentError(label)


tasks = [TaskRoute(leaf), TaskRoute(look_around), TaskRoute(give_up)]
