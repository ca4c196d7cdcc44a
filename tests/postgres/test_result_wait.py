"""Waiting for a result: until it is final, within its time, with no connection held between two looks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from receiver.enqueue import PubSubBackend
from receiver.errors import TaskResultMissing
from receiver.tasks import waiting
from receiver.tasks.call import TaskResult, TaskResultStatus
from tests.postgres.outbox import Published, mail
from tests.postgres.record import Instance, Look, route
from tests.stage.proxy import Proxy

Wait = Callable[[TaskResult[Any], float], Coroutine[Any, Any, TaskResult[Any]]]


async def in_a_thread(result: TaskResult[Any], timeout: float) -> TaskResult[Any]:  # noqa: ASYNC109 - it is what is tested
    return await asyncio.to_thread(result.wait, timeout=timeout)


async def in_a_loop(result: TaskResult[Any], timeout: float) -> TaskResult[Any]:  # noqa: ASYNC109 - likewise
    return await result.await_(timeout=timeout)


WAYS = pytest.mark.parametrize("wait", [in_a_thread, in_a_loop])


@WAYS
async def test_it_returns_the_final_result_failed_or_not(
    backend: PubSubBackend, instance: Instance, wait: Wait
) -> None:
    result, failed = await mail.aenqueue("ada"), await mail.aenqueue("bob")
    waits = [asyncio.create_task(wait(each, 60)) for each in (result, failed)]
    await instance.finish(
        await instance.claim(failed.id, route(mail), bound=[])
    )  # not final: it is tried again
    await instance.finish(await instance.claim(result.id, route(mail), bound=["ada"]))
    assert await waits[0] is result
    assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, "ada")
    assert not waits[1].done()
    await instance.finish(await instance.claim(failed.id, route(mail, max_attempts=2), bound=[]))
    assert (await waits[1]).status is TaskResultStatus.FAILED
    assert failed.is_finished
    assert len(failed.errors) == 2


@WAYS
async def test_it_waits_so_long_and_says_where_the_task_stands(backend: PubSubBackend, wait: Wait) -> None:
    result = await mail.aenqueue("ada")
    for timeout in (0, 0.1):
        with pytest.raises(TimeoutError) as late:
            await wait(result, timeout)
        assert str(late.value) == (
            f"task {result.id} ({mail.path}) has not finished within {timeout:g} s: "
            "it was READY after 0 attempts when last read"
        )


@WAYS
async def test_between_two_looks_it_holds_no_connection(
    backend: PubSubBackend, look: Look, instance: Instance, wait: Wait
) -> None:
    result = await mail.aenqueue("ada")
    waits = [asyncio.create_task(wait(result, 60)) for _ in range(20)]
    (other,) = await asyncio.gather(mail.aenqueue("bob"))  # 20 waits, and two connections in each loop
    await instance.finish(await instance.claim(result.id, route(mail), bound=["ada"]))
    assert {each.status for each in await asyncio.gather(*waits)} == {TaskResultStatus.SUCCESSFUL}
    assert await look.others("receiver enqueue") <= 4
    assert other.id != result.id


async def test_it_can_be_cancelled(backend: PubSubBackend) -> None:
    result = await mail.aenqueue("ada")
    wait = asyncio.create_task(result.await_(timeout=3600))
    await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    await result.arefresh()


@WAYS
async def test_a_database_that_is_away_for_a_moment_ends_no_wait(
    proxy: Proxy, published: Published, instance: Instance, wait: Wait
) -> None:
    backend = published.backend(proxy.url)
    result = await asyncio.to_thread(backend.enqueue, mail.entry("ada"))
    proxy.refuse()
    proxy.cut()
    with pytest.raises(TimeoutError, match="it was READY after 0 attempts when last read"):
        await wait(result, 0.1)
    waits = asyncio.create_task(wait(result, 60))
    proxy.accept()
    await instance.finish(await instance.claim(result.id, route(mail), bound=["ada"]))
    assert (await waits).is_finished
    await asyncio.to_thread(backend.close)
    await backend.aclose()


@WAYS
async def test_a_result_that_has_gone_is_missing(backend: PubSubBackend, look: Look, wait: Wait) -> None:
    result = await mail.aenqueue("ada")
    await look.execute("DELETE FROM task_executions")
    with pytest.raises(TaskResultMissing):
        await wait(result, 60)


async def test_a_wait_that_would_block_a_loop_is_refused(backend: PubSubBackend) -> None:
    result = await mail.aenqueue("ada")
    with pytest.raises(RuntimeError, match=r"wait\(\) would block .* use `await \.\.\.await_\(\.\.\.\)`"):
        result.wait(timeout=60)


def test_pauses_grow_up_to_a_bound_and_end_in_time() -> None:
    pauses = waiting.pauses(60)
    taken = [next(pauses) for _ in range(20)]
    assert taken[:3] == [0, waiting.FIRST_PAUSE, 1.5 * waiting.FIRST_PAUSE]
    assert taken == sorted(taken)
    assert taken[-1] == waiting.LONGEST_PAUSE
    assert next(pause for pause in [*waiting.pauses(0.01)][1:]) <= 0.01
    assert list(waiting.pauses(0)) == [0]
