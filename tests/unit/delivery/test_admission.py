"""Who may start now: places, bytes, kill switches, threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextvars import ContextVar

import pytest

from receiver import TaskRoute
from receiver.contract.message import Delivery
from receiver.delivery.admission import Admission, Threads
from receiver.endings.calls import Call
from receiver.errors import Saturated, TooLarge

LONG = 60.0
"""Seconds that nothing here ever waits for."""

visible = ContextVar("visible", default="outside")


def sync_task() -> None: ...


async def async_task() -> None: ...


DELIVERY = Delivery(
    message_id="m-1",
    publish_time=None,
    subscription="",
    delivery_attempt=None,
    attributes={},
    task_id="t-1",
    task_name="sync_task",
    args=b"[]",
    kwargs=b"{}",
    enqueued_at=None,
    traceparent=None,
)
SYNC = Call(DELIVERY, TaskRoute(sync_task), 0.0, [], {})
ASYNC = Call(DELIVERY, TaskRoute(async_task), 0.0, [], {})
SWITCHED = Call(DELIVERY, TaskRoute(sync_task, kill_switch="ENABLE_IT"), 0.0, [], {})


def admission(
    *,
    threads: int = 1,
    wait: float = 0.001,
    concurrency: int = 10,
    inflight: int = 1_000,
    body: int = 100,
    environ: dict[str, str] | None = None,
) -> Admission:
    return Admission(
        Threads(threads, wait=wait),
        max_concurrency=concurrency,
        max_inflight_bytes=inflight,
        max_body_bytes=body,
        environ=environ or {},
    )


class Body:
    """A body in chunks; remembers how many were asked for."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes
        self.asked = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for size in self.sizes:
            self.asked += 1
            yield b"x" * size


