"""The tasks of the storm. Transactional effects go through `ctx`; plain ones are lines in a file that outlives the process.

Each effect bears the fence under which it was made, and so does each result: the books compare them with the record's.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from storm_points import append, fences, point  # type: ignore[import-not-found]  # beside it, where the receiver works

from receiver import PermanentError, TaskContext, TaskRoute, task

EFFECT = "INSERT INTO effects (label, fence) VALUES (:label, current_setting('receiver.fence')::bigint)"


@contextmanager
def running(ctx: TaskContext) -> Iterator[int]:
    """Notes when this run's code begins and ends, by the machine's clock; its fence."""
    fence = fences[ctx.task_id]
    _note("begun", ctx.task_id, fence)
    try:
        yield fence
    finally:
        _note("ended", ctx.task_id, fence)


def _note(what: str, task_id: str, fence: int) -> None:
    append(os.environ["STORM_RUNS"], f"{what} {task_id} {fence} {os.getpid()} {time.monotonic():.6f}")


def mark(label: str) -> None:
    """A plain effect."""
    point.passing("before the effect")
    append(os.environ["STORM_MARKS"], label)
    point.passing("after the effect")


async def effect(ctx: TaskContext, label: str) -> None:
    """A transactional one."""
    connection = await ctx.connection()
    point.passing("before the effect")
    await connection.execute(text(EFFECT), {"label": label})
    point.passing("after the effect")


@task
async def plain(ctx: TaskContext, label: str) -> int:
    with running(ctx) as fence:
        mark(label)
        return fence


@task
def threaded(ctx: TaskContext, label: str) -> int:
    with running(ctx) as fence:
        mark(label)
        threading.Event().wait(
            0.005
        )  # not time.sleep(), which libfaketime makes fail on Python 3.11 and newer
        return fence


@task
async def transactional(ctx: TaskContext, label: str) -> int:
    with running(ctx) as fence:
        await effect(ctx, label)
        return fence


@task
async def slow(ctx: TaskContext, label: str) -> int:
    """Longer than its lease, so that it lives by the heartbeat; it holds a connection of the tasks' pool all the time."""
    with running(ctx) as fence:
        await effect(ctx, label)
        await asyncio.sleep(random.uniform(0.5, 3.0))
        return fence


@task
async def crowd(ctx: TaskContext, label: str) -> int:
    """One of those that come all at once."""
    with running(ctx) as fence:
        await asyncio.sleep(0.5)
        mark(label)
        return fence


@task
async def failing(ctx: TaskContext, label: str) -> int:
    """Fails until its third attempt; what it wrote before it failed must be gone."""
    with running(ctx) as fence:
        await effect(ctx, label)
        if ctx.attempt < 3:
            raise RuntimeError(fence)
        return fence


@task
async def poison(ctx: TaskContext, label: str) -> None:
    """Never succeeds; after three attempts, however they ended, it is final."""
    with running(ctx) as fence:
        await effect(ctx, label)
        raise RuntimeError(fence)


@task
async def hopeless(ctx: TaskContext, label: str) -> None:
    """Final at once."""
    with running(ctx) as fence:
        await effect(ctx, label)
        raise PermanentError(str(fence))


@task
async def parent(ctx: TaskContext, label: str) -> int:
    """Enqueues another in its own transaction: it has exactly one child, however often it was tried, or none."""
    with running(ctx) as fence:
        await effect(ctx, label)
        await ctx.enqueue(transactional, f"{label}-child")
        if ctx.attempt < 2 and random.random() < 0.3:
            raise RuntimeError(fence)
        return fence


@task
async def nightly(ctx: TaskContext) -> int:
    """Scheduled: each firing is an execution of its own."""
    with running(ctx) as fence:
        await effect(ctx, ctx.task_id)
        return fence


@task
async def once(ctx: TaskContext, label: str) -> int:
    """Has one attempt, which ends well unless its code is cut off. However long a COMMIT hangs, it is not used up by that."""
    with running(ctx) as fence:
        await effect(ctx, label)
        return fence


@task
async def thorny(ctx: TaskContext, label: str) -> int:
    """Its row has a trigger that makes trouble."""
    with running(ctx) as fence:
        await effect(ctx, label)
        return fence


@task
async def sick(ctx: TaskContext, label: str) -> int:
    """Its topic refuses all messages for a time."""
    with running(ctx) as fence:
        await effect(ctx, label)
        return fence


tasks = [
    TaskRoute(plain),
    TaskRoute(threaded),
    TaskRoute(transactional),
    TaskRoute(slow),
    TaskRoute(crowd),
    TaskRoute(failing),
    TaskRoute(poison, max_attempts=3),
    TaskRoute(hopeless),
    TaskRoute(parent),
    TaskRoute(once, max_attempts=1),
    TaskRoute(thorny),
    TaskRoute(sick),
    TaskRoute(nightly, schedule="0 3 * * *"),
]
