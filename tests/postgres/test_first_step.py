"""An `async def` takes its first step at once (Python 3.12 and newer), or in the loop's next turn. What follows holds for both ways."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from receiver import TaskContext
from receiver.delivery.admission import Admitted
from receiver.endings.outcomes import Failed, Lost, Succeeded
from receiver.tasks.running import running
from tests.postgres.record import Instance, Look, route

AT_ONCE, NEXT_TURN = "at once", "in the next turn"

who: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.fixture(params=[AT_ONCE, NEXT_TURN], autouse=True)
async def way(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A loop that has a task factory of somebody's begins our tasks with it too."""
    loop = asyncio.get_running_loop()
    if request.param == NEXT_TURN:
        loop.set_task_factory(lambda loop, code, **options: asyncio.Task(code, loop=loop, **options))
    yield request.param
    loop.set_task_factory(None)


async def test_code_that_waits_for_nothing_takes_no_turn_of_the_loop(instance: Instance, way: str) -> None:
    async def work() -> None: ...

    turned: list[str] = []
    with await instance.claim("quick", route(work)) as claimed:
        asyncio.get_running_loop().call_soon(turned.append, "turned")
        assert isinstance(await instance.runner.run(claimed, Admitted()), Succeeded)
    assert bool(turned) == (way == NEXT_TURN or sys.version_info < (3, 12))
    assert instance.runner.running == 0


@pytest.mark.parametrize("waits", [False, True], ids=["one step", "two steps"])
async def test_it_is_a_task_of_its_own_with_a_context_of_its_own(
    instance: Instance,
    waits: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    seen: list[tuple[str, str]] = []
    ours = asyncio.current_task()

    async def work(name: str) -> None:
        here, task = running.get(), asyncio.current_task()
        assert here is not None
        assert task is not None
        assert task is not ours
        seen.append((who.get(), here.task_id))
        who.set(name)
        if waits:
            await asyncio.sleep(0)
        assert (who.get(), asyncio.current_task(), task.get_name()) == (name, task, "work")

    for name in ("ada", "bob"):
        claimed = await instance.claim(name, route(work), bound=[name])
        assert isinstance(await instance.finish(claimed), Succeeded)
        assert (who.get(), running.get(), asyncio.current_task()) == ("nobody", None, ours)
    assert seen == [("nobody", "ada"), ("nobody", "bob")]


def _cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def _cancels_itself() -> None:
    _cancel()


async def _cancels_itself_and_waits() -> None:
    _cancel()
    await asyncio.sleep(60)


async def _leaves() -> None:
    raise SystemExit(3)


async def _is_interrupted() -> None:
    raise KeyboardInterrupt


async def _is_late() -> None:
    async with asyncio.timeout(0):
        await asyncio.sleep(60)


async def _fails_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_leaves_nothing())
        group.create_task(asyncio.sleep(60))


async def _leaves_nothing() -> None:
    raise LookupError("nothing")


@pytest.mark.parametrize(
    ("work", "error_type"),
    [
        (_cancels_itself, "asyncio.exceptions.CancelledError"),
        (_cancels_itself_and_waits, "asyncio.exceptions.CancelledError"),
        (_leaves, "SystemExit"),
        (_is_interrupted, "KeyboardInterrupt"),
        (_is_late, "TimeoutError"),
        (_fails_in_a_group, "ExceptionGroup"),
    ],
)
async def test_whatever_happens_in_its_first_step_is_its_own(
    instance: Instance, look: Look, work: Callable[[], Any], error_type: str
) -> None:
    assert isinstance(await instance.run("bad", work), Failed)
    assert (await look.row("bad"))["error_type"] == error_type
    ours = asyncio.current_task()
    assert ours is not None
    assert ours.cancelling() == 0
    assert instance.runner.running == 0


async def test_a_first_step_that_blocks_the_loop_is_known_by_its_deadline(instance: Instance) -> None:
    """The watchdog asks in its own thread, which is all that still runs then."""
    known: list[bool] = []

    async def work() -> None:
        known.append(claimed.key in instance.runner.overdue())

    claimed = await instance.claim("late", route(work, timeout=1e-9))
    await instance.finish(claimed)
    assert known == [True]


async def test_a_first_step_learns_that_its_lease_is_lost(instance: Instance) -> None:
    seen: list[bool] = []

    async def work(ctx: TaskContext) -> None:
        lease = instance.heartbeat.find("taken")
        assert lease is not None
        seen.append(ctx.cancelled)
        lease.lose()
        seen.append(ctx.cancelled)

    assert isinstance(await instance.run("taken", work), Lost)
    assert seen == [False, True]
