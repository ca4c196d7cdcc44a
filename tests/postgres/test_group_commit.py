"""Group commit: batches grow by themselves, and one request's trouble is its own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import asyncpg
import pytest

from receiver.errors import DatabaseUnavailable, ItemRefused, OutOfConnections
from receiver.record.group_commit import (
    FEW,
    KNOWN,
    MAX_BATCH_BYTES,
    MAX_ITEMS,
    REPEATS,
    Aside,
    FailedAlone,
    GroupCommit,
)
from receiver.record.sqlstates import LockedOut, RaisedByTrigger, StatementCancelled, TransientConflict
from tests.stage.waiting import eventually


@dataclass(frozen=True)
class Thing:
    """An item."""

    task_id: str
    size: int = 100
    task_path: str = "shop.send"


class Writer:
    """What is at the other end: remembers its batches, waits at a gate, refuses what it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refused: dict[str, Exception] = {}
        self.errors: list[Exception] = []
        self.locked: set[str] = set()
        self.waiting: dict[str, asyncio.Event] = {}
        self.orphans: list[tuple[str, str]] = []
        self.at_once = 0

    async def write(self, items: Sequence[Thing]) -> list[str]:
        """Its result for each item is the item's name in capitals."""
        assert self.at_once < 3, "one batch at a time, and two single items beside it"
        self.at_once += 1
        try:
            self.batches.append([item.task_id for item in items])
            await self.gate.wait()
            await asyncio.sleep(0)
            if self.errors:
                raise self.errors.pop(0)
            if len(items) == 1 and items[0].task_id in self.waiting:
                await self.waiting[items[0].task_id].wait()
            for item in items:
                if item.task_id in self.waiting and not self.waiting[item.task_id].is_set():
                    raise LockedOut("55P03")
                if item.task_id in self.refused:
                    raise self.refused[item.task_id]
                if item.task_id in self.locked:
                    raise TransientConflict("55P03")
            return [item.task_id.upper() for item in items]
        finally:
            self.at_once -= 1

    async def orphaned(self, item: Thing, result: str) -> None:
        """Takes what nobody waits for."""
        self.orphans.append((item.task_id, result))
        if item.task_id == "hostile":
            raise ValueError("orphaned raised")


@pytest.fixture
async def writer() -> Writer:
    return Writer()


@pytest.fixture
async def group(writer: Writer) -> AsyncIterator[GroupCommit[Thing, str]]:
    made = GroupCommit(writer.write, orphaned=writer.orphaned, wait=5, aside=Aside(2))
    yield made
    writer.gate.set()
    for each in writer.waiting.values():
        each.set()
    await made.close()


Group = GroupCommit[Thing, str]


def submit_all(group: Group, *names: str, task_path: str = "shop.send") -> list[asyncio.Task[str]]:
    """Requests, one a name, in this order."""
    return [asyncio.create_task(group.submit(Thing(name, task_path=task_path))) for name in names]


async def under_way(writer: Writer, group: Group) -> asyncio.Task[str]:
    """A batch that is waiting at the gate, so that others gather behind it."""
    writer.gate.clear()
    first = asyncio.create_task(group.submit(Thing("first")))
    await eventually(lambda: writer.batches)
    return first


async def test_a_lone_item_goes_at_once(writer: Writer, group: Group) -> None:
    async with asyncio.timeout(0.5):
        assert await group.submit(Thing("a")) == "A"
    assert writer.batches == [["a"]]


async def test_what_arrives_meanwhile_shares_the_next_batch(writer: Writer, group: Group) -> None:
    first = await under_way(writer, group)
    rest = submit_all(group, *(f"r{number}" for number in range(9)))
    await asyncio.sleep(0)
    writer.gate.set()
    assert await asyncio.gather(first, *rest) == ["FIRST", *(f"R{number}" for number in range(9))]
    assert [len(batch) for batch in writer.batches] == [1, 9]


async def test_a_batch_is_in_lock_order_and_each_gets_its_own_result(writer: Writer, group: Group) -> None:
    """Bytewise, as COLLATE "C" compares: upper case first, and not by code units."""
    names = ["b", "é", "a", "Z", "\U0001f600", "\uffee"]
    first = await under_way(writer, group)
    rest = submit_all(group, *names)
    await asyncio.sleep(0)
    writer.gate.set()
    assert await asyncio.gather(*rest) == [name.upper() for name in names]
    assert writer.batches[1] == sorted(names, key=str.encode)
    await first


