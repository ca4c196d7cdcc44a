"""The receiver against two implementations of push: Google's own emulator, and the local Pub/Sub, which signs tokens."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from receiver.local import beside
from receiver.local.instance import EMAIL
from receiver.local.signer import Signer
from tests.acceptance import emulator
from tests.acceptance.conftest import Start
from tests.acceptance.emulator import Emulator, NoEmulatorError
from tests.acceptance.stage import Record, eventually


@pytest.fixture(params=["local", pytest.param("official", marks=pytest.mark.emulator)])
def pubsub(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, signer: Signer
) -> Iterator[Emulator]:
    """One of the two, with a project that nobody has used."""
    with ExitStack() as stack:
        if request.param == "local":
            host = stack.enter_context(beside.running(signer)).host
        else:
            try:
                host = stack.enter_context(emulator.running(tmp_path_factory.mktemp("emulator")))
            except NoEmulatorError as reason:
                pytest.skip(str(reason))
        client = stack.enter_context(httpx.Client(trust_env=False))
        yield Emulator(client, host, f"p-{uuid.uuid4().hex[:12]}", signs=request.param == "local")


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
