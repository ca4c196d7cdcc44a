"""Tasks that enqueue tasks, in a receiver that has nothing to say where to but its own settings."""

from __future__ import annotations

import os
from pathlib import Path

from receiver import TaskContext, TaskRoute, task

FOLDER = Path(os.environ.get("MARKS_FOLDER", "."))


@task
async def leave_mark(label: str) -> None:
    with (FOLDER / label).open("a") as marks:
        marks.write("x")


@task
async def hand_on(ctx: TaskContext, label: str, *, fail: bool = False) -> str:
    result = await ctx.enqueue(leave_mark, label)
    if fail:
        raise LookupError("and so nothing was handed on")
    return result.id


@task
async def hand_on_regardless(label: str) -> None:
    await leave_mark.aenqueue(label)
    raise LookupError("but it was handed on")


@task
def hand_on_in_thread(label: str) -> str:
    return leave_mark.enqueue(label).id


tasks = [
    TaskRoute(leave_mark),
    TaskRoute(hand_on, max_attempts=1),
    TaskRoute(hand_on_regardless, max_attempts=1),
    TaskRoute(hand_on_in_thread),
]
