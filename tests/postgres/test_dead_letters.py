"""A dead letter on a real record: which execution it is, what becomes of it, and what others do at the same moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver import maintenance
from receiver.contract.dead_letter_source import DeadLetterSource
from receiver.contract.encode import encode_envelope, encode_payload, scheduled_payload
from receiver.contract.message import arguments_of, open_push
from receiver.delivery.dead_letter import DeadLetters
from receiver.endings.calls import Call, Claimed
from receiver.endings.outcomes import Busy, DeadLettered, Done, HandedBack, Succeeded
from receiver.errors import DatabaseUnavailable
from receiver.reading import queries
from receiver.reading.dead_letters import given_up
from receiver.reading.groups import find_group
from receiver.record.connections import RecordPool
from receiver.record.database import Database
from receiver.record.sql import outbox, rejected, replaying, sweeping
from receiver.record.whose import Whose
from receiver.settings import Settings
from receiver.tasks import naming
from receiver.tasks.foreign_topics import ForeignTopics
from receiver.tasks.registry import Registry
from receiver.tasks.route import TaskRoute
from tests.postgres.record import NAMESPACE, Instance, Look, failure, keeper, other_task, route
from tests.postgres.sweeps import Sweeps, take_due
from tests.stage.messages import decode
from tests.stage.proxy import Proxy

PUSHES = f"projects/p/subscriptions/dev--{NAMESPACE}.tasks--{route().path}-sub"
DEAD_LETTERS = f"projects/p/subscriptions/dev--{NAMESPACE}.dead-letters-sub"
SETTINGS = Settings(namespace=NAMESPACE)
WHOSE = Whose.of(SETTINGS)
PUBLISHED = datetime(2026, 5, 7, 12, 0, 0, 494000, UTC)
NO_ARGUMENTS = b'{"task_name": "noop", "args": [], "kwargs": {}}'


def payload(task_id: str, name: str = "noop") -> bytes:
    """The payload of an enqueued task."""
    return encode_payload(task_id, name, [], {}, PUBLISHED)


def pushed(data: bytes, message_id: str = "1", published: datetime = PUBLISHED) -> bytes:
    """A push of the task's own subscription."""
    return encode_envelope(data, message_id, published, PUSHES, {})


def copy(data: bytes, published: datetime = PUBLISHED, source: str = PUSHES) -> bytes:
    """The push of its dead letter: a new id and a new time, and where it comes from."""
    attributes = {
        "CloudPubSubDeadLetterSourceDeliveryCount": "100",
        "CloudPubSubDeadLetterSourceSubscription": source.rpartition("/")[2],
        "CloudPubSubDeadLetterSourceSubscriptionProject": "p",
        "CloudPubSubDeadLetterSourceTopicPublishTime": published.isoformat(timespec="milliseconds"),
    }
    return encode_envelope(data, "copy", datetime.now(UTC), DEAD_LETTERS, attributes)


@pytest.fixture
async def pool(database_url: str) -> Any:
    made = RecordPool(Database.of(database_url), size=3, application="dead letters", wait=5)
    yield made
    await made.close()


def room(pool: RecordPool, *routes: TaskRoute, settings: Settings = SETTINGS) -> DeadLetters:
    """The dead letters of a receiver with these routes."""
    registry = Registry(routes or (route(),)).including(maintenance.ROUTES)
    topics = ForeignTopics(registry.routes, settings.environment, settings.namespace)
    return DeadLetters(pool, keeper(pool, WHOSE), registry, topics, settings)


async def taken(letters: DeadLetters, body: bytes) -> Any:
    """What becomes of a dead letter."""
    pushed = open_push(body)
    return await letters.receive(body, pushed, letters.read(pushed))


async def give_up(letters: DeadLetters, task_id: str, name: str = "noop") -> Any:
    """The dead letter of an enqueued task."""
    body = copy(payload(task_id, name))
    return await taken(letters, body)


async def pause_of(look: Look, task_id: str) -> float:
    """Seconds from the dead letter until the row may be published."""
    found: float = await look.value(
        "SELECT extract(epoch FROM run_after - dead_lettered_at)::float FROM task_executions WHERE task_id = $1",
        task_id,
    )
    return round(found, 1)


