"""An application's trigger on our table that makes trouble for one row makes none for its neighbours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.endings.calls import Claimed
from receiver.endings.outcomes import Succeeded
from receiver.errors import DatabaseUnavailable, ItemRefused, OutOfConnections, Rejected
from receiver.record import connections
from receiver.record.sql import sweeping
from receiver.record.sql.replaying import Filter
from tests.postgres.conftest import Instances
from tests.postgres.record import Instance, Look, call, other_task, route
from tests.postgres.sweeps import Sweeps

AGO = datetime(2026, 1, 1, tzinfo=UTC)

MANY = 60
"""Neighbours that are delivered at once with the one that makes trouble."""

TRIGGER = """
CREATE TABLE counter (n int);
INSERT INTO counter VALUES (0);
CREATE FUNCTION troubled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$;
CREATE TRIGGER troubled BEFORE INSERT OR UPDATE ON task_executions
FOR EACH ROW WHEN (NEW.task_id LIKE 'troubled%') EXECUTE FUNCTION troubled();
"""

SLEEPS = "PERFORM pg_sleep(7)"
RAISES = "RAISE EXCEPTION 'the shop is closed'"
DIVIDES = "PERFORM 1 / (SELECT n FROM counter)"
UNFIT = "PERFORM no_such_function()"
COUNTS = "UPDATE counter SET n = n + 1"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement may take one second, so that the tests take few."""
    monkeypatch.setitem(connections.SERVER_SETTINGS, "statement_timeout", "1s")


async def timed(work: Awaitable[object]) -> tuple[object, float]:
    """What came of it, an error too, and how many seconds that took."""
    began = time.monotonic()
    try:
        result = await work
    except (DatabaseUnavailable, ItemRefused, OutOfConnections, Rejected) as error:
        result = error
    except Exception as error:  # noqa: BLE001 - asyncpg's, as it is
        result = error
    return result, time.monotonic() - began


async def claimed_together(instance: Instance, names: list[str]) -> tuple[list[Claimed], list[float]]:
    """The claims of all neighbours, and their times; one that makes trouble is in the middle and gets none."""
    middle = len(names) // 2
    ids = [*names[:middle], "troubled", *names[middle:]]
    ended = await asyncio.gather(*(timed(instance.ledger.claim(call(each))) for each in ids))
    (trouble, _) = ended.pop(middle)
    assert isinstance(trouble, Exception), trouble
    claims = [claim for claim, _ in ended if isinstance(claim, Claimed)]
    assert len(claims) == len(names), [claim for claim, _ in ended if not isinstance(claim, Claimed)]
    return claims, [seconds for _, seconds in ended]


def named(prefix: str) -> list[str]:
    return [f"{prefix}-{number}" for number in range(MANY)]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "body", [SLEEPS, RAISES, DIVIDES, UNFIT], ids=["sleeps", "raises", "refuses", "unfit"]
)
async def test_a_row_whose_trigger_fails_is_claimed_alone(instance: Instance, look: Look, body: str) -> None:
    """All neighbours are claimed, the first time after the one statement that failed, from then on at once."""
    await look.execute(TRIGGER.format(body=body))
    first, waited = await claimed_together(instance, named("first"))
    assert max(waited) < 4
    again, quick = await claimed_together(instance, named("again"))
    assert max(quick) < 0.9
    await asyncio.gather(*(instance.settle(each, Succeeded("1")) for each in (*first, *again)))
    rows = await look.connection.fetch(
        "SELECT status, attempt, fence, count(*) FROM task_executions GROUP BY 1, 2, 3"
    )
    assert [tuple(row) for row in rows] == [("SUCCESSFUL", 1, 1, 2 * MANY)]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("body", [SLEEPS, RAISES], ids=["sleeps", "raises"])
