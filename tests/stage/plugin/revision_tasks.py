"""The tasks of revisions that serve side by side: each says whose code ran it, in a mark that outlives the process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from sqlalchemy import text

import receiver
from receiver import TaskContext, TaskRoute, task

FOLDER = Path(os.environ.get("MARKS_FOLDER", "."))
REVISION = str(Path(receiver.__file__).parents[1])
"""Where this code is: the checkout, or a wheel's own folder."""


def mark(label: str) -> int:
    """One more line with this revision; returns how many starts there were."""
    with (FOLDER / f"{label}.runs").open("a+") as marks:
        marks.write(f"{REVISION}\n")
        marks.seek(0)
        return len(marks.readlines())


@task
async def run(label: str) -> str:
    mark(label)
    return REVISION


@task
async def gated(ctx: TaskContext, label: str) -> str:
    """Writes in its transaction, and waits for the gate of its own start."""
    start = mark(label)
    connection = await ctx.connection()
    await connection.execute(text("INSERT INTO effects VALUES (:label)"), {"label": label})
    while not (FOLDER / f"{label}.open.{start}").exists():  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.01)
    return REVISION


@task
async def hand_on(ctx: TaskContext, label: str) -> str:
    """Enqueues one more in its transaction."""
    await ctx.enqueue(run, f"{label}-handed")
    return REVISION


tasks = [TaskRoute(run), TaskRoute(gated), TaskRoute(hand_on)]