async def kept(look: Look) -> list[dict[str, Any]]:
    rows = await look.connection.fetch("SELECT reason, task_name, replayed_at FROM rejected_messages")
    return [dict(row) for row in rows]


async def test_a_ready_one_is_owed_again_and_waits_longer_each_time(pool: RecordPool, look: Look) -> None:
    await look.seed("id", published_at=PUBLISHED)
    pauses = []
    for _ in range(7):
        assert await give_up(room(pool), "id") == DeadLettered("id: owed again")
        row = await look.row("id")
        assert (row["status"], row["published_at"], row["attempt"]) == ("READY", None, 0)
        pauses.append(await pause_of(look, "id"))
    assert pauses == [60, 240, 960, 3840, 15360, 21600, 21600]
    assert row["dead_letters"] == 7
    assert await kept(look) == []


async def test_the_sweep_publishes_it_after_its_pause_and_not_before(
    pool: RecordPool, look: Look, sweeps: Sweeps
) -> None:
    await look.seed("id", published_at=PUBLISHED, enqueued_at=PUBLISHED)
    await give_up(room(pool), "id")
    assert (await sweeps.sweep()).published == 0
    await look.execute("UPDATE task_executions SET run_after = run_after - interval '61 s'")
    assert (await sweeps.sweep()).published == 1
    assert sweeps.post.ids() == ["id"]
    assert (await look.row("id"))["published_at"] is not None


async def test_a_deferred_one_is_not_made_due_sooner(pool: RecordPool, look: Look) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    await look.seed("id", published_at=PUBLISHED, run_after=later)
    await give_up(room(pool), "id")
    assert (await look.row("id"))["run_after"] == later


@pytest.mark.parametrize(
    ("declared", "final"), [(route(), True), (route(max_attempts=1), True), (route(max_attempts=2), False)]
)
async def test_a_failed_one_is_final_or_owed_by_its_attempts(
    pool: RecordPool, look: Look, instance: Instance, *, declared: TaskRoute, final: bool
) -> None:
    await look.seed("id", published_at=PUBLISHED)
    await instance.settle(await instance.claim("id", route()), failure("out of paper"))
    await give_up(room(pool, declared), "id")
    row = await look.row("id")
    assert (row["status"], row["final"]) == (("FAILED", True) if final else ("READY", False))
    assert row["error_message"] == ("out of paper" if final else None)
    assert (row["attempt"], row["dead_letters"]) == (1, 1)
    assert (row["published_at"] is None) is not final
    assert [line["error_message"] for line in await look.attempts("id")] == ["out of paper"]
    if not final:  # its next delivery, once it is published
        await look.execute("UPDATE task_executions SET run_after = NULL")
        assert (await instance.claim("id", declared)).attempt == 2


@pytest.mark.parametrize(
    ("max_attempts", "later", "final"),
    [
        (None, timedelta(minutes=3), False),
        (None, timedelta(minutes=1), True),
        (1, timedelta(minutes=3), True),
    ],
)
async def test_the_dead_letter_of_an_older_message_does_not_end_what_a_replay_has_begun(
    pool: RecordPool,
    look: Look,
    instance: Instance,
    max_attempts: int | None,
    later: timedelta,
    *,
    final: bool,
) -> None:
    """A replay published it again, and its run failed once: that message may still be Pub/Sub's."""
    declared = route(max_attempts=max_attempts)
    await look.seed("id", "FAILED", final=True, published_at=PUBLISHED)
    assert await replaying.replay(pool, ["id"], whose=WHOSE) == {"id"}
    claimed = await instance.claim("id", declared)
    await look.execute("UPDATE task_executions SET published_at = $1", PUBLISHED + later)
    await instance.settle(claimed, failure())
    await give_up(room(pool, declared), "id")
    row = await look.row("id")
    assert (row["status"], row["final"]) == (("FAILED", True) if final else ("READY", False))
    assert (row["published_at"] is None) is not final


async def test_the_end_of_its_group_is_reached(pool: RecordPool, look: Look) -> None:
    """A bar at 5 of 5 would run for ever."""
    await look.seed("well", "SUCCESSFUL", group_key="g")
    await look.seed("failed", "FAILED", group_key="g")
    assert not (await find_group(pool, "g", whose=WHOSE)).complete
    await give_up(room(pool), "failed")
    assert (await find_group(pool, "g", whose=WHOSE)).complete