async def read(admitting: Admission, body: Body, announced: int | None = None) -> bytes:
    with admitting.place() as place:
        return await place.read(aiter(body), announced)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a function in a thread waits for; opened at the end in any case."""
    event = threading.Event()
    yield event
    event.set()


# --- places -----------------------------------------------------------------------------------------------------


def test_one_more_than_the_concurrency_is_refused_until_a_place_is_free() -> None:
    admitting = admission(concurrency=2)
    with admitting.place():
        with admitting.place(), pytest.raises(Saturated) as refused, admitting.place():
            pytest.fail("there was no place")
        assert refused.value.resource == "concurrency"
        with admitting.place():
            assert admitting.in_flight == 2
    assert admitting.in_flight == 0


def test_a_place_is_free_again_after_an_error() -> None:
    admitting = admission(concurrency=1)
    for _ in range(2):
        with pytest.raises(LookupError), admitting.place():
            raise LookupError
    assert admitting.in_flight == 0


def test_once_closed_nothing_gets_a_place() -> None:
    admitting = admission()
    with admitting.place():
        admitting.close()
    with pytest.raises(Saturated), admitting.place():
        pytest.fail("it is closed")


# --- bytes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("announced", [None, 0, 5, 60])
async def test_a_body_arrives_whole_whatever_was_announced(announced: int | None) -> None:
    admitting = admission()
    assert await read(admitting, Body(10, 0, 20, 30), announced) == b"x" * 60
    assert admitting.bytes_in_flight == 0


async def test_a_body_of_exactly_the_cap_is_taken() -> None:
    assert len(await read(admission(body=100), Body(99, 1), 100)) == 100


async def test_a_body_announced_over_the_cap_is_not_read_at_all() -> None:
    body = Body(1)
    with pytest.raises(TooLarge):
        await read(admission(body=100), body, 101)
    assert body.asked == 0


@pytest.mark.parametrize("announced", [None, 10])
async def test_a_body_that_streams_over_the_cap_is_read_no_further(announced: int | None) -> None:
    admitting = admission(body=100)
    body = Body(*[40] * 1_000)
    with pytest.raises(TooLarge):
        await read(admitting, body, announced)
    assert body.asked == 3
    assert admitting.bytes_in_flight == 0


async def test_announced_bytes_are_taken_before_they_arrive() -> None:
    admitting = admission(inflight=100)
    with admitting.place() as place:
        await place.read(aiter(Body(1)), 80)
        assert admitting.bytes_in_flight == 80
        waiting = Body(21)
        with pytest.raises(Saturated) as refused:
            await read(admitting, waiting, 21)
        assert refused.value.resource == "bytes"
        assert waiting.asked == 0
        assert admitting.bytes_in_flight == 80
    assert admitting.bytes_in_flight == 0


async def test_bytes_count_as_they_stream_and_are_given_back() -> None:
    admitting = admission(inflight=100)
    with admitting.place() as place:
        seen = []

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * 20
                seen.append(admitting.bytes_in_flight)

        await place.read(chunks(), None)
        assert seen == [20, 40, 60]
        with pytest.raises(Saturated):
            await read(admitting, Body(20, 20, 20))
        assert admitting.bytes_in_flight == 60
    assert len(await read(admitting, Body(50, 50))) == 100


async def test_a_body_that_breaks_off_gives_its_bytes_back() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * 20
        raise ConnectionResetError

    admitting = admission()
    with pytest.raises(ConnectionResetError), admitting.place() as place:
        await place.read(chunks(), 50)
    assert admitting.bytes_in_flight == 0


# --- kill switches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "false",
        "False",
        "FALSE",
        "no",
        "No",
        "NO",
        "off",
        "Off",
        "oFF",
        " off\n",
        "disabled",
        "none",
        "n",
        "f",
    ],
)
async def test_a_switch_that_is_off_is_named_and_takes_no_thread(value: str) -> None:
    admitting = admission(environ={"ENABLE_IT": value})
    with await admitting.admit(SWITCHED) as admitted, await admitting.admit(SYNC):
        assert admitted.switch == "ENABLE_IT"
        assert admitted.thread is None


@pytest.mark.parametrize(
    "environ", [{}, *({"ENABLE_IT": on} for on in ("1", "true", "yes", "on", "", "0ff", "nope"))]
)
async def test_a_switch_that_is_unset_or_says_anything_else_is_on(environ: dict[str, str]) -> None:
    with await admission(environ=environ).admit(SWITCHED) as admitted:
        assert admitted.switch is None
        assert admitted.thread is not None


async def test_a_switch_is_read_at_every_delivery() -> None:
    environ = {"ENABLE_IT": "off"}
    admitting = admission(environ=environ)
    with await admitting.admit(SWITCHED) as admitted:
        assert admitted.switch == "ENABLE_IT"
    environ["ENABLE_IT"] = "on"
    with await admitting.admit(SWITCHED) as admitted:
        assert admitted.switch is None


# --- threads ----------------------------------------------------------------------------------------------------


async def test_an_async_task_needs_no_thread() -> None:
    admitting = admission()
    with await admitting.admit(SYNC), await admitting.admit(ASYNC) as admitted:
        assert admitted.thread is None
        assert admitted.switch is None


async def test_without_a_free_thread_in_time_a_def_task_is_refused() -> None:
    admitting = admission()
    with await admitting.admit(SYNC):
        with pytest.raises(Saturated) as refused, await admitting.admit(SYNC):
            pytest.fail("there was no thread")
        assert refused.value.resource == "threads"


async def test_a_thread_that_was_not_used_is_free_after_its_block() -> None:
    admitting = admission()
    for _ in range(3):
        with await admitting.admit(SYNC) as admitted:
            assert admitted.thread is not None
    with pytest.raises(LookupError), await admitting.admit(SYNC):
        raise LookupError
    with await admitting.admit(SYNC):
        pass


async def test_a_used_thread_is_free_only_when_its_function_returns(gate: threading.Event) -> None:
    admitting = admission()
    with await admitting.admit(SYNC) as admitted:
        assert admitted.thread is not None
        running = admitted.thread.run(lambda: gate.wait(LONG))
    with pytest.raises(Saturated), await admitting.admit(SYNC):
        pytest.fail("the function has not returned")
    gate.set()
    assert await running
    with await admitting.admit(SYNC):
        pass


async def test_a_thread_is_not_free_because_nobody_waits_for_it_any_more(gate: threading.Event) -> None:
    admitting = admission()
    started: Future[None] = Future()

    def function() -> None:
        started.set_result(None)
        gate.wait(LONG)

    with await admitting.admit(SYNC) as admitted:
        assert admitted.thread is not None
        running = admitted.thread.run(function)
        await asyncio.wrap_future(started)
        running.cancel()
    with pytest.raises(Saturated), await admitting.admit(SYNC):
        pytest.fail("the function still runs")
    gate.set()
    await _use(admitting)


async def _use(admitting: Admission) -> None:
    """Admitted at last."""
    while True:
        try:
            with await admitting.admit(SYNC):
                return
        except Saturated:
            continue


async def test_a_thread_is_free_once_even_if_its_function_raises() -> None:
    def broken() -> None:
        raise LookupError("no")

    admitting = admission()
    for _ in range(2):
        with await admitting.admit(SYNC) as admitted:
            assert admitted.thread is not None
            with pytest.raises(LookupError, match="no"):
                await admitted.thread.run(broken)
    with await admitting.admit(SYNC), pytest.raises(Saturated), await admitting.admit(SYNC):
        pytest.fail("there is one thread only")


async def test_a_function_runs_in_a_thread_and_sees_the_context_of_its_request() -> None:
    admitting = admission()
    visible.set("inside")

    def function() -> tuple[str, bool]:
        seen = visible.get()
        visible.set("changed")
        return seen, threading.current_thread() is threading.main_thread()

    with await admitting.admit(SYNC) as admitted:
        assert admitted.thread is not None
        assert await admitted.thread.run(function) == ("inside", False)
    assert visible.get() == "inside"


async def test_who_waits_for_a_thread_gets_the_next_that_is_free() -> None:
    admitting = admission(wait=LONG)
    with await admitting.admit(SYNC):
        waiting = asyncio.create_task(_use(admitting))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_who_stops_waiting_for_a_thread_takes_none() -> None:
    admitting = admission(wait=LONG)
    with await admitting.admit(SYNC):
        waiting = asyncio.create_task(_use(admitting))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    async with asyncio.timeout(LONG):
        with await admitting.admit(SYNC):
            pass


@pytest.mark.parametrize("call", [SYNC, ASYNC, SWITCHED], ids=["sync", "async", "switched off"])
async def test_what_had_a_place_before_the_closing_is_not_admitted_after_it(call: Call) -> None:
    admitting = admission(environ={"ENABLE_IT": "off"})
    with admitting.place():
        admitting.close()
        with pytest.raises(Saturated), await admitting.admit(call):
            pytest.fail("it is closed")


async def test_who_waited_for_a_thread_while_it_closed_is_not_admitted_and_frees_the_thread() -> None:
    admitting = admission(wait=LONG)
    with await admitting.admit(SYNC):
        waiting = asyncio.create_task(_enter(admitting))
        await asyncio.sleep(0)
        admitting.close()
    with pytest.raises(Saturated):
        await waiting
    admitting.closed = False
    async with asyncio.timeout(LONG):
        with await admitting.admit(SYNC):
            pass


async def _enter(admitting: Admission) -> None:
    with await admitting.admit(SYNC):
        pytest.fail("it is closed")


def test_a_thread_that_outlives_its_loop_does_not_complain(
    gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    threads = Threads(1, wait=LONG)
    ended: list[Future[bool]] = []

    async def begin() -> None:
        thread = await threads.reserve()
        thread.run(lambda: gate.wait(LONG))
        ended.append(threads.executor.submit(lambda: True))

    asyncio.run(begin())
    gate.set()
    assert ended[0].result(LONG)
    assert caplog.records == []
