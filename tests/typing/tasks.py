"""What a type checker knows of tasks. Checked by mypy, never run: every `type: ignore` here is an error that must be one.

`warn_unused_ignores` (part of strict) fails the check when a wrong call is no longer found out.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, assert_type

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from receiver import Task, TaskContext, TaskResult, TaskRoute, aenqueue_many, task
from receiver.models import TaskExecution
from receiver.tasks.call import Entry, TaskResultStatus


@task
def ship(order: int, *, express: bool = False) -> str:
    return f"{order} {express}"


@task
async def bill(order: int, customer: str = "") -> dict[str, int]:
    return {customer: order}


@task
async def audit(ctx: TaskContext, order: int) -> None:
    assert_type(ctx.task_id, str)
    assert_type(ctx.attempt, int)
    assert_type(ctx.message_id, str)
    assert_type(ctx.deadline, datetime)
    assert_type(ctx.remaining, timedelta)
    assert_type(ctx.cancelled, bool)
    assert_type(await ctx.connection(), AsyncConnection)
    assert_type(await ctx.session(), AsyncSession)
    ctx.cancelled = True  # type: ignore[misc]


@task
async def maybe(ctx: TaskContext | None, order: int) -> int:
    return order


# A task is its function: the parameters keep their types, and so does the result.
assert_type(ship(1), str)
assert_type(ship(1, express=True), str)
assert_type(ship.name, str)
assert_type(ship.path, str)
started: Coroutine[Any, Any, dict[str, int]] = bill(1)
bill(1)  # type: ignore[unused-coroutine]
function: Callable[[int], str] = ship

ship("1")  # type: ignore[arg-type]
ship()  # type: ignore[call-arg]
ship(1, True)  # type: ignore[call-arg]  # noqa: FBT003 - that is what is wrong
ship(1, slow=True)  # type: ignore[call-arg]
ship(1, express="yes")  # type: ignore[arg-type]
number: int = ship(1)  # type: ignore[assignment]
other: Callable[[str], str] = ship  # type: ignore[assignment]


async def awaited(ctx: TaskContext) -> None:
    assert_type(await bill(1), dict[str, int])
    assert_type(await bill(1, customer="a"), dict[str, int])
    await bill("1")  # type: ignore[arg-type]
    await bill(1, 2)  # type: ignore[arg-type]
    await audit(ctx, 1)
    await audit(1)  # type: ignore[call-arg, arg-type]


# What is no function is no task.
task(7)  # type: ignore[arg-type]

# A route takes a task or a function, and says nothing about their types.
routes: list[TaskRoute] = [TaskRoute(ship), TaskRoute(bill), TaskRoute(awaited, schedule="0 3 * * *")]
tasks: list[Task[..., Any]] = [ship, bill, audit]


# Enqueueing takes the function's arguments, without the context; it is not the caller's to give.
assert_type(ship.enqueue(1), TaskResult[str])
assert_type(ship.enqueue(1, express=True), TaskResult[str])
assert_type(ship.entry(1), Entry)
assert_type(audit.entry(1), Entry)
assert_type(audit.entry(order=1), Entry)
ship.enqueue()  # type: ignore[call-arg]
ship.enqueue("1")  # type: ignore[arg-type]
ship.enqueue(1, True)  # type: ignore[call-arg]  # noqa: FBT003 - that is what is wrong
ship.enqueue(1, slow=True)  # type: ignore[call-arg]
ship.using(run_after=timedelta(minutes=5)).enqueue("1")  # type: ignore[arg-type]
ship.using(priority=1)  # type: ignore[call-arg]
ship.using(run_after=5)  # type: ignore[arg-type]
audit.entry("1")  # type: ignore[arg-type]
audit.entry()  # type: ignore[call-arg]


@task
def report(payload: Any, pages: int = 1) -> None: ...


@task
def archive(document: object, pages: int = 1) -> None: ...


@task
def collect(rows: list[dict[str, Any]], pages: int = 1) -> None: ...


# What takes anything is not checked, and never refused.
report.enqueue(payload=1, pages=2)
archive.enqueue(document=1, pages=2)
collect.enqueue([{}], pages="2")  # type: ignore[arg-type]
collect.enqueue()  # type: ignore[call-arg]


async def enqueues(ctx: TaskContext) -> None:
    assert_type(await bill.aenqueue(1), TaskResult[dict[str, int]])
    assert_type(await audit.aenqueue(1), TaskResult[None])
    assert_type(await maybe.aenqueue(1), TaskResult[int])
    await maybe.aenqueue("1")  # type: ignore[arg-type]
    await bill.aenqueue("1")  # type: ignore[arg-type]
    await audit.aenqueue(ctx, 1)  # type: ignore[call-arg, arg-type]
    bill.aenqueue(1)  # type: ignore[unused-coroutine]
    assert_type(await ctx.enqueue(ship, 1, express=True), TaskResult[str])
    assert_type(await ctx.enqueue(bill, 1), TaskResult[dict[str, int]])
    assert_type(await ctx.enqueue(audit, 1), TaskResult[None])
    await ctx.enqueue(ship, "1")  # type: ignore[call-overload]
    await ctx.enqueue(ship)  # type: ignore[call-overload]
    await ctx.enqueue(audit, "1")  # type: ignore[call-overload]
    await ctx.enqueue(archive, document=1)
    result = await ship.aget_result("id")
    assert_type(result.return_value, str)
    assert_type((await bill.aget_result("id")).return_value, dict[str, int])
    assert_type(audit.get_result("id"), TaskResult[None])
    assert_type((await bill.using(label="a").aenqueue(1)).return_value, dict[str, int])
    anything: TaskResult = result
    assert_type(anything.return_value, Any)
    assert_type(result.status, TaskResultStatus)
    assert_type(result.finished_at, datetime | None)
    assert_type([error.traceback for error in result.errors], list[str])
    assert_type(TaskExecution().attempts[0].ended_at, datetime)
    assert_type(TaskExecution().finished_at, datetime | None)
    _ = select(TaskExecution.stauts)  # type: ignore[attr-defined]
    assert_type(await aenqueue_many([ship.entry(1), audit.entry(1)]), list[TaskResult])