async def test_a_batch_is_bounded_in_items_and_bytes(writer: Writer, group: Group) -> None:
    first = await under_way(writer, group)
    many = submit_all(group, *(f"m{number:04}" for number in range(MAX_ITEMS + 5)))
    big = [
        asyncio.create_task(group.submit(Thing(name, size)))
        for name, size in [("x1", MAX_BATCH_BYTES // 2), ("x2", MAX_BATCH_BYTES // 2), ("x3", 1)]
    ]
    await asyncio.sleep(0)
    writer.gate.set()
    await asyncio.gather(first, *many, *big)
    assert [len(batch) for batch in writer.batches] == [1, MAX_ITEMS, 6, 2]


async def test_a_large_item_goes_alone_and_keeps_nobody_waiting(writer: Writer) -> None:
    """Beside the batches: megabytes are a matter of tenths of a second, a batch of milliseconds."""
    group: Group = GroupCommit(writer.write, orphaned=writer.orphaned, wait=5, aside=Aside(1))
    writer.waiting = {"large": asyncio.Event(), "larger": asyncio.Event()}
    first = await under_way(writer, group)
    large = [
        asyncio.create_task(group.submit(Thing(name, MAX_BATCH_BYTES + size)))
        for size, name in enumerate(["large", "larger"], 1)
    ]
    a, z = submit_all(group, "a", "z")
    await asyncio.sleep(0)
    writer.gate.set()
    assert [await first, await a, await z] == ["FIRST", "A", "Z"]
    assert await group.submit(Thing("behind")) == "BEHIND"
    assert sorted(writer.batches) == [["a", "z"], ["behind"], ["first"], ["large"]]
    for each in writer.waiting.values():
        each.set()
    assert await asyncio.gather(*large) == ["LARGE", "LARGER"]


async def test_a_large_item_that_waits_too_long_for_its_turn_is_refused(writer: Writer) -> None:
    group: Group = GroupCommit(writer.write, orphaned=writer.orphaned, wait=0.1, aside=Aside(1))
    writer.waiting = {"large": asyncio.Event()}
    large = asyncio.create_task(group.submit(Thing("large", 2 * MAX_BATCH_BYTES)))
    await eventually(lambda: writer.batches)
    with pytest.raises(OutOfConnections):
        await group.submit(Thing("late", 2 * MAX_BATCH_BYTES))
    writer.waiting["large"].set()
    assert await large == "LARGE"
    await group.close()
    assert writer.batches == [["large"]]


@pytest.mark.parametrize("error", [DatabaseUnavailable("down"), LockedOut("55P03")])
async def test_an_error_leaves_nothing_to_the_collector(
    writer: Writer, group: Group, error: Exception
) -> None:
    """Its traceback has the frames of whoever waits, and these have a request's body: freed at once, or megabytes pile up."""

    async def fail() -> None:
        writer.errors = [type(error)(*error.args)]
        with pytest.raises(type(error)):
            await group.submit(Thing("a"))

    await fail()
    gc.collect()
    gc.disable()
    try:
        await asyncio.create_task(fail())
        await asyncio.sleep(0)
        assert gc.collect() == 0
    finally:
        gc.enable()


REFUSALS = [
    ItemRefused("22003", "no"),
    StatementCancelled("57014"),
    RaisedByTrigger("P0001"),
    asyncpg.FeatureNotSupportedError("0A000"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
async def test_an_item_that_is_refused_fails_alone(writer: Writer, group: Group, error: Exception) -> None:
    writer.refused = {"bad": error}
    first = await under_way(writer, group)
    rest = submit_all(group, "a", "bad", "c")
    await asyncio.sleep(0)
    writer.gate.set()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert results.pop(2) is error
    assert results == ["FIRST", "A", "C"]
    assert writer.batches[1:] == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]


async def test_an_item_that_failed_alone_joins_no_batch_again(writer: Writer, group: Group) -> None:
    """Its redelivery is written beside its neighbours."""
    writer.refused = {"bad": RaisedByTrigger("P0001")}
    with pytest.raises(RaisedByTrigger):
        await group.submit(Thing("bad"))
    first = await under_way(writer, group)
    rest = submit_all(group, "a", "bad", "c")
    await asyncio.sleep(0)
    writer.gate.set()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [type(result) for result in results] == [str, str, RaisedByTrigger, str]
    assert [batch for batch in writer.batches if "bad" in batch] == [["bad"], ["bad"]]


async def test_items_that_failed_alone_use_one_lane(writer: Writer, group: Group) -> None:
    """However many there are, and however long each takes: the other lane is for those that are innocent."""
    slow = [f"slow {number}" for number in range(FEW - 1)]
    writer.refused = {name: StatementCancelled("57014") for name in slow}
    await asyncio.gather(*submit_all(group, *slow), return_exceptions=True)
    writer.refused, writer.waiting = {}, {name: asyncio.Event() for name in slow}
    under_way = submit_all(group, *slow)
    writer.refused = {"new": RaisedByTrigger("P0001")}
    async with asyncio.timeout(2):
        results = await asyncio.gather(*submit_all(group, "a", "new", "z"), return_exceptions=True)
    assert [type(result) for result in results] == [str, RaisedByTrigger, str]
    assert writer.at_once == 1
    for each in writer.waiting.values():
        each.set()
    assert await asyncio.gather(*under_way) == [name.upper() for name in slow]


async def test_new_items_of_a_task_that_keeps_failing_use_that_lane_too(writer: Writer, group: Group) -> None:
    """None of them fails a batch, nor holds up one that does."""
    slow = [f"slow {number}" for number in range(FEW + 4)]
    writer.refused = {name: StatementCancelled("57014") for name in slow[:FEW]}
    await asyncio.gather(*submit_all(group, *slow[:FEW], task_path="shop.slow"), return_exceptions=True)
    writer.refused, writer.batches = {"new": RaisedByTrigger("P0001")}, []
    writer.waiting = {name: asyncio.Event() for name in slow[FEW:]}
    pending = submit_all(group, *slow[FEW:], task_path="shop.slow")
    async with asyncio.timeout(2):
        results = await asyncio.gather(*submit_all(group, "a", "new", "z"), return_exceptions=True)
    assert [type(result) for result in results] == [str, RaisedByTrigger, str]
    assert sorted(writer.batches) == [["a"], ["a", "new", "z"], ["new"], [slow[FEW]], ["z"]]
    for each in writer.waiting.values():
        each.set()
    assert await asyncio.gather(*pending) == [name.upper() for name in slow[FEW:]]


async def test_those_of_a_task_that_wait_for_a_lane_leave_it_to_the_innocent(
    writer: Writer, group: Group
) -> None:
    """They were in one batch, and it has just turned out that their task keeps failing."""
    slow = [f"slow {number}" for number in range(FEW + 4)]
    failing = FEW + 1  # two at once
    writer.refused = {name: StatementCancelled("57014") for name in slow[:failing]}
    writer.waiting = {name: asyncio.Event() for name in slow[failing:]}
    first = await under_way(writer, group)
    pending = submit_all(group, *slow, task_path="shop.slow")
    innocent = submit_all(group, "z")
    await asyncio.sleep(0)
    writer.gate.set()
    async with asyncio.timeout(2):
        assert [await first, *await asyncio.gather(*innocent)] == ["FIRST", "Z"]
    for each in writer.waiting.values():
        each.set()
    ended = await asyncio.gather(*pending, return_exceptions=True)
    assert [type(each) for each in ended] == [StatementCancelled] * failing + [str] * (len(slow) - failing)


async def test_an_item_that_succeeds_alone_joins_batches_again(writer: Writer, group: Group) -> None:
    """So do the others of its task: the database may have been slow for all of them."""
    names = [f"n{number}" for number in range(FEW)]
    writer.refused = {name: StatementCancelled("57014") for name in names}
    await asyncio.gather(*submit_all(group, *names), return_exceptions=True)
    writer.refused, writer.batches = {}, []
    await asyncio.gather(*submit_all(group, *names))
    assert sorted(writer.batches) == [[name] for name in names]
    writer.batches = []
    first = await under_way(writer, group)
    rest = submit_all(group, *names, "new")
    await asyncio.sleep(0)
    writer.gate.set()
    await asyncio.gather(first, *rest)
    assert writer.batches[-1] == [*names, "new"]


def test_a_bounded_number_is_remembered() -> None:
    failed = FailedAlone()
    things = [Thing(f"item {number}", task_path=f"task {number}") for number in range(KNOWN + 1)]
    for thing in things:
        failed.add(thing)
    assert [thing in failed for thing in (things[0], things[1], things[-1])] == [False, True, True]


async def test_an_item_whose_row_stays_locked_fails_alone(writer: Writer, group: Group) -> None:
    writer.locked = {"stuck"}
    first = await under_way(writer, group)
    rest = submit_all(group, "a", "stuck", "z")
    await asyncio.sleep(0)
    writer.gate.set()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert isinstance(results.pop(2), TransientConflict)
    assert results == ["FIRST", "A", "Z"]


async def test_a_batch_that_was_rolled_back_because_of_another_is_repeated(
    writer: Writer, group: Group
) -> None:
    writer.errors = [TransientConflict("40P01")] * (REPEATS - 1)
    assert await group.submit(Thing("a")) == "A"
    assert writer.batches == [["a"]] * REPEATS


async def test_a_database_that_is_down_fails_all_of_the_batch_and_none_after(
    writer: Writer, group: Group
) -> None:
    writer.errors = [DatabaseUnavailable("down")]
    results = await asyncio.gather(*submit_all(group, "a", "b"), return_exceptions=True)
    assert all(isinstance(result, DatabaseUnavailable) for result in results)
    assert await group.submit(Thing("c")) == "C"


async def test_who_waits_too_long_for_a_batch_is_refused(writer: Writer) -> None:
    """Nothing was done for it; the batch before it is not disturbed."""
    group: Group = GroupCommit(writer.write, orphaned=writer.orphaned, wait=0.05, aside=Aside(2))
    first = await under_way(writer, group)
    with pytest.raises(OutOfConnections):
        await group.submit(Thing("late"))
    writer.gate.set()
    assert await first == "FIRST"  # whoever was taken is waited for
    await group.close()
    assert writer.batches == [["first"]]
    assert writer.orphans == []


async def test_who_waits_too_long_behind_a_locked_one_of_its_batch_is_refused(writer: Writer) -> None:
    """Somebody locks the table: each waits for it alone, and those whose turn has not come for no longer than they may."""
    group: Group = GroupCommit(writer.write, orphaned=writer.orphaned, wait=0.5, aside=Aside(1))
    writer.waiting = {"a": asyncio.Event()}
    first = await under_way(writer, group)
    a, b, c = submit_all(group, "a", "b", "c")
    await asyncio.sleep(0)
    writer.gate.set()
    assert await first == "FIRST"
    for late in (b, c):
        with pytest.raises(OutOfConnections):
            await late
    assert not a.done()
    writer.waiting["a"].set()
    assert await a == "A"
    await group.close()
    assert writer.batches == [["first"], ["a", "b", "c"], ["a"]]


async def test_a_locked_item_keeps_nobody_waiting_who_comes_after_it(writer: Writer, group: Group) -> None:
    """Its own batch is taken apart beside the next one."""
    writer.waiting = {"stuck": asyncio.Event(), "stuck too": asyncio.Event()}
    first = await under_way(writer, group)
    rest = submit_all(group, "a", "stuck", "stuck too")
    await asyncio.sleep(0)
    writer.gate.set()
    assert [await first, await rest[0]] == ["FIRST", "A"]
    assert await asyncio.gather(*submit_all(group, "behind", "and behind")) == ["BEHIND", "AND BEHIND"]
    assert not rest[1].done()
    for each in writer.waiting.values():
        each.set()
    assert await asyncio.gather(*rest) == ["A", "STUCK", "STUCK TOO"]


async def test_who_goes_before_being_taken_leaves_nothing(writer: Writer, group: Group) -> None:
    first = await under_way(writer, group)
    gone, stays = submit_all(group, "gone", "stays")
    await asyncio.sleep(0)
    gone.cancel()
    writer.gate.set()
    assert [await first, await stays] == ["FIRST", "STAYS"]
    assert writer.batches == [["first"], ["stays"]]
    assert writer.orphans == []


async def test_who_goes_later_leaves_an_orphan(writer: Writer, group: Group) -> None:
    first = await under_way(writer, group)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    writer.gate.set()
    await group.close()
    assert writer.orphans == [("first", "FIRST")]


async def test_who_goes_in_the_moment_its_result_comes_leaves_an_orphan(writer: Writer) -> None:
    """The result is there, the request is cancelled before it could take it."""
    requests: list[asyncio.Task[str]] = []

    async def write(items: Sequence[Thing]) -> list[str]:
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(requests[0].cancel)
        return [item.task_id.upper() for item in items]

    group: Group = GroupCommit(write, orphaned=writer.orphaned, wait=5, aside=Aside(2))
    requests.append(asyncio.create_task(group.submit(Thing("a"))))
    with pytest.raises(asyncio.CancelledError):
        await requests[0]
    await group.close()
    assert writer.orphans == [("a", "A")]


async def test_an_orphan_that_makes_trouble_stalls_nobody(writer: Writer, group: Group) -> None:
    """Neither its own batch nor the queue behind it."""
    writer.gate.clear()
    [hostile, neighbour] = submit_all(group, "hostile", "neighbour")
    await eventually(lambda: writer.batches == [["hostile", "neighbour"]])
    behind = asyncio.create_task(group.submit(Thing("behind")))
    hostile.cancel()
    await asyncio.sleep(0)
    writer.gate.set()
    async with asyncio.timeout(2):
        assert [await neighbour, await behind] == ["NEIGHBOUR", "BEHIND"]
        await group.close()
    assert writer.orphans == [("hostile", "HOSTILE")]


async def test_closing_waits_for_what_was_handed_in(writer: Writer) -> None:
    group: Group = GroupCommit(writer.write, orphaned=None, wait=5, aside=Aside(2))
    requests = submit_all(group, "a", "b")
    await asyncio.sleep(0)
    await group.close()
    assert [await request for request in requests] == ["A", "B"]
    await group.close()
