"""Tasks that are given a secret, return one, raise one, and end in every way in which a task can end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from receiver import PermanentError, TaskContext, TaskRoute, task

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

FOLDER = Path(os.environ["MARKS_FOLDER"])
RESULT = os.environ["CANARY_RESULT"]
RAISED = os.environ["CANARY_RAISED"]


def note(label: str) -> None:
    (FOLDER / label).touch()


def is_open(label: str) -> bool:
    return (FOLDER / f"{label}.open").exists()


@task
async def succeed(label: str, secret: object) -> Mapping[str, object]:
    return {"secret": RESULT, "given": secret}


@task
def succeed_in_thread(label: str, secret: object) -> list[object]:
    return [RESULT, secret]


@task
async def write(ctx: TaskContext, label: str, secret: str) -> str:
    await _insert(await ctx.connection(), secret)
    return RESULT


@task
async def fail(label: str, secret: str) -> None:
    nothing: dict[str, str] = {}
    try:
        nothing[RAISED]
    except KeyError as error:
        error.add_note(RAISED)
        raise ValueError(RAISED) from error


@task
def fail_in_thread(label: str, secret: str) -> None:
    raise ExceptionGroup(RAISED, [ValueError(RAISED)])


@task
async def give_up(label: str, secret: str) -> None:
    raise PermanentError(RAISED)


@task
async def try_once(label: str, secret: str) -> None:
    raise ValueError(RAISED)


@task
async def return_the_unstorable(label: str, secret: str) -> list[str]:
    return [RESULT, secret, "\0"]


@task
async def return_an_object(label: str, secret: str) -> list[object]:
    return [RESULT, secret, object()]


@task
async def return_too_much(label: str, secret: str) -> str:
    return f"{RESULT}{secret}" * 100_000


@task
async def write_and_return_the_unstorable(ctx: TaskContext, label: str, secret: str) -> list[str]:
    await _insert(await ctx.connection(), secret)
    return [RESULT, secret, "\0"]


@task
async def hide_an_error(ctx: TaskContext, label: str, secret: str) -> list[str]:
    """Its transaction is broken and it does not say so: the settlement finds out, with the result in hand."""
    connection = await ctx.connection()
    try:
        await connection.execute(text("SELECT 1 / 0"))
    except DBAPIError:
        return [RESULT, secret]
    raise AssertionError


@task
async def commit_behind_its_back(ctx: TaskContext, label: str, secret: str) -> list[str]:
    driver = (await (await ctx.connection()).get_raw_connection()).driver_connection
    assert driver is not None
    await driver.execute("COMMIT")
    return [RESULT, secret]


@task
async def break_a_rule(ctx: TaskContext, label: str, secret: str) -> None:
    """Its own statement fails, with the secret among the values."""
    await (await ctx.connection()).execute(
        text("SELECT 1 / length(substr(:secret, 1000))"), {"secret": secret}
    )


@task
async def exceed(label: str, secret: str) -> None:
    await asyncio.Event().wait()


@task
async def refuse_to_stop(label: str, secret: str) -> str:
    while not is_open(label):
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue
    return RESULT


@task
async def wait(label: str, secret: str) -> str:
    note(label)
    while not is_open(label):  # noqa: ASYNC110 - it is another process that opens
        await asyncio.sleep(0.01)
    return RESULT


@task
def wait_in_thread(label: str, secret: str) -> str:
    note(label)
    while not is_open(label):
        time.sleep(0.01)
    return RESULT


@task
async def switched(label: str, secret: str) -> None: ...


async def _insert(connection: AsyncConnection, secret: str) -> None:
    await connection.execute(text("CREATE TABLE IF NOT EXISTS kept (secret text)"))
    await connection.execute(text("INSERT INTO kept VALUES (:secret)"), {"secret": secret})


tasks = [
    TaskRoute(succeed),
    TaskRoute(succeed_in_thread),
    TaskRoute(write),
    TaskRoute(fail),
    TaskRoute(fail_in_thread),
    TaskRoute(give_up),
    TaskRoute(try_once, max_attempts=1),
    TaskRoute(return_the_unstorable),
    TaskRoute(return_an_object),
    TaskRoute(return_too_much),
    TaskRoute(write_and_return_the_unstorable),
    TaskRoute(hide_an_error),
    TaskRoute(commit_behind_its_back),
    TaskRoute(break_a_rule),
    TaskRoute(exceed, timeout=0.3),
    TaskRoute(refuse_to_stop, timeout=0.2),
    TaskRoute(wait),
    TaskRoute(wait_in_thread),
    TaskRoute(switched, kill_switch="CANARY_SWITCH"),
]
