"""The database fails in the middle of everything: effects through `ctx` happen once, nothing hangs, nothing leaks.

Deliveries are repeated until they are acked, as Pub/Sub does. What is bounded is each single answer:

- a restart or a lost connection is noticed at once, so `PROMPT` seconds cover it with the pauses of a settlement;
- a database that says nothing is given up after the ledger's deadlines: `SILENT` seconds are the wait for a connection or a
  batch (5 s, `TASKS_DB_POOL_TIMEOUT`), a call (10 s), and one look at what it did over a fresh connection (2 s + 5 s).
  Only a settlement is insisted on, while its request can be answered: it is recorded when the database is back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from receiver.record.database import Database
from receiver.record.migrations import upgrade
from tests.acceptance.conftest import Start
from tests.stage.executions import make_effects
from tests.stage.instance import Instance
from tests.stage.proxy import Proxy
from tests.stage.receivers import Marks, message
from tests.stage.record import Record
from tests.stage.servers import LocalServer
from tests.stage.slow import some_quick
from tests.stage.waiting import eventually
from tests.stage.wire import Answer, push, until_acked

LEASE = 2
ENV = {"TASKS_LEASE_SECONDS": str(LEASE), "TASKS_DB_POOL_TIMEOUT": "5s"}
PROMPT = 10.0
SILENT = 35.0
MOST_CONNECTIONS = 4 + 1 + 5
"""The ledger's connections, the heartbeat's, and TASKS_DB_POOL_SIZE: what an instance may hold whatever has happened."""

DELIVERIES = 48
WORKERS = 8

OURS = "SELECT pid, application_name, state, wait_event_type FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'receiver %'"
HELD_UP = {
    "claim": "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'receiver ledger' AND wait_event_type = 'Lock'"
    " AND query LIKE '%INSERT INTO task_executions%'",
    "settlement": "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'receiver ledger' AND wait_event_type = 'Lock'"
    " AND query LIKE '%return_value = h.return_value%'",
    "task": "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'receiver task' AND state LIKE 'idle in transaction%'",
    "settlement with effects": "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'receiver task'"
    " AND wait_event_type = 'Lock' AND query LIKE '%SUCCESSFUL%'",
}


@pytest.fixture(scope="module")
def postgres() -> Iterator[LocalServer]:
    """A server that may be restarted."""
    with LocalServer(
        settings={"max_connections": "40", "autovacuum": "off", "track_activity_query_size": "16kB"}
    ) as server:
        upgrade(Database.of(server.url()))
        make_effects(server.url())
        yield server


@pytest.fixture
def truth(postgres: LocalServer) -> Record:
    """The record of the instance that a test starts for itself."""
    return Record(postgres.url())


@pytest.fixture(scope="module")
def beyond(postgres: LocalServer) -> Record:
    """The record of `through`, seen past the proxy: a database of its own, so that connections can be told apart."""
    postgres.create_database("beyond")
    upgrade(Database.of(postgres.url("beyond")))
    make_effects(postgres.url("beyond"))
    return Record(postgres.url("beyond"))


@pytest.fixture(scope="module")
def between(beyond: Record) -> Iterator[Proxy]:
    """What the instance of `through` connects through; each test heals what it broke."""
    with Proxy(beyond.url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def through(begin_shared: Start, between: Proxy) -> Instance:
    return begin_shared(between.url, ENV)


async def only_once(truth: Record, label: str, *names: str) -> None:
    """Every execution under the label is SUCCESSFUL, and what it wrote through `ctx` is there exactly once."""
    rows = await truth.fetch(
        "SELECT task_id, task_name, status, final FROM task_executions WHERE task_id LIKE $1 || '%'", label
    )
    assert {row["task_id"] for row in rows} == set(names)
    assert {(row["status"], row["final"]) for row in rows} == {("SUCCESSFUL", True)}
    effects = await truth.fetch("SELECT label FROM effects WHERE label LIKE $1 || '%'", label)
    wanted = sorted(row["task_id"] for row in rows if "effect" in row["task_name"])
    assert sorted(row["label"] for row in effects) == wanted


async def settled_down(truth: Record) -> None:
    """The receiver's connections are back to what it may keep, none of them in the middle of anything."""

    async def quiet() -> bool:
        rows = await truth.fetch(OURS)
        return len(rows) <= MOST_CONNECTIONS and {row["state"] for row in rows} <= {"idle"}

    await eventually(quiet)
    (found,) = await truth.fetch("SELECT sum(deadlocks)::int AS deadlocks FROM pg_stat_database")
    assert found["deadlocks"] == 0


