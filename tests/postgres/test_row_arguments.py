"""The arguments of an execution are its row's: no message of the same id changes or replaces them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from receiver import TaskContext, TaskRoute, task
from receiver.contract.envelope import FOREIGN_PREFIX
from receiver.contract.metadata import METADATA_ATTRIBUTE, encode_metadata
from receiver.delivery.admission import VALUES_IN_FLIGHT, Admission, Place, Threads
from receiver.delivery.recorded import as_recorded
from receiver.emulator.push_client import message
from receiver.endings.calls import Claimed
from receiver.endings.outcomes import Failed, HandedBack
from receiver.errors import Saturated, TooLarge
from receiver.record.foreign_messages import ForeignMessages
from receiver.record.reading_turn import ReadingTurn
from receiver.record.sql import claims, foreign, stored_call
from receiver.tasks.foreign_topics import ForeignTopics
from receiver.tasks.registry import Registry
from receiver.telemetry.events import ReceiverTrouble
from receiver.testkit.faulty import QueuedMessage
from receiver.testkit.queue import TaskQueue, running
from tests.postgres.record import NAMESPACE, TOKEN, WHOSE, Instance, Look, call, delivery

MIB = 1024 * 1024

heard: list[Any] = []


@task
async def tell(whom: str, *, how: float = 1.0) -> str:
    heard.append((whom, how))
    if how < 0:
        raise ValueError("not this way")
    return whom


@task
async def visit(ctx: TaskContext) -> None:
    heard.append(dict(ctx.metadata))
    if len(heard) == 1:
        raise ValueError("not at the first attempt")


ROUTE = TaskRoute(tell, max_attempts=3)


@pytest.fixture
def queue(database_url: str) -> Iterator[TaskQueue]:
    heard.clear()
    with running(database_url, Registry([ROUTE, TaskRoute(visit)])) as made:
        yield made


def a_place() -> Place:
    """The place of a delivery, in an instance with nothing else in flight."""
    admission = Admission(Threads(1, wait=1.0), max_concurrency=1, max_inflight_bytes=MIB, max_body_bytes=MIB)
    return admission.place()


def arrive(queue: TaskQueue, task_id: str, *args: Any, **kwargs: Any) -> None:
    """A message of this id, whoever has published it."""
    subscription = queue._receiver.subscription_of("tell")
    body = message("tell", args, kwargs, task_id=task_id, subscription=subscription)
    queue.arrive(QueuedMessage(task_id, "tell", body))


def test_what_was_committed_runs_whatever_a_message_of_its_id_says(queue: TaskQueue) -> None:
    enqueued = tell.enqueue("alice")
    arrive(queue, enqueued.id, "mallory")
    genuine = queue.pending[0]
    queue._pending.pop(genuine.number)  # Mallory's comes first
    assert [each.status for each in queue.deliver_all()] == [200]
    queue.arrive(genuine)
    assert [each.status for each in queue.deliver_all()] == [200]
    assert heard == [("alice", 1.0)]
    (row,) = queue.executions
    assert (row.status, row.args, row.return_value) == ("SUCCESSFUL", ["alice"], "alice")


@pytest.mark.parametrize("told", [{"tenant": "mallory"}, {}], ids=["others", "none"])
@pytest.mark.parametrize("committed", [{"tenant": "alice"}, {}], ids=["some", "none committed"])
def test_its_metadata_is_the_rows_too(
    queue: TaskQueue, committed: dict[str, str], told: dict[str, str]
) -> None:
    """It is often the tenant, by which `TASKS_AROUND` chooses a database."""
    enqueued = (visit.using(metadata=committed) if committed else visit).enqueue()
    queue._pending.clear()  # the others' message comes first
    queue.arrive(about_visit(queue, enqueued.id, told))
    queue.deliver_all()
    queue.deliver_all()
    assert heard == [committed] * 2


def test_a_message_that_was_heard_of_first_keeps_its_metadata(queue: TaskQueue) -> None:
    queue.arrive(about_visit(queue, "a", {"tenant": "alice"}))
    queue.deliver_all()
    queue._pending.clear()
    queue.arrive(about_visit(queue, "a", {"tenant": "mallory"}))
    queue.deliver_all()
    assert heard == [{"tenant": "alice"}] * 2


def about_visit(queue: TaskQueue, task_id: str, metadata: dict[str, str]) -> QueuedMessage:
    """A message of this execution with such metadata, whoever has published it."""
    attributes = {METADATA_ATTRIBUTE: encode_metadata(metadata)} if metadata else {}
    body = message(
        "visit", task_id=task_id, attributes=attributes, subscription=queue._receiver.subscription_of("visit")
    )
    return QueuedMessage(task_id, "visit", body)


def test_a_retry_runs_what_its_first_attempt_ran(queue: TaskQueue) -> None:
    first = queue.push(tell, "alice", how=-1)
    arrive(queue, first.task_id, "mallory")
    queue.deliver_all()
    assert heard == [("alice", -1)] * len(heard)
    assert len(heard) >= 2


async def test_a_difference_is_one_line_of_the_log_without_the_values(instance: Instance, look: Look) -> None:
    await look.seed("a", args='["alice"]', kwargs='{"how": 2}', task_name="tell", task_path=ROUTE.path)
    claimed = await instance.claim("a", ROUTE, args='["mallory"]', bound=["mallory"])
    assert claimed.differs
    known = await as_recorded(claimed, instance.ledger, Registry([ROUTE]), a_place(), instance.events.append)
    assert isinstance(known, Claimed)
    assert (known.call.args, known.call.kwargs, known.key) == (["alice"], {"how": 2.0}, claimed.key)
    assert instance.events == [
        ReceiverTrouble(
            "a message says something else than its execution",
            "tell: the row's arguments and metadata run",
            "a",
        )
    ]
    assert (await look.row("a"))["args"] == '["alice"]'


@pytest.mark.parametrize("stored", ['["alice", 2, 3]', "[]"])
async def test_what_does_not_fit_the_function_any_more_ends_failed_and_final(
    instance: Instance, look: Look, stored: str
) -> None:
    await look.seed("a", args=stored, task_name="tell", task_path=ROUTE.path)
    claimed = await instance.claim("a", ROUTE, args='["mallory"]', bound=["mallory"])
    ended = await as_recorded(claimed, instance.ledger, Registry([ROUTE]), a_place(), instance.events.append)
    assert isinstance(ended, Failed)
    assert (await instance.settle(claimed, ended)) == ended
    row = await look.row("a")
    assert (row["status"], row["final"], row["error_type"]) == ("FAILED", True, "ArgumentsDoNotFit")
    assert row["args"] == stored
    assert "alice" not in row["error_message"]


@pytest.mark.parametrize("lacking", ["size", "values", "bytes", "turn"])
async def test_without_room_for_them_the_execution_is_handed_back_as_it_was(
    instance: Instance, look: Look, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """A message of a few bytes names them. The message that is theirs may run them."""
    stored = json.dumps(["alice", *["x"] * 40_000])
    await look.seed("a", args=stored, task_name="tell", task_path=ROUTE.path)
    claimed = await instance.claim("a", ROUTE, args='["mallory"]', bound=["mallory"])
    place = a_place()
    match lacking:
        case "size":
            monkeypatch.setattr(stored_call, "MOST_ARGUMENTS", 1000)
        case "values":
            place.take_decoded(VALUES_IN_FLIGHT - 1000, 0)
        case "bytes":
            place.take_more(MIB - 1000)
        case _:
            instance.ledger.reading = ReadingTurn(0.01)
            await instance.ledger.reading._lock.acquire()
    ended = await as_recorded(claimed, instance.ledger, Registry([ROUTE]), place, instance.events.append)
    assert isinstance(ended, HandedBack)
    await instance.settle(claimed, ended)
    row = await look.row("a")
    assert (row["status"], row["attempt"], json.loads(row["args"])) == ("READY", 0, json.loads(stored))


async def test_a_large_message_for_a_large_row_has_its_room(instance: Instance, look: Look) -> None:
    """Each fits into `TASKS_MAX_BODY_BYTES`; both together need not."""
    await look.seed("a", args=json.dumps(["x" * (MIB - 1000)]), task_name="tell", task_path=ROUTE.path)
    claimed = await instance.claim("a", ROUTE, args='["mallory"]', bound=["mallory"])
    admission = Admission(
        Threads(1, wait=1.0), max_concurrency=1, max_inflight_bytes=4 * MIB, max_body_bytes=MIB
    )
    with admission.place() as place:
        place.take_more(MIB - 1000)
        known = await as_recorded(claimed, instance.ledger, Registry([ROUTE]), place, instance.events.append)
        assert isinstance(known, Claimed)
        assert known.call.args == ["x" * (MIB - 1000)]
    assert admission.bytes_in_flight == 0


@pytest.mark.parametrize(
    "said",
    [
        '["alice",1.5,{"a":[],"b":1}]',
        '["alice", 1.50, {"a": [], "b": 1}]',
        '["alice", 1.5, {"b": 1, "a": []}]',
    ],
)
async def test_another_spelling_is_another_text(instance: Instance, look: Look, said: str) -> None:
    """Texts are compared: a cast to jsonb could fail, and with it the batch. The row's run, which are equal."""
    kept = '["alice", 1.5, {"a": [], "b": 1}]'
    await look.seed("a", args=kept)
    await look.seed("b", args=kept)
    assert (await instance.claim("a", args=said)).differs
    assert not (await instance.claim("b", args=kept)).differs
    assert not (await instance.claim("new", args=said)).differs, "nobody compares a new row"


