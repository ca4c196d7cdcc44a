"""`TASKS_AROUND`: the application's own context managers around each run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import text

from receiver import TaskContext
from receiver.delivery.runner import Runner
from receiver.endings.outcomes import Abandoned, Failed, HandedBack, Succeeded
from tests.postgres.conftest import Instances
from tests.postgres.record import Instance, Look
from tests.stage.waiting import eventually

TENANT: ContextVar[str] = ContextVar("tenant", default="none")

Manager = Callable[[TaskContext], AbstractAsyncContextManager[Any]]
Surround = Callable[..., Instance]

seen: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


@pytest.fixture
def surrounded(instances: Instances) -> Surround:
    """Makes an instance whose runs are enclosed by these managers."""

    def make(*around: Manager, **options: Any) -> Instance:
        instance = instances(**options)
        instance.runner = Runner(
            instance.ledger,
            lambda: instance.pool,
            lease=instance.heartbeat._lease,
            max_result_bytes=1024,
            stuck=instance.stuck.set,
            emit=instance.events.append,
            around=around,
        )
        return instance

    return make


@asynccontextmanager
async def tenant(ctx: TaskContext) -> AsyncIterator[None]:
    token = TENANT.set(f"tenant of {ctx.task_id}")
    seen.append("in")
    try:
        yield
    except Exception as error:
        seen.append(type(error).__name__)
        raise
    finally:
        TENANT.reset(token)
        seen.append("out")


@asynccontextmanager
async def outer(ctx: TaskContext) -> AsyncIterator[None]:
    seen.append(f"outer {ctx.attempt}")
    yield
    seen.append("outer out")


async def whose() -> str:
    seen.append("run")
    return TENANT.get()


def whose_in_thread() -> str:
    assert threading.current_thread() is not threading.main_thread()
    return TENANT.get()


async def fails() -> None:
    raise LookupError("no such order")


def fails_in_thread() -> None:
    raise LookupError("no such order")


@pytest.mark.parametrize("task", [whose, whose_in_thread])
async def test_what_a_manager_sets_reaches_the_task_and_its_thread(surrounded: Surround, task: Any) -> None:
    instance = surrounded(tenant)
    assert await instance.run("e1", task) == Succeeded('"tenant of e1"')
    assert await instance.run("e2", task) == Succeeded('"tenant of e2"')
    assert TENANT.get() == "none"


async def test_several_enclose_each_other_the_first_one_outermost(surrounded: Surround) -> None:
    await surrounded(outer, tenant).run("e", whose)
    assert seen == ["outer 1", "in", "run", "out", "outer out"]


@pytest.mark.parametrize("task", [fails, fails_in_thread])
async def test_a_failure_goes_through_it_and_each_retry_is_enclosed(
    surrounded: Surround, look: Look, task: Any
) -> None:
    """The recorded traceback is the task's own, without the managers that let it pass."""
    instance = surrounded(tenant)
    for _ in range(2):
        assert isinstance(await instance.run("e", task), Failed)
    assert seen == ["in", "LookupError", "out"] * 2
    row = await look.row("e")
    assert (row["attempt"], row["error_type"]) == (2, "LookupError")
    assert "in fails" in row["error_traceback"]
    assert "contextlib" not in row["error_traceback"]
    assert "delivery/around" not in row["error_traceback"]


async def test_a_manager_that_swallows_makes_no_success(surrounded: Surround, look: Look) -> None:
    """`except Exception: log()` around a `yield` is an easy slip."""

    @asynccontextmanager
    async def careless(_: TaskContext) -> AsyncIterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - that is the slip
            seen.append(str(error))

    assert isinstance(await surrounded(careless).run("e", fails), Failed)
    assert seen == ["no such order"]
    assert (await look.row("e"))["error_type"] == "LookupError"


async def test_its_failure_is_the_attempts(surrounded: Surround, look: Look) -> None:
    @asynccontextmanager
    async def refuses(ctx: TaskContext) -> AsyncIterator[None]:
        if ctx.task_id:
            raise PermissionError("no such tenant")
        yield

    @asynccontextmanager
    async def breaks_at_the_end(_: TaskContext) -> AsyncIterator[None]:
        yield
        raise ConnectionError("flags not sent")

    assert isinstance(await surrounded(tenant, refuses).run("e", whose), Failed)
    assert "run" not in seen
    assert (await look.row("e"))["error_type"] == "PermissionError"
    assert isinstance(await surrounded(breaks_at_the_end).run("e2", whose), Failed)
    assert (await look.row("e2"))["error_type"] == "ConnectionError"


async def test_what_is_no_manager_fails_the_attempt(surrounded: Surround, look: Look) -> None:
    await surrounded(lambda _: object()).run("e", whose)
    assert (await look.row("e"))["error_type"] == "TypeError"


async def test_it_may_use_the_tasks_transaction(surrounded: Surround, look: Look) -> None:
    """Also around a task that takes no context: what it writes commits with the success."""
    await look.execute("CREATE TABLE visits (task_id text)")

    @asynccontextmanager
    async def counted(ctx: TaskContext) -> AsyncIterator[None]:
        connection = await ctx.connection()
        await connection.execute(text("INSERT INTO visits VALUES (:id)"), {"id": ctx.task_id})
        yield

    instance = surrounded(counted)
    assert isinstance(await instance.run("good", whose), Succeeded)
    assert isinstance(await instance.run("bad", fails), Failed)
    assert await look.value("SELECT array_agg(task_id) FROM visits") == ["good"]
    await look.execute("DROP TABLE visits")


async def test_a_thread_past_its_deadline_is_not_left_by_its_manager(
    surrounded: Surround, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manager's end waits for the code: it may hold what the code uses."""
    monkeypatch.setattr("receiver.delivery.run.CALL_OFF_GRACE", 0.1)
    goes_on = threading.Event()

    def deaf() -> None:
        goes_on.wait(30)
        seen.append("returned")

    instance = surrounded(tenant)
    assert await instance.run("e", deaf, timeout=0.2) == Abandoned()
    assert seen == ["in"]
    goes_on.set()
    await eventually(lambda: not instance.runner.busy)
    assert seen == ["in", "returned", "out"]
    assert await look.endings("e") == ["TIMED_OUT"]


@pytest.mark.parametrize("task", [whose, whose_in_thread])
async def test_one_that_is_called_off_before_the_task_begins_does_not_begin_it(
    surrounded: Surround, look: Look, task: Any
) -> None:
    entering = asyncio.Event()

    @asynccontextmanager
    async def slow(_: TaskContext) -> AsyncIterator[None]:
        entering.set()
        await asyncio.sleep(60)
        yield

    instance = surrounded(slow)
    run = asyncio.create_task(instance.run("e", task))
    await entering.wait()
    instance.runner.leave()
    assert await run == HandedBack()
    assert "run" not in seen
