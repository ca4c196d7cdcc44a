"""The sweeper on real processes: a receiver, a Pub/Sub that pushes with signed tokens, and the task `sweep` between them."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from receiver.contract.dead_letter_source import attributes_of
from receiver.contract.encode import encode_payload
from receiver.dev.local_routes import LocalProject, LocalRoute, provision
from receiver.dev.processes import EMAIL, PROJECT
from receiver.dev.scheduler import scheduled_message
from receiver.emulator import in_thread
from receiver.emulator.backlog import PubsubMessage
from receiver.emulator.broker import Broker
from receiver.emulator.in_thread import LocalPubSub
from receiver.emulator.push_client import message
from receiver.emulator.pushing import envelope
from receiver.emulator.signer import Signer
from receiver.maintenance import SWEEP
from receiver.settings import PUSH_PATH
from receiver.sweep.sweeper import Swept
from receiver.tasks.naming import dead_letter_topic_name, subscription_name, topic_name
from tests.stage.instance import Instance
from tests.stage.receivers import new_instance
from tests.stage.record import MODULE, NAMESPACE, Record
from tests.stage.waiting import eventually

ROWS = 10_000


@pytest.fixture
def pubsub(signer: Signer) -> Iterator[LocalPubSub]:
    with in_thread.running(signer) as running:
        yield running


@dataclass(frozen=True)
class Held:
    """A published message: its payload, and the body that pushes it."""

    data: bytes
    body: bytes


@dataclass
class Cast:
    """Receivers on one database behind one Pub/Sub."""

    pubsub: LocalPubSub
    signer: Signer
    record: Record
    folder: Any
    started: list[Instance]

    def start(self, *paths: str, modules: str = MODULE, env: Mapping[str, str] | None = None) -> Instance:
        """Starts one; the topics of these tasks, and of the sweeper, push to it from now on."""
        instance = new_instance(
            self.record.url,
            self.signer,
            self.pubsub.certs_url,
            self.folder,
            {"PUBSUB_EMULATOR_HOST": self.pubsub.host, **(env or {})},
            modules,
        )
        self.started.append(instance)
        instance.start()
        project = LocalProject(PROJECT, "dev", NAMESPACE, instance.url, EMAIL)
        routes = [local_route(path) for path in (*paths, SWEEP.path)]
        self.pubsub.call(lambda broker: provision(broker, routes, project))
        return instance

    def pushes(self, path: str) -> str:
        """The subscription of a task."""
        return f"projects/{PROJECT}/subscriptions/{subscription_name(topic_name('dev', NAMESPACE, path))}"

    def hold(self, path: str) -> str:
        """A topic for a task whose messages stay where they are; its subscription."""
        topic = f"projects/{PROJECT}/topics/{topic_name('dev', NAMESPACE, path)}"
        name = f"{topic}-sub".replace("/topics/", "/subscriptions/")

        def made(broker: Broker) -> None:
            broker.put_topic(topic, {"name": topic})
            broker.put_subscription(name, {"name": name, "topic": topic})

        self.pubsub.call(made)
        return name

    def published(self, subscription: str) -> list[Held]:
        """What is in it, each with the body of its push."""

        def look(broker: Broker) -> list[Held]:
            held = broker.subscriptions[subscription]
            return [Held(base64.b64decode(owed.message.data), envelope(held, owed)) for owed in held.backlog]

        return self.pubsub.call(look)

    async def sweep(self, times: int = 1) -> list[dict[str, Any]]:
        """So many firings of the schedule at once; what each returned, once all have."""
        topic = f"projects/{PROJECT}/topics/{topic_name('dev', NAMESPACE, SWEEP.path)}"
        ids = self.pubsub.call(
            lambda broker: [broker.publish(topic, [scheduled_message(SWEEP.name)])[0] for _ in range(times)]
        )

        async def ended() -> list[dict[str, Any]]:
            rows = [await self.record.row(f"scheduled-{SWEEP.name}-{message_id}") for message_id in ids]
            return [row for row in rows if row and row["final"]] if all(rows) else []

        rows = await eventually(lambda: _all(ended, times))
        assert [row["status"] for row in rows] == ["SUCCESSFUL"] * times, rows
        return [row["return_value"] for row in rows]


async def _all(ended: Any, times: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await ended()
    return rows if len(rows) == times else []


async def push_all(cast: Cast, instance: Instance, messages: list[Held]) -> None:
    """Pushes them all, forty at once, each until it is acked."""
    token = cast.signer.token(instance.url, EMAIL)
    waiting = list(messages)

    async def push_some() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", instance.port)
        while waiting:
            one = waiting.pop()
            head = f"POST {PUSH_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {len(one.body)}\r\n\r\n"
            writer.write(head.encode() + one.body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(answer.split("content-length: ", 1)[1].split("\r\n", 1)[0]))
            if not answer.startswith("http/1.1 200"):
                waiting.insert(0, one)
        writer.close()

    await asyncio.gather(*(push_some() for _ in range(40)))


def local_route(path: str) -> LocalRoute:
    topic = topic_name("dev", NAMESPACE, path)
    return LocalRoute(
        name=path.rpartition(".")[2],
        ack_deadline=120,
        min_retry_delay=0,
        max_retry_delay=1,
        topic_name=topic,
    )


@pytest.fixture
def cast(pubsub: LocalPubSub, signer: Signer, record: Record, folder: Any) -> Iterator[Cast]:
    made = Cast(pubsub, signer, record, folder, [])
    yield made
    for instance in made.started:
        instance.close()


@pytest.mark.slow
async def test_two_sweeps_at_once_of_ten_thousand_rows_have_each_run_once(cast: Cast, label: str) -> None:
    """What an enqueuer left behind when it died: committed, and never published. Its group says how far it has come.

    The messages are pushed by this test, a good part of them twice: so many are too much for the local Pub/Sub's own pushing.
    """
    instance = cast.start(env={"TASKS_STATUS": "on"})
    subscription = cast.hold(f"{MODULE}.succeed")
    await cast.record.fetch(
        "INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at,"
        " group_key, label) SELECT 'row-' || n, 'succeed', $1, $2, $3, '{}', 'READY', now() - interval '2 min', $4,"
        " 'part ' || n FROM generate_series(1, $5::int) n",
        f"{MODULE}.succeed",
        NAMESPACE,
        json.dumps([label]),
        label,
        ROWS,
    )
    swept = await cast.sweep(times=2)
    assert sum(one["published"] for one in swept) >= ROWS
    assert all(one["complete"] and one["failed"] == 0 for one in swept)

    published = cast.published(subscription)
    assert len(published) >= ROWS
    assert len({json.loads(one.data)["task_id"] for one in published}) == ROWS
    pushes = published + random.Random(7).sample(published, ROWS // 10)
    await push_all(cast, instance, pushes)
    found = instance.get(f"/tasks/status?group={label}").json()
    assert {name: found[name] for name in ("total", "successful", "failed")} == {
        "total": ROWS,
        "successful": ROWS,
        "failed": 0,
    }
    assert len(found["units"]) == 1000
    assert (cast.folder / label).stat().st_size == ROWS, "a task ran twice, or not at all"
    [odd] = await cast.record.fetch(
        "SELECT count(*) FROM task_executions WHERE task_name = 'succeed'"
        " AND (attempt <> 1 OR fence <> 1 OR published_at IS NULL OR publishing_until IS NOT NULL)"
    )
    assert odd["count"] == 0


async def test_a_message_that_comes_too_early_is_acked_owed_and_run_when_it_is_due(
    cast: Cast, label: str
) -> None:
    instance = cast.start(f"{MODULE}.succeed")
    await cast.record.insert(label, "succeed", args=json.dumps([label]), run_after_in=3600, published_at_in=0)
    early = instance.pusher().send(message("succeed", [label], task_id=label))
    assert early.status_code == 200
    row = await cast.record.row(label)
    assert row is not None
    assert (row["status"], row["published_at"]) == ("READY", None)
    [nothing] = await cast.sweep()
    assert nothing["published"] == 0
    await cast.record.fetch(
        "UPDATE task_executions SET run_after = clock_timestamp() WHERE task_id = $1", label
    )
    [swept] = await cast.sweep()
    assert swept["published"] == 1

    async def done() -> bool:
        found = await cast.record.row(label)
        return found is not None and found["status"] == "SUCCESSFUL"

    await eventually(done)
    assert (cast.folder / label).stat().st_size == 1


async def test_a_message_of_an_unknown_task_runs_when_a_later_revision_knows_it(
    cast: Cast, label: str, tmp_path: Any
) -> None:
    (tmp_path / "of_before.py").write_text(
        "from receiver import TaskRoute\ndef other(): ...\ntasks = [TaskRoute(other)]\n"
    )
    at_once = {"TASKS_MAX_REJECTIONS": "1", "TASKS_REJECTION_GRACE": "0"}
    before = cast.start(
        f"{MODULE}.succeed", modules="of_before", env={**at_once, "PYTHONPATH": str(tmp_path)}
    )
    body = message("succeed", [label], task_id=label)
    assert before.pusher().send(body).status_code == 200, "it came often enough"
    [nothing] = await cast.sweep()
    assert nothing["replayed"] == 0
    before.stop()
    cast.start(f"{MODULE}.succeed", env=at_once)
    [swept] = await cast.sweep()
    assert swept["replayed"] == 1

    async def done() -> bool:
        found = await cast.record.row(label)
        return found is not None and found["status"] == "SUCCESSFUL"

    await eventually(done)
    [again] = await cast.sweep()
    assert again["replayed"] == 0
    assert (cast.folder / label).stat().st_size == 1
    kept = await cast.record.rejected(body)
    assert kept is not None
    assert kept["replayed_at"] is not None


async def test_what_pubsub_has_given_up_is_owed_again_and_runs(cast: Cast, label: str) -> None:
    """Every delivery was answered 429: Pub/Sub pushes the dead letter, and the sweep publishes the task again."""
    cast.start(f"{MODULE}.succeed")
    await cast.record.insert(label, "succeed", args=json.dumps([label]), published_at_in=-60)
    letters = f"projects/{PROJECT}/topics/{dead_letter_topic_name('dev', NAMESPACE)}"
    data = encode_payload(label, "succeed", [label], {}, datetime.now(UTC))
    attributes = attributes_of(cast.pushes(f"{MODULE}.succeed"), datetime.now(UTC).isoformat(), 100)
    copy = PubsubMessage(base64.b64encode(data).decode(), attributes)
    cast.pubsub.call(lambda broker: broker.publish(letters, [copy]))

    async def row(column: str) -> Any:
        found = await cast.record.row(label)
        return found and found[column]

    await eventually(lambda: row("dead_letters"))
    assert (await row("status"), await row("published_at")) == ("READY", None)
    await cast.record.fetch("UPDATE task_executions SET run_after = now() WHERE task_id = $1", label)
    [swept] = await cast.sweep()
    assert swept["published"] == 1
    await eventually(lambda: row("final"))
    assert await row("status") == "SUCCESSFUL"
    assert (cast.folder / label).stat().st_size == 1


async def test_a_sweep_returns_what_it_did(cast: Cast) -> None:
    cast.start()
    [swept] = await cast.sweep()
    assert swept == msgspec.to_builtins(Swept())
    [row] = await cast.record.fetch("SELECT task_path, attempt FROM task_executions")
    assert row == {"task_path": SWEEP.path, "attempt": 1}