@asynccontextmanager
async def locked_table(truth: Record) -> AsyncIterator[None]:
    """Nobody writes executions for the time of the block: what is about to do so waits in the middle of its statement."""
    connection = await truth.connect()
    try:
        await connection.execute("BEGIN; LOCK TABLE task_executions IN SHARE MODE")
        yield
    finally:
        # Where the server was restarted, the lock has gone with it.
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await connection.execute("ROLLBACK")
        connection.terminate()


class Stream:
    """Deliveries of half transactional, half plain tasks, each repeated until it is acked."""

    def __init__(self, instance: Instance, label: str, count: int = DELIVERIES) -> None:
        self._instance = instance
        kinds = {f"{label}-{number:03}": "effect" if number % 2 else "plain" for number in range(count)}
        self.names = list(kinds)
        self.done: list[list[Answer]] = []
        self._waiting = [
            message(kind, name, **({"seconds": 0.05} if kind == "effect" else {}))
            for name, kind in kinds.items()
        ]
        random.shuffle(self._waiting)

    async def run(self) -> None:
        async def work() -> None:
            while self._waiting:
                self.done.append(await until_acked(self._instance, self._waiting.pop(), patience=60))

        await asyncio.gather(*(work() for _ in range(WORKERS)))

    @property
    def slowest(self) -> float:
        return max(answer.seconds for answers in self.done for answer in answers)

    @property
    def statuses(self) -> set[int]:
        return {answer.status for answers in self.done for answer in answers}


