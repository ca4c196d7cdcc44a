"""A call is a row, then a message, then marked; what is known of it is in the record."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import receiver
from receiver import TaskRoute, task
from receiver.endings.outcomes import Skipped
from receiver.enqueue import PubSubBackend
from receiver.errors import (
    DatabaseUnavailable,
    SettingError,
    TaskResultMissing,
    TooLarge,
)
from receiver.record.sql.stored_call import MOST_ARGUMENTS
from receiver.settings import Settings
from receiver.tasks.call import TaskResult, TaskResultStatus
from tests.postgres.outbox import Published, audit, mail, nowhere
from tests.postgres.record import Instance, Look, route
from tests.stage.proxy import Proxy
from tests.stage.waiting import eventually

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def threaded(function: Any, *args: Any) -> Any:
    """Calls a function as a web process without a loop would."""
    return await asyncio.to_thread(function, *args)


async def test_a_call_is_written_published_and_marked(
    backend: PubSubBackend, published: Published, look: Look
) -> None:
    result = await mail.using(label="l", group_key="g", traceparent=TRACE).aenqueue("ada", copies=2)
    row = await look.row(result.id)
    (message,) = published.messages()
    assert message == {
        "task_id": result.id,
        "task_name": "mail",
        "args": ["ada"],
        "kwargs": {"copies": 2},
        "enqueued_at": row["enqueued_at"].isoformat(),
        "attributes": {"task_path": mail.path, "environment": "dev", "googclient_traceparent": TRACE},
    }
    assert (row["status"], row["task_path"], row["label"], row["group_key"]) == ("READY", mail.path, "l", "g")
    assert row["published_at"] >= row["enqueued_at"]
    assert (result.status, result.args, result.kwargs) == (TaskResultStatus.READY, ["ada"], {"copies": 2})
    assert (result.enqueued_at, result.label, result.group_key) == (row["enqueued_at"], "l", "g")
    assert published.troubles == []


async def test_metadata_is_kept_in_the_row_and_travels_as_an_attribute(
    backend: PubSubBackend, published: Published, look: Look
) -> None:
    one = await mail.using(metadata={"tenant": "acme"}).aenqueue("ada")
    (other, bare) = await receiver.aenqueue_many(
        [mail.using(metadata={"tenant": "ä"}).entry("bob"), mail.entry("joe")]
    )
    kept = [(await look.row(each.id))["metadata"] for each in (one, other, bare)]
    assert [None if text is None else json.loads(text) for text in kept] == [
        {"tenant": "acme"},
        {"tenant": "ä"},
        None,
    ]
    sent = {
        message["task_id"]: message["attributes"].get("receiver_metadata") for message in published.messages()
    }
    assert sent == {one.id: '{"tenant":"acme"}', other.id: '{"tenant":"ä"}', bare.id: None}


async def test_a_call_without_a_loop_does_the_same(
    backend: PubSubBackend, published: Published, look: Look
) -> None:
    result: TaskResult = await threaded(mail.enqueue, "ada")
    assert published.ids() == [result.id]
    assert (await look.row(result.id))["published_at"] is not None
    assert (await threaded(mail.get_result, result.id)).status is TaskResultStatus.READY


async def test_what_is_no_entry_is_named(backend: PubSubBackend) -> None:
    entries: Any = [mail.entry("ada"), "ada"]
    with pytest.raises(TypeError, match=r"takes entries, .* not a str"):
        await receiver.aenqueue_many(entries)


@pytest.mark.parametrize("call", ["enqueue", "get_result", "enqueue_many", "close"])
async def test_a_call_that_would_block_a_loop_is_refused(
    backend: PubSubBackend, look: Look, call: str
) -> None:
    calls: dict[str, Any] = {
        "enqueue": lambda: mail.enqueue("ada"),
        "get_result": lambda: mail.get_result("1"),
        "enqueue_many": lambda: receiver.enqueue_many([mail.entry("ada")]),
        "close": backend.close,
    }
    with pytest.raises(RuntimeError, match=rf"use `await \.\.\.a{call}\(\.\.\.\)`"):
        calls[call]()
    assert await look.value("SELECT count(*) FROM task_executions") == 0


async def test_calls_that_come_together_share_statements_and_requests(
    backend: PubSubBackend, published: Published, look: Look
) -> None:
    results = await asyncio.gather(*(mail.aenqueue(str(number)) for number in range(200)))
    assert published.ids() == sorted(result.id for result in results)
    inserted = await look.value("SELECT count(DISTINCT xmin::text) FROM task_executions")
    marked = await look.value("SELECT count(*) FROM task_executions WHERE published_at IS NOT NULL")
    assert marked == 200
    assert inserted < 20
    assert await look.others("receiver enqueue") <= 2


async def test_threads_share_one_loop(backend: PubSubBackend, published: Published, look: Look) -> None:
    def loops() -> int:
        return sum(thread.name == "receiver enqueue" for thread in threading.enumerate())

    before = loops()  # that of the local Pub/Sub
    with ThreadPoolExecutor(16) as pool:
        results = list(await asyncio.to_thread(lambda: list(pool.map(mail.enqueue, map(str, range(64))))))
    assert published.ids() == sorted(result.id for result in results)
    assert loops() == before + 1
    await threaded(backend.close)
    await eventually(lambda: loops() == before)
    assert (await threaded(mail.enqueue, "again")).id in published.ids()


async def test_whoever_closes_waits_for_the_calls_of_other_threads(
    backend: PubSubBackend, published: Published, look: Look, other: Any
) -> None:
    await threaded(mail.enqueue, "ada")
    said: Future[str] = Future()

    def ask() -> None:
        try:
            mail.get_result("1")
        except (
            TaskResultMissing,
            DatabaseUnavailable,
        ) as error:  # the latter when the lock was held for long
            said.set_result(str(error))

    async with other.transaction():
        await other.execute("LOCK TABLE task_executions IN ACCESS EXCLUSIVE MODE")
        threading.Thread(target=ask, daemon=True).start()  # which a failure here leaves waiting for ever
        await eventually(lambda: other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        closing = asyncio.create_task(threaded(backend.close))
        await eventually(lambda: backend._loop_thread is None)
    async with asyncio.timeout(30):
        assert await asyncio.wrap_future(said)
        await closing
    assert (await threaded(mail.enqueue, "grace")).id in published.ids()


async def test_each_loop_has_its_own_and_closes_it_at_its_end(
    backend: PubSubBackend, published: Published, look: Look
) -> None:
    before = await look.others("receiver enqueue")
    result = await threaded(lambda: asyncio.run(mail.aenqueue("ada")))
    assert published.ids() == [result.id]
    assert await look.others("receiver enqueue") == before


async def test_what_is_due_later_is_left_to_the_sweeper(
    backend: PubSubBackend, published: Published, look: Look
) -> None:
    moment = datetime.now(UTC) + timedelta(hours=1)
    at = await mail.using(run_after=moment).aenqueue("ada")
    later = await threaded(mail.using(run_after=timedelta(minutes=5)).enqueue, "ada")
    many = await receiver.aenqueue_many([mail.using(run_after=moment).entry("ada"), mail.entry("now")])
    assert published.ids() == [many[1].id]
    assert at.run_after == moment
    assert later.run_after is not None
    assert timedelta(0) <= later.run_after - later.enqueued_at - timedelta(minutes=5) < timedelta(seconds=1)
    assert await look.value("SELECT count(*) FROM task_executions WHERE published_at IS NULL") == 3
    past = await mail.using(run_after=timedelta(seconds=-1)).aenqueue("ada")
    assert published.ids() == [past.id]


async def test_many_calls_are_one_statement_and_keep_their_order(
    backend: PubSubBackend, published: Published, look: Look
) -> None:
    entries = [mail.entry(str(number)) if number % 2 else audit.entry(number) for number in range(2500)]
    results = await receiver.aenqueue_many(entries)
    assert [int(result.args[0]) for result in results] == list(range(2500))
    assert published.ids() == sorted(result.id for result in results)
    assert await look.value("SELECT count(DISTINCT enqueued_at) FROM task_executions") > 1
    assert await look.value("SELECT count(*) FROM task_executions WHERE published_at IS NULL") == 0
    assert await receiver.aenqueue_many([]) == []
    assert len(await threaded(receiver.enqueue_many, [mail.entry("a"), mail.entry("b")])) == 2


async def test_of_many_calls_one_that_cannot_be_stored_refuses_all(
    backend: PubSubBackend, look: Look
) -> None:
    with pytest.raises(TypeError, match="is a object"):
        await receiver.aenqueue_many([mail.entry("a"), mail.entry(object())])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give the connection to enqueue_many"):
        await receiver.aenqueue_many([mail.using(connection=object()).entry("a")])
    assert await look.value("SELECT count(*) FROM task_executions") == 0


async def test_a_topic_that_is_missing_costs_no_task(
    backend: PubSubBackend, published: Published, look: Look
) -> None:
    result = await nowhere.aenqueue()
    assert (await look.row(result.id))["published_at"] is None
    (line,) = published.troubles
    assert line.startswith("enqueued, not published: a task is left to the sweeper: there is no topic")
    assert "run `receiver provision`" in line
    await receiver.aenqueue_many([nowhere.entry(), nowhere.entry(), mail.entry("a")])
    assert "2 tasks are left" in published.troubles[-1]
    assert len(published.ids()) == 1


async def test_without_a_record_nothing_is_enqueued(published: Published) -> None:
    backend = published.backend("postgresql://nobody@127.0.0.1:9/nothing")
    with pytest.raises(DatabaseUnavailable):
        await backend.aenqueue(mail.entry("ada"))
    with pytest.raises(DatabaseUnavailable):
        await backend.aenqueue_many([mail.entry("ada"), mail.entry("ada")])
    assert published.ids() == []
    await backend.aclose()


async def test_a_lost_answer_of_the_insert_enqueues_once(
    proxy: Proxy, published: Published, look: Look
) -> None:
    backend = published.backend(proxy.url)
    fault = proxy.lose_reply_to(b"ada-whose-answer-is-lost")
    result = await backend.aenqueue(mail.entry("ada-whose-answer-is-lost"))
    assert fault.fired.is_set()
    assert await look.value("SELECT count(*) FROM task_executions") == 1
    assert published.ids() == [result.id]
    await backend.aclose()


async def test_a_lost_mark_costs_nothing(proxy: Proxy, published: Published, look: Look) -> None:
    backend = published.backend(proxy.url)
    fault = proxy.cut_before(b"SET published_at = clock_timestamp()")
    result = await backend.aenqueue(mail.entry("ada"))
    assert fault.fired.is_set()
    assert published.ids() == [result.id]
    assert (await look.row(result.id))["published_at"] is None
    assert published.troubles[-1].startswith("published tasks are not marked as such")
    await backend.aclose()


async def test_whoever_stops_waiting_leaves_a_sound_record(
    backend: PubSubBackend, published: Published, look: Look
) -> None:
    calls = [asyncio.create_task(mail.aenqueue(str(number))) for number in range(50)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    results = [each for each in ended if isinstance(each, TaskResult)]
    assert len(results) >= 25
    ids = published.ids()
    assert {result.id for result in results} <= set(ids)
    assert await look.value("SELECT count(*) FROM task_executions") == len(ids)


# --- results --------------------------------------------------------------------------------------------------


async def test_a_result_follows_the_execution(backend: PubSubBackend, instance: Instance) -> None:
    result = await mail.aenqueue("ada")
    assert not result.is_finished
    with pytest.raises(ValueError, match="has not finished yet"):
        _ = result.return_value

    claimed = await instance.claim(result.id, route(mail), bound=[])  # no argument: the call itself raises
    await result.arefresh()
    assert (result.status, result.attempts, result.worker_ids) == (
        TaskResultStatus.RUNNING,
        1,
        [instance.name],
    )
    begun = result.started_at
    assert begun == result.last_attempted_at is not None
    await instance.finish(claimed)
    await result.arefresh()
    assert (result.status, result.is_finished) == (TaskResultStatus.FAILED, False)
    with pytest.raises(ValueError, match="failed; `errors` says how"):
        _ = result.return_value
    (error,) = result.errors
    assert (error.exception_class_path, error.exception_class) == ("builtins.TypeError", TypeError)
    assert "missing 1 required positional argument" in error.traceback

    await instance.finish(await instance.claim(result.id, route(mail), bound=["ada"]))
    await asyncio.to_thread(result.refresh)
    assert (result.status, result.is_finished, result.attempts) == (TaskResultStatus.SUCCESSFUL, True, 2)
    assert (result.return_value, result.errors) == ("ada", [error])
    assert result.started_at == begun
    assert result.last_attempted_at is not None
    assert result.finished_at is not None
    assert begun is not None
    assert begun < result.last_attempted_at <= result.finished_at
    assert result.task is not None
    assert await mail.aget_result(result.id) == replace(result, task=mail)


async def test_a_result_names_the_kill_switch_that_was_off(
    backend: PubSubBackend, instance: Instance
) -> None:
    result = await mail.aenqueue("ada")
    assert result.skipped_by is None
    await instance.settle(await instance.claim(result.id, route(mail), bound=["ada"]), Skipped("ENABLE_MAIL"))
    found = await mail.aget_result(result.id)
    assert (found.status, found.skipped_by) == (TaskResultStatus.SUCCESSFUL, "ENABLE_MAIL")


async def test_a_failure_before_any_attempt_is_an_error_too(backend: PubSubBackend, look: Look) -> None:
    await look.seed(
        "gone", "FAILED", attempt=0, fence=0, started_at=None, error_type="AttemptsExhausted", final=True
    )
    result = await backend.aget_result("gone")
    assert [error.exception_class_path for error in result.errors] == ["AttemptsExhausted"]
    assert result.is_finished
    with pytest.raises(ValueError, match="no exception class that can be imported"):
        _ = result.errors[0].exception_class


@pytest.mark.parametrize("column", ["args", "kwargs", "return_value"])
async def test_values_larger_than_a_message_are_not_read(
    backend: PubSubBackend, look: Look, column: str
) -> None:
    """Another program may have written them; compressed they are small."""
    large = f'{{"a": "{"x" * MOST_ARGUMENTS}"}}'
    await look.seed("large", "SUCCESSFUL", **{column: large})
    with pytest.raises(TooLarge, match="read them with SQL"):
        await backend.aget_result("large")
    await look.seed("small", "SUCCESSFUL", return_value="[1]")
    assert (await backend.aget_result("small")).return_value == [1]


async def test_a_result_that_is_not_there_is_a_clear_error(backend: PubSubBackend) -> None:
    for missing in ("nothing", "a\0b", "\ud800", "x" * 300):
        with pytest.raises(TaskResultMissing, match="has no execution"):
            await mail.aget_result(missing)
    result = await mail.aenqueue("ada")
    with pytest.raises(TaskResultMissing, match=r"is one of tests\.postgres\.outbox\.mail, not of"):
        await audit.aget_result(result.id)
    assert (await mail.aget_result(result.id)).task is mail


async def test_a_renamed_task_finds_the_results_of_its_former_name(backend: PubSubBackend) -> None:
    former = await mail.aenqueue("ada")

    @task
    async def letter(user: str) -> None: ...

    labelled = letter.using(label="x")
    with pytest.raises(TaskResultMissing):
        await letter.aget_result(former.id)
    TaskRoute(letter, aliases=["mail", mail.path])
    assert (await letter.aget_result(former.id)).args == ["ada"]
    assert (await labelled.aget_result(former.id)).id == former.id


@pytest.mark.parametrize("missing", ["DATABASE_URL", "GCP_PROJECT_ID"])
def test_without_its_settings_there_is_no_backend(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"DATABASE_URL": "postgresql://u@h/d", "GCP_PROJECT_ID": "p-1"}
    assert PubSubBackend(Settings.from_environ(environ)).supports_defer
    with pytest.raises(SettingError, match=missing):
        PubSubBackend(Settings.from_environ({**environ, missing: ""}))


def test_the_first_call_makes_the_backend_from_the_environment(
    database_url: str, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "DATABASE_URL": database_url,
        "GCP_PROJECT_ID": "test",
        "PUBSUB_EMULATOR_HOST": published.host,
        "TASKS_NAMESPACE": "test",
    }.items():
        monkeypatch.setenv(name, value)
    receiver.configure(None)
    try:
        result = mail.enqueue("ada")
        assert published.ids() == [result.id]
        assert isinstance(result.backend, PubSubBackend)
        assert result.backend.settings.namespace == "test"
        result.backend.close()
    finally:
        receiver.configure(None)


def test_the_flags_say_what_the_backend_can() -> None:
    assert PubSubBackend.supports_defer
    assert PubSubBackend.supports_async_task
    assert PubSubBackend.supports_get_result
    assert not PubSubBackend.supports_priority
