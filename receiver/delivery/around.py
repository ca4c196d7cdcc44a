"""Runs a task inside the application's own async context managers (`TASKS_AROUND`).

They are entered in the loop, in the task's own context: what they set in contextvars reaches the code, in a thread too. They
see how the code ends, and cannot change a failure into a success: one that forgets to raise again would make every failure
of every task SUCCESSFUL.

Next: `receiver.delivery.run` judges what comes out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress

from receiver.delivery.calling import TRACEBACK, Ended
from receiver.tasks.context import Around, TaskContext
from receiver.tasks.running import Running, running


async def within(
    managers: Sequence[Around],
    context: TaskContext,
    code: Callable[[], Awaitable[Ended]],
    here: Running,
) -> Ended:
    """How the code ended inside the managers, the first one outermost. Their own failure is the run's."""
    running.set(here)
    ended: Ended | None = None
    try:
        async with AsyncExitStack() as stack:
            for manager in managers:
                await stack.enter_async_context(manager(context))
            ended = await code()
            if ended.error is not None:
                trail = TRACEBACK.__get__(ended.error)
                raise ended.error  # noqa: TRY301 - through the managers, which see it
    except BaseException as error:  # noqa: BLE001 - as everything that a task raises, it is recorded
        if ended is None or error is not ended.error:
            return Ended(error=error)
        TRACEBACK.__set__(error, trail)  # without the frames of the managers that let it pass
    return ended


async def returned(code: asyncio.Future[Ended]) -> Ended:
    """How the code of a thread ended. A cancellation cannot end it: it is for the managers."""
    while not code.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({code})
    return code.result()
