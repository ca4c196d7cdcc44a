"""The tasks that the acceptance tests push: one for each way in which a task can end.

Every call leaves a mark in `MARKS_FOLDER`, so that a test can count how often a function really ran; tasks that
wait do so until the test makes a file there.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from receiver import PermanentError, TaskContext, TaskRoute, task

FOLDER = Path(os.environ.get("MARKS_FOLDER", "."))


def note(label: str) -> int:
    """One call more; returns how many that makes."""
    with (FOLDER / label).open("a") as marks:
        marks.write("x")
        return marks.tell()


def is_open(label: str) -> bool:
    return (FOLDER / f"{label}.open").exists()


TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")


@asynccontextmanager
async def tenant(ctx: TaskContext) -> AsyncIterator[None]:
    """For `TASKS_AROUND`: whose the run is."""
    token = TENANT.set(f"tenant of {ctx.task_id}")
    try:
        yield
    finally:
        TENANT.reset(token)


@task
async def whose() -> str:
    return TENANT.get()


@task
def whose_in_thread() -> str:
    return TENANT.get()


@task
async def succeed(label: str, value: object = None) -> object:
    note(label)
    return value


@task
def succeed_in_thread(label: str, value: object = None) -> object:
    note(label)
    return value


async def undecorated(label: str, value: object = None) -> object:
    note(label)
    return value


def undecorated_in_thread(label: str, value: object = None) -> object:
    note(label)
    return value


@task
async def renamed(label: str, value: object = None) -> object:
    note(label)
    return value


@task
async def know(ctx: TaskContext, label: str) -> list[object]:
    note(label)
    return [ctx.task_id, ctx.attempt, ctx.message_id, ctx.remaining.total_seconds() > 0]


@task
async def write(ctx: TaskContext, label: str, *, fail: bool = False) -> None:
    note(label)
    connection = await ctx.connection()
    await connection.execute(text("CREATE TABLE IF NOT EXISTS effects (label text)"))
    await connection.execute(text("INSERT INTO effects VALUES (:label)"), {"label": label})
    if fail:
        raise ValueError("after writing")


@task
def next_day(label: str, day: date) -> date:
    note(label)
    return day + timedelta(days=1)


@task
async def fail(label: str) -> None:
    note(label)
    raise ValueError("out of paper \0")


@task
def fail_in_thread(label: str) -> None:
    note(label)
    raise ValueError("out of paper")


@task
async def fail_once(label: str) -> str:
    if note(label) == 1:
        raise ConnectionError("the printer does not answer")
    return "printed"


@task
async def give_up(label: str) -> None:
    note(label)
    raise PermanentError("no such printer")


@task
async def try_twice(label: str) -> None:
    note(label)
    raise ValueError("out of paper")


@task
async def exceed(label: str) -> None:
    note(label)
    await asyncio.Event().wait()


@task
def exceed_in_thread(ctx: TaskContext, label: str) -> None:
    note(label)
    while not ctx.cancelled:
        time.sleep(0.01)


@task
async def refuse_to_stop(label: str) -> None:
    note(label)
    while not is_open(label):
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue


@task
async def wait(label: str, ballast: str = "") -> str:
    note(label)
    while not is_open(label):  # noqa: ASYNC110 - it is another process that opens
        await asyncio.sleep(0.01)
    return "waited"


@task
async def hold_connection(ctx: TaskContext, label: str) -> str:
    await ctx.connection()
    return await wait(label)


@task
async def wait_briefly(label: str) -> str:
    """Its route has a short ack deadline: so long is the recording of what it did insisted on."""
    return await wait(label)


@task
def wait_in_thread(label: str) -> str:
    note(label)
    while not is_open(label):
        time.sleep(0.01)
    return "waited"


@task
async def return_something(label: str, kind: str) -> object:
    note(label)
    values: dict[str, object] = {
        "NUL": "a\0b",
        "object": object(),
        "large": "x" * 2_000_000,
        "surrogate": "\ud800",
        "NaN": float("nan"),
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    return values[kind]


@task
async def switched(label: str) -> None:
    note(label)


@task
async def tick(ctx: TaskContext) -> None:
    note(ctx.task_id)


tasks = [
    TaskRoute(succeed),
    TaskRoute(succeed_in_thread),
    TaskRoute(undecorated),
    TaskRoute(undecorated_in_thread),
    TaskRoute(renamed, aliases=["former_name", "former_tasks.renamed"]),
    TaskRoute(know),
    TaskRoute(write),
    TaskRoute(next_day),
    TaskRoute(fail),
    TaskRoute(fail_in_thread),
    TaskRoute(fail_once),
    TaskRoute(give_up),
    TaskRoute(hold_connection),
    TaskRoute(whose),
    TaskRoute(whose_in_thread),
    TaskRoute(try_twice, max_attempts=2),
    TaskRoute(exceed, timeout=0.3),
    TaskRoute(exceed_in_thread, timeout=0.3),
    TaskRoute(refuse_to_stop, timeout=0.2),
    TaskRoute(wait),
    TaskRoute(wait_briefly, ack_deadline=12),
    TaskRoute(wait_in_thread),
    TaskRoute(return_something),
    TaskRoute(switched, kill_switch="ACCEPTANCE_SWITCH"),
    TaskRoute(tick, schedule="*/5 * * * *"),
]