async def test_a_row_whose_trigger_fails_is_settled_alone(
    instance: Instance, look: Look, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr("receiver.record.ledger.INSIST_AT_MOST", 0.0)
    await look.execute(TRIGGER.format(body=f"IF NEW.final THEN {body}; END IF"))
    ids = [*named("n"), "troubled"]
    claims = await asyncio.gather(*(instance.claim(each) for each in ids))
    ended = await asyncio.gather(*(timed(instance.settle(each, Succeeded("1"))) for each in claims))
    assert [ending for ending, _ in ended[:-1]] == [Succeeded("1")] * MANY
    assert max(seconds for _, seconds in ended[:-1]) < 4
    assert type(ended[-1][0]).__name__ == "Unrecorded"
    assert await look.value("SELECT count(*) FROM task_executions WHERE final") == MANY


async def test_a_row_whose_trigger_waits_for_a_lock_makes_nobody_else_wait(
    instances: Instances, look: Look, other: Look
) -> None:
    """Somebody keeps the row of a counter that the trigger counts in."""
    instance = instances()
    await look.execute(TRIGGER.format(body=COUNTS))
    await other.execute("BEGIN; UPDATE counter SET n = n + 1")
    _, waited = await claimed_together(instance, named("first"))
    assert max(waited) < 3
    _, quick = await claimed_together(instance, named("again"))
    assert max(quick) < 0.9
    await other.execute("ROLLBACK")
    assert (await instance.claim("troubled")).attempt == 1


# --- sweeps, and an instance that exits -----------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("body", "neighbours"), [(SLEEPS, 0), (RAISES, 20)], ids=["sleeps", "raises"])
async def test_a_row_whose_trigger_fails_keeps_no_other_task_from_being_swept(
    sweeps: Sweeps, look: Look, body: str, neighbours: int
) -> None:
    """It is the oldest of all, so every sweep meets it first. One that is slow keeps some of its own task waiting."""
    sweeps.routes = (route(), route(other_task))
    sweeps.post.open(*sweeps.routes)
    await look.seed("troubled", enqueued_at=AGO - timedelta(minutes=1))
    for number in range(20):
        other = {"task_name": "other_task", "task_path": route(other_task).path}
        await look.seed(f"other-{number}", enqueued_at=AGO, **other)
        await look.seed(f"same-{number}", enqueued_at=AGO)
    await look.execute(TRIGGER.format(body=body))
    swept = await sweeps.sweep()
    assert swept.complete
    published = sweeps.post.ids()
    assert len([each for each in published if each.startswith("other")]) == 20
    assert len([each for each in published if each.startswith("same")]) >= neighbours
    assert "troubled" not in published
    assert [what for what, _ in sweeps.troubles] == ["owed tasks not taken"]


async def test_a_task_whose_rows_all_fail_keeps_no_other_task_waiting(
    sweeps: Sweeps, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 000 of them took 21 s of every sweep before the first row of another task was published, and as many lines of the log."""
    monkeypatch.setattr("receiver.sweep.owed.BATCH", 10)
    for number in range(30):
        await look.seed(f"troubled-{number:02}", enqueued_at=AGO)
    sweeps.routes = (route(), route(other_task))
    sweeps.post.open(*sweeps.routes)
    other = {"task_name": "other_task", "task_path": route(other_task).path}
    await look.seed("a", enqueued_at=AGO + timedelta(days=1), **other)
    await look.execute(TRIGGER.format(body=RAISES))
    asked = list[list[str]]()
    take = sweeping.take_owed

    async def noted(executor: Any, task_ids: Sequence[str], **given: Any) -> Any:
        asked.append([*task_ids])
        return await take(executor, task_ids, **given)

    monkeypatch.setattr(sweeping, "take_owed", noted)
    assert (await sweeps.sweep()).published == 1
    assert asked.index(["a"]) < len(asked) / 2
    assert [what for what, _ in sweeps.troubles] == ["owed tasks not taken"] * 3


async def test_a_patrol_looks_behind_the_rows_that_fail(
    sweeps: Sweeps, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.sweep.owed.BATCH", 2)
    long_ago = datetime.now(UTC) - timedelta(days=8)
    for name in (*(f"troubled-{number}" for number in range(5)), "a", "b"):
        await look.seed(name, enqueued_at=long_ago, published_at=long_ago)
    await look.execute(TRIGGER.format(body=RAISES))
    assert (await sweeps.sweep()).forgotten == 2


async def test_a_row_that_cannot_be_marked_keeps_no_other_from_being_marked(
    sweeps: Sweeps, look: Look
) -> None:
    """It is published again when its time is over."""
    await look.seed("troubled", enqueued_at=AGO)
    for number in range(5):
        await look.seed(f"n-{number}", enqueued_at=AGO)
    await look.execute(TRIGGER.format(body=f"IF NEW.published_at IS NOT NULL THEN {RAISES}; END IF"))
    assert (await sweeps.sweep()).published == 6
    assert await look.value("SELECT count(*) FROM task_executions WHERE published_at IS NOT NULL") == 5
    assert [what for what, _ in sweeps.troubles] == ["owed tasks not published"]


async def test_a_row_that_cannot_become_final_keeps_no_other_from_it(sweeps: Sweeps, look: Look) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=400)
    for name in ("troubled", *named("n")):
        await look.seed(name, "FAILED", enqueued_at=long_ago, finished_at=long_ago, published_at=long_ago)
    await look.execute(TRIGGER.format(body=f"IF NEW.final THEN {RAISES}; END IF"))
    assert (await sweeps.sweep()).finalised == MANY
    assert [what for what, _ in sweeps.troubles] == ["executions not pruned"]


async def test_an_operators_replay_names_the_row_that_fails_and_replays_the_others(
    sweeps: Sweeps, look: Look
) -> None:
    for name in ("troubled", *named("n")):
        await look.seed(name, "FAILED", final=True, published_at=AGO)
    await look.execute(TRIGGER.format(body=RAISES))
    async with sweeps.sweeper() as sweeper:
        replays = sweeper.operator_replays(rate=1000, limit=1000, dry_run=False)
        await replays.named(["troubled", *named("n")])
    assert replays.told.executions == MANY
    assert list(replays.told.failures) == ["troubled"]


async def test_a_replay_one_by_one_goes_on_behind_a_row_that_fails(sweeps: Sweeps, look: Look) -> None:
    for name in ("troubled", *named("n")[:2]):
        await look.seed(name, published_at=AGO)
    await look.execute(TRIGGER.format(body=UNFIT))
    async with sweeps.sweeper() as sweeper:
        replays = sweeper.operator_replays(rate=1, limit=1000, dry_run=False)
        await replays.undelivered(Filter())
    assert replays.told.executions == 2
    assert list(replays.told.failures) == ["troubled"]


async def test_the_other_leases_are_shortened_when_the_trigger_of_one_row_raises(
    instance: Instance, look: Look
) -> None:
    """The instance exits, and code goes on: the next owner waits no longer than it has to."""
    instance.heartbeat.start()
    for name in ("troubled", "a", "b"):
        await instance.claim(name)
    await look.execute(TRIGGER.format(body=RAISES))
    await asyncio.to_thread(instance.heartbeat.stop, left=timedelta(seconds=1))
    ended = "lease_expires_at < clock_timestamp() + interval '5 s'"
    rows = await look.connection.fetch(f"SELECT task_id FROM task_executions WHERE {ended} ORDER BY 1")  # noqa: S608 - text of ours
    assert [row["task_id"] for row in rows] == ["a", "b"]
