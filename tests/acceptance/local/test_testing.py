"""The test kit, in a pytest of its own, as a plugin's author meets it: sync and async tests, good and bad days."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CONFTEST = """
import os
from pathlib import Path

import pytest
from sqlalchemy import text

from receiver import PermanentError, TaskContext, TaskRoute, task
from receiver.testing import Registry

CALLS = []

@task
async def greet(name: str) -> str:
    CALLS.append(name)
    return f"Hello, {name}!"

@task
def resize(width: int) -> int:
    CALLS.append(width)
    return width

@task
async def order(ctx: TaskContext, name: str) -> int:
    connection = await ctx.connection()
    await connection.execute(text("CREATE TABLE IF NOT EXISTS orders (name text)"))
    await connection.execute(text("INSERT INTO orders VALUES (:name)"), {"name": name})
    CALLS.append(name)
    return ctx.attempt

@task
async def refuses() -> None:
    raise PermanentError("never")

@task
async def cleanup() -> int:
    return 3

@task
async def elsewhere() -> None: ...

@task
async def hands_on(ctx: TaskContext, name: str) -> None:
    await ctx.enqueue(greet, name)
    CALLS.append("handed on")

@task
def tells(ctx: TaskContext, depth: int = 0) -> None:
    CALLS.append(dict(ctx.metadata))
    if depth == 1:
        tells.enqueue()
    elif depth > 1:
        tells.using(metadata={"via": "tells", "tenant": "other"}).enqueue(depth - 1)

tasks = [
    TaskRoute(tells),
    TaskRoute(hands_on), TaskRoute(greet), TaskRoute(resize), TaskRoute(order), TaskRoute(refuses, max_attempts=2),
    TaskRoute(cleanup, schedule="0 3 * * *"),
]

@pytest.fixture(scope="session")
def receiver_database_url():
    return os.environ["KIT_DATABASE_URL"]

@pytest.fixture(scope="session")
def receiver_registry():
    return Registry(tasks)

@pytest.fixture
def calls():
    CALLS.clear()
    return CALLS
"""

GOOD_DAYS = """
from datetime import timedelta

from conftest import cleanup, greet, hands_on, order, refuses, resize, elsewhere, tells
import pytest

import receiver

def test_what_the_code_under_test_enqueues_is_pending(task_queue, calls):
    result = greet.using(label="l").enqueue("Ada")
    (many,) = receiver.enqueue_many([resize.entry(7)])
    assert [each.task_id for each in task_queue.pending] == [result.id, many.id]
    assert [done.status for done in task_queue.deliver_all()] == [200, 200]
    result.refresh()
    assert (result.return_value, result.label, calls) == ("Hello, Ada!", "l", ["Ada", 7])
    assert [row.task_id for row in task_queue.executions] == [result.id, many.id]

async def test_in_an_event_loop_too(task_queue, calls):
    result = await greet.aenqueue("Ada")
    task_queue.deliver_all()
    await result.arefresh()
    assert (result.is_finished, calls) == (True, ["Ada"])

def test_metadata_is_inherited_and_added_to(task_queue, calls):
    tells.using(metadata={"tenant": "acme", "user": "ada"}).enqueue(2)
    tells.enqueue()
    task_queue.deliver_all()
    added = {"tenant": "other", "user": "ada", "via": "tells"}
    assert sorted(map(str, calls)) == sorted(map(str, [{"tenant": "acme", "user": "ada"}, {}, added, added]))

def test_a_sweep_is_the_real_one_and_leaves_nothing_of_itself(task_queue, calls):
    greet.using(run_after=timedelta(seconds=60)).enqueue("Ada")
    assert task_queue.sweep().published == 0
    task_queue.crash_next()
    task_queue.push(order, "book")
    task_queue.advance(61)
    assert [message.task_name for message in task_queue.pending] == ["order", "greet"]
    assert task_queue.sweep().published == 0
    assert [execution.task_name for execution in task_queue.executions] == ["greet", "order"]
    task_queue.deliver_all()
    task_queue.advance(31 * 86400)
    assert task_queue.executions == []


def test_a_message_that_comes_too_early_is_owed(task_queue, calls):
    result = greet.using(run_after=timedelta(seconds=60)).enqueue("Ada")
    task_queue.advance(61)
    task_queue.advance(-30)
    assert task_queue.deliver_next().acked
    assert (task_queue.pending, calls) == ([], [])
    task_queue.advance(31)
    assert task_queue.deliver_next().acked
    assert calls == ["Ada"]


def test_what_is_deferred_becomes_due(task_queue, calls):
    result = greet.using(run_after=timedelta(minutes=5)).enqueue("Ada")
    assert (task_queue.pending, task_queue.deliver_all()) == ([], [])
    task_queue.advance(301)
    assert [each.task_id for each in task_queue.pending] == [result.id]
    assert task_queue.deliver_next().acked
    task_queue.advance(301)
    assert (calls, task_queue.pending) == (["Ada"], [])