async def test_a_failed_one_of_a_task_that_is_not_known_here_is_left(pool: RecordPool, look: Look) -> None:
    """An older revision may get the dead letter of a new task: its message is kept as rejected, and replayed."""
    await look.seed("id", "FAILED")
    ending = await give_up(room(pool, route(other_task)), "id")
    assert ending == DeadLettered("id: left alone, its task is not known here")
    row = await look.row("id")
    assert (row["status"], row["final"], row["dead_letters"]) == ("FAILED", False, 1)


@pytest.mark.parametrize("status", ["SUCCESSFUL", "FAILED"])
async def test_a_final_one_does_not_change(pool: RecordPool, look: Look, status: str) -> None:
    await look.seed("id", status, final=True)
    before = await look.row("id")
    assert await give_up(room(pool), "id") == Done()
    assert await look.row("id") == before


async def test_a_running_one_goes_on_and_ends_well(
    pool: RecordPool, look: Look, instance: Instance, sweeps: Sweeps
) -> None:
    claimed = await instance.claim("id")
    assert await give_up(room(pool), "id") == DeadLettered("id: it runs, and is owed unless it ends well")
    await instance.settle(claimed, Succeeded("1"))
    assert await look.state("id") == ("SUCCESSFUL", True, 1, 1)
    assert (await sweeps.sweep()).published == 0


@pytest.mark.parametrize("end", ["failed", "lease over", "handed back"])
async def test_a_running_one_is_published_by_the_sweep_when_its_run_has_come_to_nothing(
    pool: RecordPool, look: Look, instance: Instance, sweeps: Sweeps, end: str
) -> None:
    """Pub/Sub has no message that would bring it again."""
    claimed = await instance.claim("id")
    await look.execute("UPDATE task_executions SET enqueued_at = enqueued_at - interval '2 min'")
    await give_up(room(pool), "id")
    assert (await sweeps.sweep()).published == 0
    if end == "failed":
        await instance.settle(claimed, failure())
    elif end == "lease over":
        await look.expire("id")
    else:
        await instance.ledger.settle(claimed, HandedBack())
    assert (await sweeps.sweep()).published == 0, "it has its pause, as any other"
    assert await pause_of(look, "id") == 60
    await look.execute("UPDATE task_executions SET run_after = run_after - interval '61 s'")
    assert (await sweeps.sweep()).published == 1
    assert sweeps.post.ids() == ["id"]
    assert (await sweeps.sweep()).published == 0


@pytest.mark.parametrize("end", ["failed", "handed back"])
async def test_an_older_message_that_was_slow_does_not_keep_the_sweep_from_publishing(
    pool: RecordPool, look: Look, instance: Instance, sweeps: Sweeps, end: str
) -> None:
    """Pub/Sub has given up the one that claims it, and a nack brings nothing back. The model found this."""
    await look.seed("id", published_at=PUBLISHED, enqueued_at=PUBLISHED)
    await give_up(room(pool), "id")
    await look.execute("UPDATE task_executions SET run_after = run_after - interval '61 s'")
    claimed = await instance.claim("id")
    await instance.settle(claimed, failure() if end == "failed" else HandedBack())
    assert (await sweeps.sweep()).published == 1
    assert (await sweeps.sweep()).published == 0


async def test_nor_does_it_after_a_replay_of_what_had_never_run(
    pool: RecordPool, look: Look, instance: Instance, sweeps: Sweeps
) -> None:
    await look.seed("id", published_at=PUBLISHED, enqueued_at=PUBLISHED)
    await give_up(room(pool), "id")
    await replaying.replay(pool, ["id"], whose=WHOSE)
    await instance.settle(await instance.claim("id"), failure())
    assert (await sweeps.sweep()).published == 1


async def test_a_sweep_that_has_taken_it_publishes_and_marks_it_although_an_older_message_claims_it(
    pool: RecordPool, look: Look, instance: Instance
) -> None:
    await look.seed("id", "FAILED", published_at=PUBLISHED, enqueued_at=PUBLISHED, fence=1, attempt=1)
    await replaying.replay(pool, ["id"], whose=WHOSE)
    taken = await take_due(pool)
    await instance.claim("id")
    loaded = await sweeping.load(pool, taken, most=1000, largest=1000)
    assert [row.task_id for row in loaded.rows] == ["id"]
    assert await outbox.mark_published(pool, taken) == {"id"}
    row = await look.row("id")
    assert (row["status"], row["publishing_until"]) == ("RUNNING", None)
    assert row["published_at"] > PUBLISHED