@some_quick("fault", ["terminate", "restart"])
@pytest.mark.parametrize("phase", HELD_UP)
async def test_backends_that_end_in_the_middle_of_a_stream_double_nothing(
    begin: Start, postgres: LocalServer, truth: Record, marks: Marks, label: str, phase: str, fault: str
) -> None:
    instance = begin(postgres.url(), ENV)
    stream = Stream(instance, label)
    running = asyncio.ensure_future(stream.run())
    # These end when they are told to, so that somebody is in the phase in question when it counts.
    ready = {f"{label}-plain": "gated", f"{label}-effect": "gated_effect"}
    ending = [
        asyncio.ensure_future(until_acked(instance, message(kind, name))) for name, kind in ready.items()
    ]
    await marks.called(*ready)
    await eventually(lambda: len(stream.done) >= DELIVERIES // 6)
    if phase == "task":
        hit = await struck(postgres, truth, phase, fault)
        marks.let_go(*ready)
    else:
        async with locked_table(truth):
            marks.let_go(*ready)
            hit = await struck(postgres, truth, phase, fault)
    await running
    stream.done += [await each for each in ending]
    assert hit > 0
    await only_once(truth, label, *stream.names, *ready)
    assert stream.slowest < PROMPT
    assert stream.statuses <= {200, 429, 500}
    await settled_down(truth)


async def struck(postgres: LocalServer, truth: Record, phase: str, fault: str) -> int:
    """Strikes once a backend is seen to be in that phase; returns how many were."""
    victims = await eventually(lambda: truth.fetch(HELD_UP[phase]))
    if fault == "restart":
        await asyncio.to_thread(postgres.restart, "immediate")
        return len(victims)
    ended = await truth.fetch(
        "SELECT pg_terminate_backend(pid) AS ended FROM unnest($1::int[]) AS pid",
        [each["pid"] for each in victims],
    )
    return sum(each["ended"] for each in ended)


@pytest.mark.parametrize("task", ["gated", "gated_effect"])
@pytest.mark.parametrize("phase", ["claim", "settlement"])
@some_quick("fault", ["reply lost", "cut before", "cut in the middle"])
async def test_a_connection_that_breaks_around_a_statement_doubles_nothing(
    through: Instance,
    between: Proxy,
    beyond: Record,
    marks: Marks,
    label: str,
    task: str,
    phase: str,
    fault: str,
) -> None:
    instance, proxy, truth = through, between, beyond
    await until_acked(
        instance, message("effect", f"{label}-warm")
    )  # statements are prepared, connections stand
    if phase == "claim":
        marks.let_go(label)
        first = await broken_around(proxy, truth, instance, task, label, phase, fault)
    else:
        sending = asyncio.ensure_future(push(instance, message(task, label)))
        await marks.called(label)
        first = await broken_around(proxy, truth, instance, task, label, phase, fault, sending, marks)
    # Where the answer can be found out at once, nothing is left to Pub/Sub.
    found_out = {("reply lost", "claim", "gated"), ("reply lost", "claim", "gated_effect")}
    found_out |= {(each, "settlement", "gated") for each in ("cut before", "cut in the middle", "reply lost")}
    if (fault, phase, task) in found_out:
        assert first.status == 200
        assert marks.calls(label) == 1
    answers = [first, *await until_acked(instance, message(task, label))]
    assert max(answer.seconds for answer in answers) < PROMPT
    assert {answer.status for answer in answers} <= {200, 429, 500}
    await only_once(truth, label, label, f"{label}-warm")
    await settled_down(truth)


async def broken_around(
    proxy: Proxy,
    truth: Record,
    instance: Instance,
    task: str,
    label: str,
    phase: str,
    fault: str,
    sending: asyncio.Future[Answer] | None = None,
    marks: Marks | None = None,
) -> Answer:
    """Arms the fault for the next statement about this execution, lets that come, and returns the first answer."""
    held_up = "settlement with effects" if phase == "settlement" and task == "gated_effect" else phase
    needle = label.encode()

    def go() -> asyncio.Future[Answer]:
        if marks is not None:
            marks.let_go(label)
        return sending or asyncio.ensure_future(push(instance, message(task, label)))

    if fault == "cut in the middle":
        async with locked_table(truth):
            going = go()
            await eventually(lambda: truth.fetch(HELD_UP[held_up]))
            proxy.cut()
        return await going
    armed = proxy.cut_before(needle) if fault == "cut before" else proxy.lose_reply_to(needle)
    going = go()
    await armed.happened()
    return await going


@some_quick("fault", ["reply lost", "cut before"])
async def test_a_commit_whose_fate_is_unknown_is_found_out(
    through: Instance, between: Proxy, beyond: Record, marks: Marks, label: str, fault: str
) -> None:
    instance, proxy, truth = through, between, beyond
    await until_acked(instance, message("effect", f"{label}-warm"))
    sending = asyncio.ensure_future(push(instance, message("gated_effect", label)))
    await marks.called(label)
    armed = proxy.cut_before(b"COMMIT;") if fault == "cut before" else proxy.lose_reply_to(b"COMMIT;")
    marks.let_go(label)
    await armed.happened()
    first = await sending
    assert first.seconds < PROMPT
    if fault == "reply lost":  # it was committed: the contest finds the row settled
        assert (first.status, marks.calls(label)) == (200, 1)
    else:  # it was not: the contest writes the failure
        assert first.status == 500
        (attempt,) = await truth.attempts(label)
        assert attempt["error_type"].endswith("CommitUnknown")
        await until_acked(instance, message("gated_effect", label))
    await only_once(truth, label, label, f"{label}-warm")
    await settled_down(truth)


@pytest.mark.slow
async def test_a_database_that_falls_silent_keeps_nobody_waiting_beyond_the_deadlines(
    through: Instance, between: Proxy, beyond: Record, marks: Marks, label: str
) -> None:
    """New deliveries, a task that wants a connection, a settlement and a COMMIT, all at once."""
    instance, proxy, truth = through, between, beyond
    await until_acked(instance, message("effect", f"{label}-warm"))
    kinds = {"a": "gated", "b": "gated_effect", "c": "gated", "d": "plain", "e": "effect"}
    names = {f"{label}-{key}": kind for key, kind in kinds.items()}
    early = [name for name, kind in names.items() if kind.startswith("gated")]
    pushes = {name: asyncio.ensure_future(push(instance, message(names[name], name))) for name in early}
    await marks.called(*early)
    armed = proxy.stall_before(early[0].encode())
    marks.let_go(early[0])
    await armed.happened()
    marks.let_go(*early)
    pushes |= {
        name: asyncio.ensure_future(push(instance, message(kind, name)))
        for name, kind in names.items()
        if name not in pushes
    }
    done = [pushes.pop(name) for name in names if names[name] in {"gated", "gated_effect"}]
    answers = await asyncio.gather(*pushes.values())
    assert max(answer.seconds for answer in answers) < SILENT, answers
    assert "internal error" not in instance.log()
    assert {answer.status for answer in answers} <= {429, 500}
    assert not any(each.done() for each in done)
    proxy.resume()
    assert {answer.status for answer in await asyncio.gather(*done)} <= {200, 500}
    await asyncio.gather(*(until_acked(instance, message(kind, name)) for name, kind in names.items()))
    await only_once(truth, label, *names, f"{label}-warm")
    await settled_down(truth)


async def test_a_database_that_is_silent_at_start_is_waited_for_beside_the_service(
    begin: Start, empty_database_url: str
) -> None:
    """/health answers meanwhile; when the database does and its tables are not there, the log says what to do."""
    with Proxy(empty_database_url) as proxy:
        proxy.stall()
        instance = begin(proxy.url)
        assert instance.log().count("the database cannot be used yet") == 1
        proxy.resume()
        await eventually(
            lambda: (
                "not ready: the database has no tables of receiver; run `receiver migrate`" in instance.log()
            )
        )
        ready = await asyncio.to_thread(instance.get, "/ready")
        assert (ready.status_code, ready.json()["schema"]) == (503, "not migrated")
        await asyncio.to_thread(upgrade, Database.of(empty_database_url))
        assert (await asyncio.to_thread(instance.get, "/ready")).status_code == 200