def test_a_task_hands_on_if_it_succeeds(task_queue, calls):
    task_queue.crash_next()
    task_queue.push(hands_on, "Ada")
    assert [each.task_name for each in task_queue.pending] == ["hands_on"]
    task_queue.advance(61)
    assert [done.task_name for done in task_queue.deliver_all()] == ["hands_on", "greet"]
    assert calls == ["handed on", "handed on", "Ada"]

def test_a_push_runs_the_task_and_is_recorded(task_queue, calls):
    done = task_queue.push(greet, "Ada")
    assert (done.status, done.acked, calls) == (200, True, ["Ada"])
    (row,) = task_queue.executions
    assert (row.task_id, row.status, row.return_value) == (done.task_id, "SUCCESSFUL", "Hello, Ada!")
    assert task_queue.pending == []

def test_the_record_is_empty_again(task_queue):
    assert task_queue.executions == []

async def test_an_async_test_uses_it_alike(task_queue, calls):
    task_queue.enqueue(resize, width=7)
    assert [each.task_name for each in task_queue.pending] == ["resize"]
    assert [done.status for done in task_queue.deliver_all()] == [200]
    assert calls == [7]

def test_messages_come_in_order_one_at_a_time(task_queue, calls):
    first, second = task_queue.enqueue("greet", "a"), task_queue.enqueue("greet", "b")
    assert task_queue.deliver_next().task_id == first
    assert [each.task_id for each in task_queue.pending] == [second]
    assert task_queue.pending() == task_queue.pending
    assert task_queue.deliver_next().task_id == second
    assert task_queue.deliver_next() is None
    assert calls == ["a", "b"]

def test_a_redelivery_is_answered_from_the_record(task_queue, calls):
    task_queue.push(greet, "Ada")
    assert task_queue.redeliver_last().acked
    assert calls == ["Ada"]

def test_nothing_can_be_redelivered_before_anything_was_delivered(task_queue):
    with pytest.raises(AssertionError, match="nothing has been delivered"):
        task_queue.redeliver_last()

def test_a_firing_is_an_execution_of_its_own(task_queue):
    first, second = task_queue.tick(cleanup), task_queue.tick(cleanup)
    assert [row.task_id for row in task_queue.executions] == [first.task_id, second.task_id]

def test_arguments_that_do_not_fit_are_rejected(task_queue, calls):
    assert task_queue.push(greet).status == 400
    assert (calls, task_queue.executions, len(task_queue.pending)) == ([], [], 1)

def test_a_name_may_be_unknown_and_a_function_may_not(task_queue):
    assert task_queue.push("nobody").status == 400
    with pytest.raises(AssertionError, match="no TaskRoute declares elsewhere"):
        task_queue.push(elsewhere)

def test_a_permanent_error_is_acked(task_queue):
    assert task_queue.push(refuses).status == 200
    assert task_queue.executions[0].final

def test_hundreds_of_deliveries_go_at_once(task_queue):
    for number in range(300):
        task_queue.enqueue(greet, str(number))
    assert [done.acked for done in task_queue.deliver_all()] == [True] * 300
"""

BAD_DAYS = """
import asyncio
import os

import asyncpg
from contextlib import asynccontextmanager

from conftest import CALLS, cleanup, greet, order, resize
from receiver.testing import Registry
from receiver.testkit.queue import running

def orders():
    async def read():
        connection = await asyncpg.connect(os.environ["KIT_DATABASE_URL"])
        try:
            if await connection.fetchval("SELECT to_regclass('orders')") is None:
                return []
            return [row["name"] for row in await connection.fetch("SELECT name FROM orders")]
        finally:
            await connection.close()
    return asyncio.run(read())

def test_a_failure_is_retried(task_queue, calls):
    task_queue.fail_next(2)
    assert task_queue.push(greet, "Ada").status == 500
    (row,) = task_queue.executions
    assert (row.status, row.final) == ("FAILED", False)
    assert row.error_type.endswith("InjectedFailure")
    assert [done.status for done in task_queue.deliver_all()] == [500]
    assert calls == []
    assert [done.status for done in task_queue.deliver_all()] == [200]
    assert (task_queue.executions[0].attempt, calls) == (3, ["Ada"])

def test_a_dead_letter_without_max_attempts_is_final(task_queue, calls):
    task_queue.fail_next()
    task_queue.push(greet, "Ada")
    given_up = task_queue.give_up_next()
    assert (given_up.status, type(given_up.ending).__name__) == (200, "DeadLettered")
    (execution,) = task_queue.executions
    assert (execution.status, execution.final, execution.dead_letters) == ("FAILED", True, 1)
    assert task_queue.pending == []

def test_a_firing_that_was_given_up_is_found(task_queue):
    task_queue.fail_next()
    task_queue.tick(cleanup)
    task_queue.give_up_next()
    assert [row.final for row in task_queue.executions] == [True]

def test_a_dropped_delivery_stays_pending(task_queue, calls):
    task_queue.drop_next()
    done = task_queue.push(greet, "Ada")
    assert (done.status, done.ending, calls, task_queue.executions) == (0, None, [], [])
    assert [done.status for done in task_queue.deliver_all()] == [200]

