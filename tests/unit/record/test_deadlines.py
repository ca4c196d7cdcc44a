"""Deadlines that many waits share: each ends in its own time, and what somebody else cancels stays cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from receiver.record.deadlines import Deadline

LONG = 60.0


async def test_a_wait_that_ends_in_time_is_left_alone() -> None:
    deadline = Deadline(LONG)
    for _ in range(3):
        with deadline.limit():
            await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_wait_that_takes_too_long_ends_with_a_timeout() -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError), Deadline(0.05).limit():
        await asyncio.Event().wait()
    assert time.monotonic() - begun >= 0.05
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_each_has_its_own_time_though_one_timer_serves_all() -> None:
    """The second begins when the first has half of its time left, and gets all of its own."""
    deadline = Deadline(0.2)
    ended: list[float] = []

    async def wait() -> None:
        begun = time.monotonic()
        with pytest.raises(TimeoutError), deadline.limit():
            await asyncio.Event().wait()
        ended.append(time.monotonic() - begun)

    async def in_time() -> None:
        with deadline.limit():
            await asyncio.sleep(0)

    first = asyncio.create_task(wait())
    await asyncio.sleep(0.1)
    second = asyncio.create_task(wait())
    await in_time()
    await asyncio.gather(first, second)
    assert min(ended) >= 0.2


async def test_it_serves_again_after_all_have_ended() -> None:
    deadline = Deadline(0.05)
    for _ in range(2):
        with pytest.raises(TimeoutError), deadline.limit():
            await asyncio.Event().wait()
        await asyncio.sleep(0.1)


async def test_an_error_of_the_block_is_its_own() -> None:
    with pytest.raises(LookupError), Deadline(LONG).limit():
        raise LookupError


async def test_a_task_that_is_cancelled_meanwhile_stays_cancelled() -> None:
    """By a server that shuts down, in the moment in which its time is over as well."""
    deadline = Deadline(0.05)
    started = asyncio.Event()

    async def wait() -> None:
        with deadline.limit():
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:  # by the deadline: now the server's comes too
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                raise

    task = asyncio.create_task(wait())
    await started.wait()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_wait_cancelled_by_somebody_else_is_no_timeout() -> None:
    async def wait() -> None:
        with Deadline(LONG).limit():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_block_that_swallows_its_cancellation_goes_on() -> None:
    """As with `asyncio.timeout`."""
    with Deadline(0.02).limit(), contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


def test_outside_of_a_task_it_says_so() -> None:
    with pytest.raises(RuntimeError), Deadline(LONG).limit():
        pass


def test_it_serves_one_loop_after_another() -> None:
    """As in tests, and in scripts that call `asyncio.run` twice."""
    deadline = Deadline(0.05)

    async def wait() -> None:
        with pytest.raises(TimeoutError), deadline.limit():
            await asyncio.wait_for(asyncio.Event().wait(), LONG)

    async def leave() -> None:
        with deadline.limit():
            pass

    asyncio.run(leave())
    asyncio.run(wait())
    asyncio.run(wait())