async def test_without_an_execution_the_message_is_kept(pool: RecordPool, look: Look) -> None:
    assert await give_up(room(pool), "id") == DeadLettered("kept: no execution of it is known")
    assert await kept(look) == [{"reason": "dead_letter", "task_name": "noop", "replayed_at": None}]


async def test_what_is_no_message_of_ours_is_kept(pool: RecordPool, look: Look) -> None:
    assert await taken(room(pool), copy(b"not a task")) == DeadLettered("kept: no execution of it is known")
    assert await kept(look) == [{"reason": "dead_letter", "task_name": None, "replayed_at": None}]


async def test_a_body_of_another_subscription_is_no_dead_letter(pool: RecordPool) -> None:
    """Whatever its attributes say: anybody who publishes can write them."""
    forged = encode_envelope(
        b"not a task", "1", PUBLISHED, PUSHES, {"CloudPubSubDeadLetterSourceSubscription": "x"}
    )
    assert not open_push(forged).subscription.endswith(room(pool).subscription)


async def test_a_sweep_that_never_ran_is_not_kept(pool: RecordPool, look: Look) -> None:
    """After a day's outage they would be 1 440."""
    body = copy(scheduled_payload(maintenance.SWEEP.name))
    ending = await taken(room(pool), body)
    assert ending == DeadLettered("a sweep that never ran; the next one does its work")
    assert await kept(look) == []


async def test_another_tasks_execution_is_not_touched(pool: RecordPool, look: Look) -> None:
    await look.seed("id", task_name="other_task", task_path=route(other_task).path)
    before = await look.row("id")
    await give_up(room(pool), "id")
    assert await look.row("id") == before
    assert [one["reason"] for one in await kept(look)] == ["dead_letter"]


async def test_another_environments_execution_is_not_touched(pool: RecordPool, look: Look) -> None:
    await look.seed("id", environment="prod")
    before = await look.row("id")
    await give_up(room(pool), "id")
    assert await look.row("id") == before


async def test_an_operator_ends_the_pause(pool: RecordPool, look: Look, sweeps: Sweeps) -> None:
    await look.seed("ready", published_at=PUBLISHED)
    await look.seed("failed", "FAILED", published_at=PUBLISHED)
    for task_id in ("ready", "failed"):
        await give_up(room(pool), task_id)
    moved = await replaying.replay(pool, ["ready", "failed"], whose=WHOSE)
    assert moved == {"ready", "failed"}
    row = await look.row("ready")
    assert (row["run_after"], row["dead_letters"], row["dead_lettered_at"]) == (None, 0, None)
    async with sweeps.sweeper() as sweeper:
        assert (await sweeper.owed.publish_these(["ready", "failed"])).published == 2


@pytest.mark.parametrize("known", [True, False])
async def test_a_kept_one_is_published_to_the_topic_that_it_comes_from(
    pool: RecordPool, look: Look, sweeps: Sweeps, *, known: bool
) -> None:
    """Not to that of its subscription: it would come back at once."""
    data = payload("id", "noop" if known else "gone")
    body = copy(data)
    await taken(room(pool), body)
    async with sweeps.sweeper() as sweeper:
        found = await rejected.find_rejected(pool, ["copy"], whose=WHOSE)
        replayed = await sweeper.replays.replay(found)
    assert (len(replayed.keys), replayed.failures) == (1, {})
    [message] = sweeps.post.messages()
    assert (message["task_id"], message["topic"]) == ("id", sweeps.post.topic(route().path))
    assert not [name for name in message["attributes"] if name.startswith("CloudPubSub")]
    assert [one["replayed_at"] is not None for one in await kept(look)] == [True]


