"""The receiver against two implementations of push: Google's own emulator, and the local Pub/Sub, which signs tokens."""

from __future__ import annotations

import base64
import importlib.util
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from receiver import TaskResult, task
from receiver.dev.processes import EMAIL
from receiver.emulator.signer import Signer
from receiver.enqueue import PubSubBackend
from receiver.settings import Settings
from receiver.tasks.naming import topic_name
from receiver.telemetry.events import Event, ReceiverTrouble
from tests.acceptance.conftest import Start
from tests.stage import emulator
from tests.stage.emulator import Emulator
from tests.stage.receivers import PLUGIN
from tests.stage.record import Record
from tests.stage.waiting import eventually


@pytest.fixture(params=emulator.BOTH)
def pubsub(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, signer: Signer
) -> Iterator[Emulator]:
    """One of the two, with a project that nobody has used."""
    with ExitStack() as stack:
        host = stack.enter_context(
            emulator.offered(request.param, tmp_path_factory.mktemp("emulator"), signer)
        )
        client = stack.enter_context(httpx.Client(trust_env=False))
        yield Emulator(client, host, f"p-{uuid.uuid4().hex[:12]}", signs=request.param == "ours")


async def test_a_published_task_becomes_an_execution_and_poison_a_dead_letter(
    pubsub: Emulator, start: Start, database_url: str, record: Record, label: str
) -> None:
    """Topic, push subscription with a dead-letter policy, publish over REST. The official emulator sends no token."""
    instance = start(database_url, {"TASKS_MAX_REJECTIONS": "100"}, signed=pubsub.signs)
    dead = pubsub.topic("dead-letters")
    topic = pubsub.topic("tasks")
    pubsub.call("PUT", "subscriptions/dead-letters-sub", {"topic": dead})
    pubsub.call(
        "PUT",
        "subscriptions/tasks-sub",
        {
            "topic": topic,
            "ackDeadlineSeconds": 10,
            "pushConfig": {
                "pushEndpoint": f"{instance.url}/tasks/pubsub/",
                "oidcToken": {"serviceAccountEmail": EMAIL, "audience": instance.url},
            },
            "deadLetterPolicy": {"deadLetterTopic": dead, "maxDeliveryAttempts": 5},
            "retryPolicy": {"minimumBackoff": "0.1s", "maximumBackoff": "0.2s"},
        },
    )

    poison = b'{"task_name": 7}'
    pubsub.publish("tasks", poison)
    pubsub.enqueue("tasks", label, "succeed", label, "through the emulator")

    async def finished() -> dict[str, object] | None:
        row = await record.row(label)
        return row if row and row["final"] else None

    row = await eventually(finished, patience=60)
    assert (row["status"], row["attempt"], row["return_value"]) == ("SUCCESSFUL", 1, "through the emulator")

    async def buried() -> list[dict[str, str]]:
        return pubsub.pull("dead-letters-sub")

    letters = await eventually(buried, patience=60)
    assert [base64.b64decode(letter["data"]) for letter in letters] == [poison]

    (kept,) = await record.fetch("SELECT * FROM rejected_messages")
    assert (kept["reason"], kept["count"]) == ("malformed_payload", 5)


async def test_what_is_enqueued_through_the_api_becomes_an_execution(
    pubsub: Emulator, start: Start, database_url: str, record: Record, label: str
) -> None:
    """Alone, in many, in a transaction that commits and in one that does not; a topic that is missing costs no task."""
    instance = start(database_url, signed=pubsub.signs)
    name = topic_name("dev", "gyrinx", "acceptance_tasks.succeed")
    body = {
        "topic": pubsub.topic(name),
        "ackDeadlineSeconds": 10,
        "pushConfig": {
            "pushEndpoint": f"{instance.url}/tasks/pubsub/",
            "oidcToken": {"serviceAccountEmail": EMAIL, "audience": instance.url},
        },
    }
    pubsub.call("PUT", f"subscriptions/{name}-sub", body)
    environ = {
        "DATABASE_URL": database_url,
        "GCP_PROJECT_ID": pubsub.project,
        "PUBSUB_EMULATOR_HOST": pubsub.host,
    }
    troubles: list[Event] = []
    backend = PubSubBackend(Settings.from_environ(environ), emit=troubles.append)
    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+asyncpg://"))
    succeed = task(acceptance_task("succeed"))

    alone = await backend.aenqueue(succeed.entry(label, "alone"))
    many = await backend.aenqueue_many([succeed.entry(label, number) for number in range(20)])
    async with engine.begin() as connection:
        joined = await backend.aenqueue_many([succeed.entry(label, "joined")], connection=connection)
    async with engine.connect() as connection:
        await backend.aenqueue_many([succeed.entry(label, "undone")], connection=connection)
    await engine.dispose()
    assert troubles == []

    for result in (alone, *many, *joined):

        async def finished(result: TaskResult = result) -> bool:
            await result.arefresh()
            return result.is_finished

        await eventually(finished, patience=60)
        assert result.return_value == result.args[1]
    (counted,) = await record.fetch("SELECT count(*), count(published_at) AS published FROM task_executions")
    assert (counted["count"], counted["published"]) == (22, 22)

    unknown = await backend.aenqueue(task(acceptance_task("know")).entry(label))
    assert (await backend.aget_result(unknown.id)).status == "READY"
    (trouble,) = troubles
    assert isinstance(trouble, ReceiverTrouble)
    assert "run `receiver provision`" in trouble.why
    await backend.aclose()


def acceptance_task(name: str) -> Callable[..., Any]:
    """The function of a task of the receiver's plugin, as its own process would import it."""
    spec = importlib.util.spec_from_file_location("acceptance_tasks", PLUGIN / "acceptance_tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., Any] = getattr(module, name).func
    return function