def test_a_crash_leaves_the_lease_until_it_runs_out(task_queue, calls):
    task_queue.crash_next()
    done = task_queue.push(order, "book")
    assert (done.status, calls) == (0, ["book"])
    (row,) = task_queue.executions
    assert row.status == "RUNNING"
    assert [done.status for done in task_queue.deliver_all()] == [429]
    task_queue.advance(59)
    assert [done.status for done in task_queue.deliver_all()] == [429]
    assert orders() == []
    task_queue.advance(2)
    assert [done.status for done in task_queue.deliver_all()] == [200]
    (row,) = task_queue.executions
    assert (row.status, row.attempt, row.return_value) == ("SUCCESSFUL", 1, 1)
    assert orders() == ["book"]

def test_the_fifth_crash_ends_it(task_queue, calls):
    for _ in range(5):
        task_queue.crash_next()
    assert task_queue.push(greet, "Ada").status == 0
    for _ in range(4):
        task_queue.advance(61)
        assert [done.status for done in task_queue.deliver_all()] == [0]
    task_queue.advance(61)
    assert [done.status for done in task_queue.deliver_all()] == [200]
    (row,) = task_queue.executions
    assert (row.status, row.final, row.error_type, row.attempt, len(calls)) == ("FAILED", True, "Crashed", 1, 5)

@asynccontextmanager
async def around(ctx):
    CALLS.append(f"around {ctx.attempt}")
    yield

def test_the_managers_of_the_registry_enclose_each_run(receiver_registry, _receiver_tables, calls):
    registry = Registry(receiver_registry.declared, around=[around])
    with running(_receiver_tables, registry) as queue:
        assert queue.push(greet, "Ada").acked
    assert calls == ["around 1", "Ada"]

def test_a_crash_of_a_thread(task_queue, calls):
    task_queue.crash_next()
    assert task_queue.push(resize, 1).status == 0
    task_queue.advance(61)
    assert task_queue.redeliver_last().status == 200
    assert calls == [1, 1]

def test_nobody_renews_the_lease_of_a_crashed_instance(task_queue):
    task_queue.crash_next()
    task_queue.push(greet, "Ada")
    assert task_queue._receiver._service.heartbeat.held == []

def test_what_is_left_over_does_not_reach_the_next_test(task_queue):
    assert task_queue.push(greet, "Ada").acked
"""


@pytest.fixture
def kit(tmp_path: Path, project_root: Path, empty_database_url: str) -> Callable[..., str]:
    """Runs tests with the kit in a process of their own; what pytest said."""

    def run(tests: str, *arguments: str) -> str:
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (tmp_path / "test_plugin.py").write_text(tests)
        (tmp_path / "pytest.ini").write_text(
            "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *plugin_arguments(), *arguments],
            cwd=tmp_path,
            env=os.environ
            | {"KIT_DATABASE_URL": empty_database_url, "PYTHONPATH": f"{project_root}:{tmp_path}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def plugin_arguments() -> list[str]:
    """Where the package is installed pytest finds the kit by itself; an older editable installation knows of none."""
    from importlib.metadata import entry_points  # noqa: PLC0415

    known = any(point.value == "receiver.testing" for point in entry_points(group="pytest11"))
    return [] if known else ["-p", "receiver.testing"]


@pytest.mark.parametrize("tests", [GOOD_DAYS, BAD_DAYS], ids=["good days", "bad days"])
def test_the_kit_does_what_it_says(kit: Callable[..., str], tests: str) -> None:
    said = kit(tests)
    assert f"{len(re.findall(r'^(?:async )?def test_', tests, re.MULTILINE))} passed" in said


@pytest.mark.slow
def test_postgresql_comes_from_the_wheel_when_no_other_is_named(kit: Callable[..., str]) -> None:
    tests = "from receiver.testing import receiver_database_url\nfrom conftest import greet\n"
    kit(tests + "def test_it(task_queue):\n    assert task_queue.push(greet, 'Ada').acked\n")


def test_without_a_test_that_asks_nothing_is_loaded(project_root: Path) -> None:
    """Pytest imports the kit in every run of everybody who has the package installed."""
    code = "import sys, pytest; before = set(sys.modules); import receiver.testing; print(*(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project_root, capture_output=True, text=True, check=True
    )
    heavy = {"asyncpg", "sqlalchemy", "starlette", "uvicorn", "httpx", "alembic", "google", "cryptography"}
    assert not {name.partition(".")[0] for name in done.stdout.split()} & heavy
    assert "receiver.serving.instance" not in done.stdout


def test_the_kits_types_can_be_imported() -> None:
    from receiver import testing  # noqa: PLC0415

    for name in testing.__all__:
        assert isinstance(getattr(testing, name), type)
    with pytest.raises(AttributeError, match="no_such"):
        _ = testing.no_such


@pytest.mark.slow
def test_the_tests_of_the_example_pass(project_root: Path) -> None:
    """examples/plugin is what people copy; its tests use the kit."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:asyncio",
            *plugin_arguments(),
        ],
        cwd=project_root / "examples" / "plugin",
        env=os.environ | {"PYTHONPATH": f"{project_root}:."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
