"""The tasks of the soak: what a receiver does all day, the failures included."""

from __future__ import annotations

from sqlalchemy import text

from receiver import TaskContext, TaskRoute, task


@task
async def plain(number: int) -> int:
    return number


@task
def threaded(number: int) -> int:
    return number


@task
async def transactional(ctx: TaskContext, number: int) -> int:
    connection = await ctx.connection()
    await connection.execute(text("INSERT INTO effects VALUES (:number)"), {"number": number})
    return number


@task
async def failing(ctx: TaskContext, number: int) -> int:
    """Fails once."""
    if ctx.attempt == 1:
        raise RuntimeError(number)
    return number


tasks = [TaskRoute(plain), TaskRoute(threaded), TaskRoute(transactional), TaskRoute(failing)]