async def test_a_kept_foreign_one_becomes_an_execution_of_its_task(
    pool: RecordPool, look: Look, sweeps: Sweeps
) -> None:
    """It is published to the task's own topic, and never to the foreign one."""
    uploads = route(take_upload, topic="projects/p/topics/uploads")
    sweeps.post.open(uploads)
    sweeps.routes = (route(), uploads)
    source = naming.foreign_subscription_name("dev", NAMESPACE, uploads.path)
    await taken(room(pool, *sweeps.routes), copy(b'{"name": "a.png"}', source=source))
    async with sweeps.sweeper() as sweeper:
        found = await rejected.find_rejected(pool, ["copy"], whose=WHOSE)
        assert (await sweeper.replays.replay(found)).failures == {}
    [message] = sweeps.post.messages()
    assert message["topic"] == sweeps.post.topic(uploads.path)
    row = await look.row(message["task_id"])
    assert (row["args"], row["enqueued_at"]) == ('[{"name": "a.png"}]', PUBLISHED)


async def test_the_listing_has_what_was_given_up_until_it_succeeds_or_is_replayed(
    pool: RecordPool, look: Look, database_url: str
) -> None:
    for task_id, status in (
        ("owed", "READY"),
        ("failed", "FAILED"),
        ("well", "RUNNING"),
        ("untouched", "FAILED"),
    ):
        await look.seed(task_id, status, published_at=PUBLISHED)
    for task_id in ("owed", "failed", "well", "nobody"):
        await give_up(room(pool), task_id)
    await look.execute(
        "UPDATE task_executions SET status = 'SUCCESSFUL', final = true, finished_at = now(), lease_owner = NULL,"
        " lease_expires_at = NULL, claim_token = NULL WHERE task_id = 'well'"
    )
    async with queries.reading(Database.of(database_url)) as connection:
        found = await given_up(connection, WHOSE)
        assert await given_up(connection, WHOSE, task="other_task") == []
    assert [(one.id, one.status, one.final, one.count) for one in found] == [
        ("copy", None, False, 1),
        ("failed", "FAILED", True, 1),
        ("owed", "READY", False, 1),
    ]


# --- which execution it is ------------------------------------------------------------------------------------------


async def started(instance: Instance, body: bytes) -> Claimed:
    """The claim of a pushed message."""
    delivery = decode(body)
    args, kwargs = arguments_of(delivery)
    claimed = await instance.ledger.claim(Call(delivery, route(), 0.0, args, kwargs))
    assert isinstance(claimed, Claimed)
    return claimed


async def failed(instance: Instance, *bodies: bytes) -> list[str]:
    """These messages were delivered, and their task failed; the ids of the executions."""
    ids = []
    for body in bodies:
        claimed = await started(instance, body)
        await instance.settle(claimed, failure())
        ids.append(claimed.task_id)
    return ids


async def finals(look: Look) -> list[str]:
    rows = await look.connection.fetch("SELECT task_id FROM task_executions WHERE final ORDER BY task_id")
    return [row["task_id"] for row in rows]


@pytest.mark.parametrize("data", [scheduled_payload("noop"), NO_ARGUMENTS], ids=["a firing", "without an id"])
async def test_an_id_made_of_the_messages_is_found_by_the_time_of_the_source(
    pool: RecordPool, look: Look, instance: Instance, data: bytes
) -> None:
    later = PUBLISHED + timedelta(milliseconds=2)
    first, _ = await failed(instance, pushed(data, "1"), pushed(data, "2", later))
    body = copy(data)
    assert await taken(room(pool), body) == DeadLettered(f"{first}: FAILED, final")
    assert await finals(look) == [first]
    assert await kept(look) == []


async def test_one_without_an_id_but_with_a_time_is_found_by_that(
    pool: RecordPool, look: Look, instance: Instance
) -> None:
    data = b'{"task_name": "noop", "enqueued_at": "2026-05-07T11:00:00.123456Z"}'
    [task_id] = await failed(instance, pushed(data))
    body = copy(data, published=PUBLISHED + timedelta(hours=1))
    await taken(room(pool), body)
    assert await finals(look) == [task_id]


async def test_messages_of_one_millisecond_are_told_apart_by_their_arguments(
    pool: RecordPool, look: Look, instance: Instance
) -> None:
    one, two = (b'{"task_name": "noop", "args": [%d]}' % number for number in (1, 2))
    first, _ = await failed(instance, pushed(one, "1"), pushed(two, "2"))
    body = copy(one)
    await taken(room(pool), body)
    assert await finals(look) == [first]