async def test_a_claim_whose_answer_was_lost_knows_it_too(instance: Instance, look: Look) -> None:
    for name in ("equal", "other"):
        await look.seed(name, "RUNNING", args='["alice"]')
    items = [
        claims.ClaimItem.of(call("equal", args='["alice"]')),
        claims.ClaimItem.of(call("other", args='["mallory"]')),
    ]
    found = await claims.find_claimed(instance.ledger.pool, items, TOKEN)
    assert {name: row.differs for name, row in found.items()} == {"equal": False, "other": True}


async def test_data_of_another_topic_that_is_too_large_is_not_read_back(
    instance: Instance, look: Look
) -> None:
    """A message of a few bytes names it, and compressed it is small."""
    for name, size in (("small", 10), ("large", stored_call.MOST_ARGUMENTS)):
        args = json.dumps(["x" * size])
        await look.seed(name, args=args)
        await look.execute("UPDATE task_executions SET attributes = '{}' WHERE task_id = $1", name)
    assert await foreign.recall(instance.ledger.pool, "small", whose=WHOSE) is not None
    with pytest.raises(TooLarge):
        await foreign.recall(instance.ledger.pool, "large", whose=WHOSE)


async def test_data_of_another_topic_is_read_back_in_turn(instance: Instance, look: Look) -> None:
    """Else sixty messages that name rows which take seconds hold all connections of their neighbours."""
    task_id = f"{FOREIGN_PREFIX}1"
    await look.seed(task_id, args='["x"]')
    await look.execute("UPDATE task_executions SET attributes = '{}'")
    reading = ReadingTurn(0.01)
    messages = ForeignMessages(
        instance.ledger.pool, ForeignTopics([], "dev", NAMESPACE), reading, whose=WHOSE
    )
    assert (await messages.recalled(delivery(task_id))).recorded
    async with reading.taken():
        assert not (await messages.recalled(delivery("a"))).recorded, "of ours nothing is read"
        with pytest.raises(Saturated):
            await messages.recalled(delivery(task_id))
