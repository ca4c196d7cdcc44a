"""A claimed execution → an Outcome, always: whatever the task does, its ending is in the record."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from receiver import PermanentError, TaskContext
from receiver.endings.outcomes import Abandoned, AttemptEnding, Failed, HandedBack, Lost, Succeeded
from tests.postgres.conftest import Instances
from tests.postgres.record import Instance, Look, route
from tests.stage.waiting import eventually


class Hostile(Exception):
    """An exception that cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no message")

    def __repr__(self) -> str:
        raise RuntimeError("no representation")


def _recursive() -> None:
    _recursive()


def _group() -> None:
    raise BaseExceptionGroup("several", [ValueError("one"), KeyboardInterrupt(), Hostile()])


def _raising(error: BaseException | type[BaseException]) -> Callable[[], None]:
    def raises() -> None:
        raise error

    return raises


ENDINGS: dict[str, tuple[Callable[[], None], str]] = {
    "ValueError": (_raising(ValueError("no")), "ValueError"),
    "SystemExit": (_raising(SystemExit(3)), "SystemExit"),
    "KeyboardInterrupt": (_raising(KeyboardInterrupt), "KeyboardInterrupt"),
    "GeneratorExit": (_raising(GeneratorExit), "GeneratorExit"),
    "CancelledError": (_raising(asyncio.CancelledError()), "asyncio.exceptions.CancelledError"),
    "StopIteration": (_raising(StopIteration("x")), "StopIteration"),
    "RecursionError": (_recursive, "RecursionError"),
    "hostile": (_raising(Hostile()), f"{__name__}.Hostile"),
    "group": (_group, "BaseExceptionGroup"),
    "unstorable": (_raising(ValueError("\0 \ud800 \x1b[31m\n")), "ValueError"),
    "huge": (_raising(ValueError("x" * 50_000_000)), "ValueError"),
}


