"""The plugin of `receiver demo`: a task for each way in which a delivery can end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sqlalchemy import text

from receiver.errors import PermanentError
from receiver.tasks.context import TaskContext
from receiver.tasks.route import TaskRoute
from receiver.tasks.task import task

KILL_SWITCH = "DEMO_NEWSLETTER"
TIMEOUT = 0.3
"""Seconds that `never_ends` has."""


@task
async def greet(name: str) -> dict[str, str]:
    """Returns; `async def`, so it runs in the event loop."""
    await asyncio.sleep(0)
    return {"greeting": f"Hello, {name}!"}


def resize_image(image_id: int, *, width: int = 200) -> dict[str, int]:
    """Returns; a plain `def` without decorator, so it runs in a thread."""
    return {"image": image_id, "width": width}


@task
async def write_order(ctx: TaskContext, order: str, *, fail: bool = False) -> str:
    """Writes through the task's transaction: the line is there if, and only if, the execution is SUCCESSFUL."""
    connection = await ctx.connection()
    await connection.execute(text("INSERT INTO demo_orders (name) VALUES (:name)"), {"name": order})
    if fail:
        raise RuntimeError("after the INSERT, before the end")
    return order


@task
async def flaky(ctx: TaskContext) -> str:
    """Fails at first and succeeds when it is delivered again."""
    if ctx.attempt == 1:
        raise ConnectionError("the mail server did not answer")
    return f"sent at attempt {ctx.attempt}"


@task
def always_fails() -> None:
    """Uses up its attempts."""
    raise ValueError("nothing here ever works")


@task
async def stranded() -> None:
    """Fails at every delivery, so its message becomes a dead letter."""
    raise ConnectionError("the port of destination is closed for ever")


@task
async def refuses(card: str) -> None:
    """Knows that no retry can help."""
    raise PermanentError(f"card {card} has expired")


@task
async def returns_an_object() -> object:
    """Returns what no record can hold."""
    return object()


@task
async def never_ends() -> None:
    """Is called off when its time is over."""
    await asyncio.Event().wait()


@task
async def hold(until: str) -> str:
    """Runs until a file exists."""
    while not Path(until).exists():  # noqa: ASYNC110, ASYNC240 - another process makes the file
        await asyncio.sleep(0.02)
    return "released"


@task
async def newsletter() -> None:
    """Is switched off."""


@task
async def cleanup() -> dict[str, Any]:
    """Is scheduled."""
    return {"removed": 0}


tasks = [
    TaskRoute(greet),
    TaskRoute(resize_image, aliases=["shop.images.resize"]),
    TaskRoute(write_order),
    TaskRoute(flaky),
    TaskRoute(always_fails, max_attempts=2),
    TaskRoute(stranded),
    TaskRoute(refuses),
    TaskRoute(returns_an_object),
    TaskRoute(never_ends, timeout=TIMEOUT),
    TaskRoute(hold),
    TaskRoute(newsletter, kill_switch=KILL_SWITCH),
    TaskRoute(cleanup, schedule="0 3 * * *", schedule_timezone="Europe/London"),
]
