"""A `def` that returns what is to be awaited: the body below it runs, in the loop, as that of any `async def`."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from receiver import PermanentError, TaskContext
from receiver.delivery.run import Reason
from receiver.endings.outcomes import AttemptEnding, Failed, HandedBack, Succeeded
from receiver.tasks.running import running
from tests.postgres.record import Instance, Look, route
from tests.stage.waiting import eventually

who: ContextVar[str] = ContextVar("who", default="nobody")


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """As decorators of applications are: they know nothing of async."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        who.set("the wrapper's")
        return function(*args, **kwargs)

    return wrapper


async def test_its_body_runs_in_the_loop_with_the_context_of_its_thread(
    instance: Instance, look: Look
) -> None:
    loop = asyncio.get_running_loop()

    @wrapped
    async def work(name: str) -> list[Any]:
        await asyncio.sleep(0)
        here = running.get()
        assert here is not None
        return [asyncio.get_running_loop() is loop, who.get(), name, here.task_id]

    declared = route(work)
    assert not declared.is_async
    ending = await instance.finish(await instance.claim("good", declared, bound=["Ada"]))
    assert isinstance(ending, Succeeded)
    assert (await look.row("good"))["return_value"] == '[true,"the wrapper\'s","Ada","good"]'
    assert who.get() == "nobody"


async def test_an_async_wrapper_that_forgets_to_await_is_awaited_too(instance: Instance, look: Look) -> None:
    async def inner() -> int:
        return 7

    async def work() -> Any:
        return inner()

    assert isinstance(await instance.run("good", work), Succeeded)
    assert (await look.row("good"))["return_value"] == "7"


@pytest.mark.parametrize("fails", [False, True])
async def test_what_it_writes_commits_with_its_success(
    instance: Instance,
    look: Look,
    fails: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    await look.execute("CREATE TABLE effects (id int PRIMARY KEY)")

    @wrapped
    async def work(ctx: TaskContext) -> None:
        connection = await ctx.connection()
        await connection.exec_driver_sql("INSERT INTO effects VALUES (1)")
        if fails:
            raise PermanentError("no")

    ending = await instance.run("pay", work)
    assert isinstance(ending, Failed if fails else Succeeded)
    assert len(await look.connection.fetch("SELECT id FROM effects")) == (0 if fails else 1)
    assert await look.state("pay") == ("FAILED" if fails else "SUCCESSFUL", True, 1, 1)


async def test_it_is_called_off_at_its_deadline(instance: Instance, look: Look) -> None:
    stopped = asyncio.Event()

    @wrapped
    async def work() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()

    ending = await instance.run("slow", work, timeout=0.3)
    assert isinstance(ending, Failed)
    assert ending.ending is AttemptEnding.TIMED_OUT
    assert stopped.is_set()
    assert await look.endings("slow") == ["TIMED_OUT"]


async def test_called_off_in_its_thread_it_does_not_begin(instance: Instance, look: Look) -> None:
    entered, goes = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    begun: list[str] = []

    async def inner() -> None:
        begun.append("it")

    def work() -> Any:
        loop.call_soon_threadsafe(entered.set)
        goes.wait(20)
        return inner()

    claimed = await instance.claim("stopped", route(work))
    ending = asyncio.create_task(instance.finish(claimed))
    await entered.wait()
    (run,) = instance.runner._runs
    run.call_off(Reason.SHUTDOWN)
    goes.set()
    assert isinstance(await ending, HandedBack)
    assert begun == []
    await eventually(lambda: not instance.runner.busy)
