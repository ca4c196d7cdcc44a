"""A task that finds no connection in the tasks' pool comes again, and its attempt is not counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text

from receiver import PermanentError, TaskContext
from receiver.endings.outcomes import HandedBack, Succeeded
from receiver.errors import OutOfConnections
from tests.postgres.conftest import Instances
from tests.postgres.record import Look, route


async def lets_it_out(ctx: TaskContext) -> None:
    await ctx.connection()


async def by_session(ctx: TaskContext) -> None:
    await ctx.session()


async def wraps_it(ctx: TaskContext) -> None:
    try:
        await ctx.connection()
    except OutOfConnections as error:
        raise LookupError("the shop's own error") from error


async def hides_it(ctx: TaskContext) -> None:
    try:
        await ctx.connection()
    except OutOfConnections:
        raise PermanentError("gave up") from None


async def in_a_group(ctx: TaskContext) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(lets_it_out(ctx))


async def gets_over_it(ctx: TaskContext) -> str:
    try:
        await ctx.connection()
    except OutOfConnections:
        return "without"
    return "with"


async def gets_over_it_and_fails(ctx: TaskContext) -> None:
    await gets_over_it(ctx)
    raise ValueError("for another reason")


Task = Callable[[TaskContext], Awaitable[object]]


@pytest.mark.parametrize("task", [lets_it_out, by_session, wraps_it, hides_it, in_a_group])
async def test_a_task_that_ends_for_want_of_a_connection_is_ready_again(
    instances: Instances, look: Look, task: Task
) -> None:
    """Whatever its code made of the error: another run, with a connection, is what it needs."""
    instance = instances(pool_size=1, pool_wait=0.05)
    holding = await instance.pool.engine.connect()
    declared = route(task, max_attempts=1)
    for fence in (1, 2):
        assert await instance.finish(await instance.claim("starved", declared)) == HandedBack(
            "connection for the task"
        )
        assert await look.state("starved") == ("READY", False, 0, fence)
    await holding.close()
    await instance.finish(await instance.claim("starved", declared))
    assert await look.state("starved") == ("SUCCESSFUL", True, 1, 3)


async def test_a_task_that_gets_over_it_goes_on(instances: Instances, look: Look) -> None:
    """It has succeeded if it returns, and failed if it fails for another reason."""
    instance = instances(pool_size=1, pool_wait=0.05)
    holding = await instance.pool.engine.connect()
    assert await instance.run("over it", gets_over_it) == Succeeded('"without"')
    await instance.run("fails", gets_over_it_and_fails)
    assert await look.state("fails") == ("FAILED", False, 1, 1)
    await holding.close()


async def test_two_hundred_tasks_of_a_pool_of_three_all_succeed(instances: Instances, look: Look) -> None:
    """As Pub/Sub pushes them: forty at a time, again and again until they are acked."""
    instance = instances(pool_size=3, pool_wait=0.1)
    waiting = [f"task-{number}" for number in range(200)]
    refused = 0

    async def works(ctx: TaskContext) -> None:
        connection = await ctx.connection()
        await connection.execute(text("SELECT pg_sleep(0.01)"))

    async def deliver() -> None:
        nonlocal refused
        while waiting:
            task_id = waiting.pop(0)
            if isinstance(await instance.run(task_id, works, max_attempts=1), HandedBack):
                refused += 1
                waiting.append(task_id)

    await asyncio.gather(*(deliver() for _ in range(40)))
    rows = await look.connection.fetch("SELECT status, attempt, count(*) FROM task_executions GROUP BY 1, 2")
    assert [tuple(row) for row in rows] == [("SUCCESSFUL", 1, 200)]
    assert refused > 0
