"""The tasks of the storm. Transactional effects go through `ctx`; plain ones are lines in a file that outlives the process."""

from __future__ import annotations

import asyncio
import os
import random
import time

from sqlalchemy import text

from receiver import PermanentError, TaskContext, TaskRoute, task

MARKS = os.environ.get("STORM_MARKS", os.devnull)
EFFECT = "INSERT INTO effects (label) VALUES (:label)"


def mark(label: str) -> None:
    """A plain effect: one short line, appended at once, so that lines of several processes never mix."""
    file = os.open(MARKS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{label}\n".encode())
    finally:
        os.close(file)


@task
async def plain(label: str) -> str:
    mark(label)
    return label


@task
def threaded(label: str) -> str:
    mark(label)
    time.sleep(0.005)
    return label


@task
async def transactional(ctx: TaskContext, label: str) -> str:
    connection = await ctx.connection()
    await connection.execute(text(EFFECT), {"label": label})
    return label


@task
async def slow(ctx: TaskContext, label: str) -> str:
    """Longer than its lease, so that it lives by the heartbeat."""
    connection = await ctx.connection()
    await connection.execute(text(EFFECT), {"label": label})
    await asyncio.sleep(random.uniform(0.5, 3.0))
    return label


@task
async def failing(ctx: TaskContext, label: str) -> str:
    """Fails until its third attempt; what it wrote before it failed must be gone."""
    connection = await ctx.connection()
    await connection.execute(text(EFFECT), {"label": label})
    if ctx.attempt < 3:
        raise RuntimeError(label)
    return label


@task
async def poison(ctx: TaskContext, label: str) -> None:
    """Never succeeds; after three attempts, however they ended, it is final."""
    connection = await ctx.connection()
    await connection.execute(text(EFFECT), {"label": label})
    raise RuntimeError(label)


@task
async def hopeless(ctx: TaskContext, label: str) -> None:
    """Final at once."""
    connection = await ctx.connection()
    await connection.execute(text(EFFECT), {"label": label})
    raise PermanentError(label)


@task
async def parent(ctx: TaskContext, label: str) -> str:
    """Enqueues another in its own transaction: it has exactly one child, however often it was tried, or none."""
    connection = await ctx.connection()
    await connection.execute(text(EFFECT), {"label": label})
    await ctx.enqueue(transactional, f"{label}-child")
    if ctx.attempt < 2 and random.random() < 0.3:
        raise RuntimeError(label)
    return label


@task
async def nightly(ctx: TaskContext) -> None:
    """Scheduled: each firing is an execution of its own."""
    connection = await ctx.connection()
    await connection.execute(text(EFFECT), {"label": ctx.task_id})


tasks = [
    TaskRoute(plain),
    TaskRoute(threaded),
    TaskRoute(transactional),
    TaskRoute(slow),
    TaskRoute(failing),
    TaskRoute(poison, max_attempts=3),
    TaskRoute(hopeless),
    TaskRoute(parent),
    TaskRoute(nightly, schedule="0 3 * * *"),
]