@pytest.mark.parametrize("kind", ENDINGS)
@pytest.mark.parametrize("threaded", [False, True], ids=["async", "sync"])
async def test_whatever_a_task_raises_is_recorded(
    instance: Instance,
    look: Look,
    kind: str,
    threaded: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    function, wanted = ENDINGS[kind]
    if kind == "StopIteration" and not threaded:
        wanted = "RuntimeError"  # a coroutine cannot raise it

    def work() -> None:
        function()

    async def awork() -> None:
        function()

    ending = await instance.run("bad", work if threaded else awork)
    assert isinstance(ending, Failed)
    row = await look.row("bad")
    assert await look.state("bad") == ("FAILED", False, 1, 1)
    assert row["error_type"] == wanted
    assert row["error_message"] is not None
    assert len(row["error_message"]) < 10_000
    assert len(row["error_traceback"]) < 100_000
    assert await look.endings("bad") == ["FAILED"]
    assert instance.runner.running == 0


@pytest.mark.parametrize("threaded", [False, True], ids=["async", "sync"])
async def test_a_task_that_returns_is_successful_and_gets_its_arguments(
    instance: Instance,
    look: Look,
    threaded: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    def work(ctx: TaskContext, name: str) -> list[Any]:
        return [ctx.task_id, ctx.attempt, ctx.message_id, name, ctx.cancelled]

    async def awork(ctx: TaskContext, name: str) -> list[Any]:
        return work(ctx, name)

    declared = route(work if threaded else awork)
    ending = await instance.finish(await instance.claim("good", declared, bound=["Ada"]))
    assert isinstance(ending, Succeeded)
    row = await look.row("good")
    assert row["return_value"] == '["good",1,"message-of-good","Ada",false]'


@pytest.mark.parametrize("threaded", [False, True], ids=["async", "sync"])
async def test_a_permanent_error_is_final(
    instance: Instance,
    look: Look,
    threaded: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    def work() -> None:
        raise PermanentError("never")

    async def awork() -> None:
        raise PermanentError("never")

    ending = await instance.run("never", work if threaded else awork)
    assert isinstance(ending, Failed)
    assert await look.state("never") == ("FAILED", True, 1, 1)


@dataclass
class Point:
    """A result with a number in it."""

    x: float | None


class Unencodable:
    """A result that is no JSON."""


@pytest.mark.parametrize(
    "value",
    [
        Unencodable(),
        object,
        {1j: 2},
        "x" * 3000,
        "\ud800",
        "\0",
        math.nan,
        {"a": [None, -math.inf]},
        Point(math.inf),
    ],
    ids=lambda v: type(v).__name__,
)
async def test_a_result_that_cannot_be_stored_is_a_final_failure(
    instances: Instances, look: Look, value: Any
) -> None:
    async def work() -> Any:
        return value

    ending = await instances(max_result_bytes=2000).run("odd", work)
    assert isinstance(ending, Failed)
    assert await look.state("odd") == ("FAILED", True, 1, 1)
    assert (await look.row("odd"))["error_type"] == "ResultNotStorable"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        ([None, 1.5, "null"], [None, 1.5, "null"]),
        (
            {"point": Point(None), "raw": msgspec.Raw(b'{"a": null}')},
            {"point": {"x": None}, "raw": {"a": None}},
        ),
        ({UUID(int=1): None, 2: Decimal("NaN")}, {str(UUID(int=1)): None, "2": "NaN"}),
    ],
)
async def test_a_result_with_nothing_in_it_is_stored(
    instance: Instance, look: Look, value: Any, stored: Any
) -> None:
    """A null of the task's own is no number that JSON has not."""

    async def work() -> Any:
        return value

    assert isinstance(await instance.run("nothing", work), Succeeded)
    assert json.loads((await look.row("nothing"))["return_value"]) == stored


async def test_an_async_task_is_called_off_at_its_deadline(instance: Instance, look: Look) -> None:
    stopped = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()

    began = time.monotonic()
    ending = await instance.run("slow", work, timeout=0.2)
    assert time.monotonic() - began < 15
    assert isinstance(ending, Failed)
    assert ending.ending is AttemptEnding.TIMED_OUT
    assert stopped.is_set()
    assert await look.state("slow") == ("FAILED", False, 1, 1)
    assert (await look.row("slow"))["error_message"] == "the task did not end within 0.2 s"
    assert await look.endings("slow") == ["TIMED_OUT"]


async def test_what_it_raises_when_called_off_is_in_the_record(instance: Instance, look: Look) -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise KeyError("cleaning up went wrong") from None

    await instance.run("slow", work, timeout=0.2)
    row = await look.row("slow")
    assert row["error_type"] == "TimedOut"
    assert "called off, it raised KeyError" in row["error_message"]
    assert "cleaning up went wrong" in row["error_traceback"]


async def test_an_async_task_that_swallows_its_cancellation_is_abandoned_and_recorded_later(
    instance: Instance, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 at once; RUNNING and held until its code returns, then timed out."""
    monkeypatch.setattr("receiver.delivery.run.CALL_OFF_GRACE", 0.2)
    monkeypatch.setattr("receiver.delivery.runner.CALL_OFF_GRACE", 0.2)
    goes = asyncio.Event()

    async def work() -> str:
        while not goes.is_set():
            try:
                await goes.wait()
            except asyncio.CancelledError:
                continue
        return "at last"

    await _abandoned_then_recorded(instance, look, work, goes.set)


async def test_a_sync_task_past_its_timeout_is_abandoned_and_recorded_later(
    instance: Instance, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.delivery.run.CALL_OFF_GRACE", 0.2)
    monkeypatch.setattr("receiver.delivery.runner.CALL_OFF_GRACE", 0.2)
    goes = threading.Event()

    def work() -> str:
        goes.wait(20)
        return "at last"

    await _abandoned_then_recorded(instance, look, work, goes.set)


async def _abandoned_then_recorded(
    instance: Instance, look: Look, work: Callable[..., Any], release: Callable[[], None]
) -> None:
    claimed = await instance.claim("stuck", route(work, timeout=0.2))
    assert await instance.finish(claimed) == Abandoned()
    assert await look.state("stuck") == ("RUNNING", False, 1, 1)
    assert instance.heartbeat.held == [claimed.key]
    assert instance.runner.running == 1
    assert "task does not stop" in str(instance.events)
    release()
    await eventually(lambda: _status_is(look, "stuck", "FAILED"))
    assert await look.endings("stuck") == ["TIMED_OUT"]
    assert (await look.row("stuck"))["return_value"] is None
    await eventually(lambda: not instance.heartbeat.held)
    assert instance.runner.running == 0
    assert not instance.stuck.is_set()


async def _status_is(look: Look, task_id: str, status: str) -> bool:
    return bool((await look.row(task_id))["status"] == status)


async def test_code_that_never_returns_makes_the_instance_give_up_after_a_lease(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.delivery.run.CALL_OFF_GRACE", 0.1)
    monkeypatch.setattr("receiver.delivery.runner.CALL_OFF_GRACE", 0.1)
    instance = instances(lease=timedelta(seconds=0.5))
    goes = threading.Event()

    def work() -> None:
        goes.wait(20)

    assert await instance.run("stuck", work, timeout=0.1) == Abandoned()
    assert not instance.stuck.is_set()
    async with asyncio.timeout(5):
        await instance.stuck.wait()
    goes.set()
    await eventually(lambda: not instance.runner.running)
    await instance.ledger.close()


async def test_a_task_whose_lease_is_lost_is_called_off_and_its_effects_do_not_count(
    instances: Instances, look: Look
) -> None:
    instance = instances(lease=timedelta(seconds=1.5))
    instance.heartbeat.start()
    seen: list[bool] = []

    async def work(ctx: TaskContext) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            seen.append(ctx.cancelled)

    claimed = await instance.claim("taken", route(work))
    running = asyncio.create_task(instance.finish(claimed))
    await look.execute("UPDATE task_executions SET fence = 2 WHERE task_id = 'taken'")
    assert await running == Lost()
    assert seen == [True]
    assert await look.state("taken") == ("RUNNING", False, 1, 2)


async def test_a_sync_task_learns_through_ctx_that_its_lease_is_lost(
    instances: Instances, look: Look
) -> None:
    instance = instances(lease=timedelta(seconds=1.5))
    instance.heartbeat.start()

    def work(ctx: TaskContext) -> str:
        end = time.monotonic() + 20
        while not ctx.cancelled and time.monotonic() < end:
            time.sleep(0.01)
        return "noticed"

    claimed = await instance.claim("taken", route(work))
    running = asyncio.create_task(instance.finish(claimed))
    await look.execute("UPDATE task_executions SET fence = 2 WHERE task_id = 'taken'")
    async with asyncio.timeout(10):
        assert await running == Lost()
    assert await look.state("taken") == ("RUNNING", False, 1, 2)


async def test_a_lease_lost_before_the_task_starts_is_handed_back(instance: Instance, look: Look) -> None:
    """The heartbeat no longer holds it when the runner asks. Nothing ran, so that no attempt is used up."""

    async def work() -> None:
        raise AssertionError("it must not run")

    claimed = await instance.claim("early", route(work))
    claimed.lease.give_back()
    async with asyncio.timeout(10):
        assert await instance.finish(claimed) == HandedBack()
    assert await look.state("early") == ("READY", False, 0, 1)


async def test_a_lease_lost_before_the_task_starts_stays_with_its_next_owner(
    instances: Instances, look: Look
) -> None:
    late, next_owner = instances("late"), instances("next")

    async def work() -> None:
        raise AssertionError("it must not run")

    claimed = await late.claim("early", route(work))
    claimed.lease.give_back()
    await look.expire("early")
    await next_owner.claim("early", route(work))
    before = await look.row("early")
    assert await late.finish(claimed) == HandedBack()
    assert await look.row("early") == before


async def test_leaving_hands_back_what_stops_and_abandons_what_does_not(
    instance: Instance, look: Look
) -> None:
    """The sync one cannot be stopped: it stays RUNNING and held, for a short lease."""
    instance.heartbeat.start()
    goes = threading.Event()

    async def endless(ctx: TaskContext) -> None:
        await (await ctx.connection()).exec_driver_sql("CREATE TABLE effect (id int)")
        await asyncio.sleep(60)

    def stuck() -> None:
        goes.wait(20)

    started = {
        name: asyncio.create_task(instance.run(name, func))
        for name, func in (("endless", endless), ("stuck", stuck))
    }
    await eventually(lambda: instance.runner.running == 2)
    instance.runner.leave()
    assert await started["endless"] == HandedBack()
    assert await look.state("endless") == ("READY", False, 0, 1)
    assert await look.value("SELECT to_regclass('effect')") is None
    instance.runner.give_up()
    assert await started["stuck"] == Abandoned()
    assert await look.state("stuck") == ("RUNNING", False, 1, 1)
    assert [key[:2] for key in instance.heartbeat.held] == [("stuck", 1)]
    await asyncio.to_thread(instance.heartbeat.stop, left=timedelta(seconds=3))
    left = await look.value(
        "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float"
        " FROM task_executions WHERE task_id = 'stuck'"
    )
    assert left <= 3
    goes.set()
    await eventually(lambda: not instance.runner.running)


async def test_nothing_starts_once_the_instance_leaves(instance: Instance, look: Look) -> None:
    async def work() -> None:
        raise AssertionError("it must not run")

    claimed = await instance.claim("late", route(work))
    instance.runner.leave()
    assert await instance.finish(claimed) == HandedBack()
    assert await look.state("late") == ("READY", False, 0, 1)


async def test_one_bad_task_is_not_noticed_by_its_neighbours(instance: Instance) -> None:
    async def good() -> int:
        await asyncio.sleep(0.05)
        return 1

    async def exits() -> None:
        raise SystemExit

    async def recursive() -> None:
        _recursive()

    endings = await asyncio.gather(
        *(instance.run(f"good-{number}", good) for number in range(10)),
        instance.run("exits", exits),
        instance.run("recursive", recursive),
    )
    assert all(isinstance(ending, Succeeded) for ending in endings[:10])
    assert all(isinstance(ending, Failed) for ending in endings[10:])


async def test_a_def_task_is_told_what_to_use_instead_of_a_connection(instance: Instance, look: Look) -> None:
    def work(ctx: TaskContext) -> None:
        ctx.connection()

    await instance.run("sync", work)
    row = await look.row("sync")
    assert row["error_type"] == "TypeError"
    assert "ctx.task_id ('sync')" in row["error_message"]


@pytest.mark.parametrize("redact", [["email"], []])
async def test_the_values_of_sensitive_arguments_go_to_nobody_who_reads_the_frames_of_a_failure(
    instance: Instance, redact: list[str]
) -> None:
    """Sentry sends local variables: the task's, those of what it calls, and the receiver's own."""

    def charge(email: str) -> None:
        copy = email.upper()
        try:
            int(copy)
        except ValueError as error:
            raise LookupError("no such customer") from error

    async def task(email: str) -> None:
        charge(email)

    claimed = await instance.claim("a", route(task, redact=redact), bound=["ada@example.com"])
    ended = await instance.finish(claimed)
    assert isinstance(ended, Failed)
    assert ended.raised is not None
    assert "LookupError: no such customer" in (ended.failure.traceback or "")
    raised, values = ended.raised.error, ""
    for error in (raised, raised.__cause__):
        frames = error.__traceback__ if error is not None else None
        while frames is not None:
            values += repr(frames.tb_frame.f_locals)
            frames = frames.tb_next
    assert ("ada@example.com" in values.lower()) == (not redact)