async def test_an_enqueued_one_of_that_time_is_no_firing(
    pool: RecordPool, look: Look, instance: Instance
) -> None:
    await failed(instance, pushed(payload("id")))
    body = copy(scheduled_payload("noop"))
    await taken(room(pool), body)
    assert await finals(look) == []
    assert [one["reason"] for one in await kept(look)] == ["dead_letter"]


async def take_upload(data: dict[str, str]) -> None:
    """A task of another topic."""
    del data


@pytest.mark.parametrize("data", [b'{"name": "a.png"}', b'{"task_name": "noop"}'])
async def test_a_foreign_message_is_found_by_the_time_of_the_source(
    pool: RecordPool, look: Look, data: bytes
) -> None:
    """Whatever it holds."""
    uploads = route(take_upload, topic="projects/p/topics/uploads")
    source = naming.foreign_subscription_name("dev", NAMESPACE, uploads.path)
    ran = {
        "enqueued_at": PUBLISHED,
        "args": '[{"a": 1}]',
        "task_path": uploads.path,
        "task_name": uploads.name,
    }
    await look.seed("message-1", "FAILED", **ran)
    await look.seed("message-2", "FAILED", **ran | {"enqueued_at": PUBLISHED + timedelta(seconds=1)})
    await look.seed("id", "FAILED", **ran)
    letters, body = room(pool, route(), uploads), copy(data, source=source)
    assert await taken(letters, body) == DeadLettered("message-1: FAILED, final")
    assert await finals(look) == ["message-1"]


@pytest.mark.parametrize("text", ["", "yesterday", "0001-01-01T00:00:00+23:59"])
def test_a_time_that_cannot_be_read_is_none(text: str) -> None:
    source = DeadLetterSource.of({"CloudPubSubDeadLetterSourceTopicPublishTime": text, "a": "b"})
    assert source == DeadLetterSource("", "", None, {"a": "b"})


# --- at the same moment ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["SUCCESSFUL", "RUNNING"])
async def test_it_does_not_wait_for_whoever_has_the_row_and_comes_again(
    pool: RecordPool, look: Look, other: Any, end: str
) -> None:
    """A settlement, a claim, or an application: waiting would hold a connection that other deliveries need."""
    await look.seed("id", "FAILED")
    await other.execute("BEGIN")
    await other.execute(
        "UPDATE task_executions SET status = 'SUCCESSFUL', final = true, error_type = NULL, error_message = NULL"
        if end == "SUCCESSFUL"
        else "UPDATE task_executions SET status = 'RUNNING', finished_at = NULL, error_type = NULL, error_message = NULL,"
        " fence = 2, attempt = 2, lease_owner = 'x', lease_expires_at = clock_timestamp() + interval '1 min',"
        " claim_token = gen_random_uuid()"
    )
    before = await look.row("id")
    assert await give_up(room(pool), "id") == Busy()
    assert await kept(look) == []
    assert await look.row("id") == before
    await other.execute("COMMIT")
    ending = await give_up(room(pool), "id")
    row = await look.row("id")
    assert (row["status"], row["final"]) == (end, end == "SUCCESSFUL")
    if end == "SUCCESSFUL":
        assert ending == Done()
    else:
        assert ending == DeadLettered("id: it runs, and is owed unless it ends well")
        assert row["published_at"] is None


async def test_a_late_mark_of_a_sweeper_does_not_hide_that_it_is_owed(
    pool: RecordPool, look: Look, sweeps: Sweeps
) -> None:
    """The sweeper took the row, then its older message became a dead letter, then the sweeper marks."""
    await look.seed("id", run_after=PUBLISHED)
    taken = await sweeping.take_owed(pool, ["id"], whose=WHOSE, lease=timedelta(minutes=2))
    await give_up(room(pool), "id")
    assert await outbox.mark_published(pool, taken) == set()
    assert (await look.row("id"))["published_at"] is None


async def test_without_a_database_nothing_is_acked(database_url: str, proxy: Proxy, look: Look) -> None:
    await look.seed("id")
    pool = RecordPool(Database.of(proxy.url), size=1, application="dead letters", wait=5)
    try:
        proxy.refuse()
        with pytest.raises(DatabaseUnavailable):
            await give_up(room(pool), "id")
    finally:
        await pool.close()
