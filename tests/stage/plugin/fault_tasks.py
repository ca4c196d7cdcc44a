"""The tasks of the tests of faults. Each start and each effect leaves a mark in `MARKS_FOLDER` that outlives the process.

Most wait for a gate that the test opens: a file named after the label and the number of the start, so that a first
owner and the one that takes over can be let go one by one.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from sqlalchemy import text

from receiver import TaskContext, TaskRoute, task

FOLDER = Path(os.environ.get("MARKS_FOLDER", "."))
TICK = 0.01


def mark(name: str) -> int:
    """One more line in a file, written at once; returns how many there are."""
    with (FOLDER / name).open("ab", buffering=0) as marks:
        marks.write(b"x")
        return marks.tell()


class Gate:
    """One start of a task: counted when made, and let go by its own file."""

    def __init__(self, label: str) -> None:
        self.start = mark(f"{label}.starts")
        self._file = FOLDER / f"{label}.open.{self.start}"

    @property
    def is_open(self) -> bool:
        return self._file.exists()

    async def opened(self) -> None:
        while not self.is_open:  # noqa: ASYNC110 - it is opened by another process
            await asyncio.sleep(TICK)


@task
async def quick(label: str) -> None:
    mark(f"{label}.starts")
    await asyncio.sleep(0.005)


@task
async def gated(label: str) -> str:
    gate = Gate(label)
    mark(f"{label}.ready")
    await gate.opened()
    return f"result-of-{label}"


@task
async def gated_after_plain_effect(label: str) -> str:
    gate = Gate(label)
    mark(f"{label}.effects")
    mark(f"{label}.ready")
    await gate.opened()
    return f"result-of-{label}"


@task
async def gated_after_effect(ctx: TaskContext, label: str) -> str:
    gate = Gate(label)
    connection = await ctx.connection()
    await connection.execute(text("INSERT INTO effects VALUES (:label)"), {"label": label})
    mark(f"{label}.ready")
    await gate.opened()
    return f"result-of-{label}"


@task
def gated_in_thread(label: str) -> str:
    """Never asks whether it is called off."""
    gate = Gate(label)
    mark(f"{label}.ready")
    while not gate.is_open:
        time.sleep(TICK)
    return f"result-of-{label}"


@task
def heeding_in_thread(ctx: TaskContext, label: str) -> str:
    """Returns as soon as it is called off, its work undone."""
    gate = Gate(label)
    mark(f"{label}.ready")
    while not gate.is_open:
        if ctx.cancelled:
            return "stopped early"
        time.sleep(TICK)
    return f"result-of-{label}"


@task
async def leaving_a_thread(label: str) -> None:
    """Is cancelled at once, but the thread it started goes on."""
    gate = Gate(label)

    def never_ends() -> None:
        while not gate.is_open:
            time.sleep(TICK)

    mark(f"{label}.ready")
    await asyncio.to_thread(never_ends)


async def swallow(label: str) -> str:
    """Lets nobody cancel it."""
    gate = Gate(label)
    mark(f"{label}.ready")
    while not gate.is_open:
        try:
            await gate.opened()
        except asyncio.CancelledError:
            continue
    return f"result-of-{label}"


@task
async def swallowing(label: str) -> str:
    return await swallow(label)


@task
async def late_swallowing(label: str) -> str:
    return await swallow(label)


@task
def late_in_thread(label: str) -> str:
    gate = Gate(label)
    mark(f"{label}.ready")
    while not gate.is_open:
        time.sleep(TICK)
    return f"result-of-{label}"


def the_guilty_function(gate: Gate) -> None:
    while not gate.is_open:
        time.sleep(TICK)


@task
async def blocking(label: str) -> str:
    """Blocks the loop until it is let go; its time is not over meanwhile."""
    gate = Gate(label)
    mark(f"{label}.ready")
    the_guilty_function(gate)
    return f"result-of-{label}"


@task
async def late_blocking(label: str) -> str:
    gate = Gate(label)
    mark(f"{label}.ready")
    the_guilty_function(gate)
    return f"result-of-{label}"


tasks = [
    TaskRoute(quick),
    TaskRoute(gated),
    TaskRoute(gated_after_plain_effect),
    TaskRoute(gated_after_effect),
    TaskRoute(gated_in_thread),
    TaskRoute(heeding_in_thread),
    TaskRoute(leaving_a_thread),
    TaskRoute(swallowing),
    TaskRoute(blocking),
    TaskRoute(late_swallowing, timeout=1),
    TaskRoute(late_in_thread, timeout=1),
    TaskRoute(late_blocking, timeout=1),
]
