"""Messages of another topic at a real receiver, wrapped and unwrapped, with the token of another service of the plan."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest

from receiver.contract.encode import encode_envelope
from receiver.contract.foreign_data import foreign_id
from receiver.contract.message import open_push
from receiver.emulator.push_client import Pusher
from tests.acceptance.conftest import Start
from tests.stage.record import Record

HEAVY = "https://heavy.example"
SUBSCRIPTION = "projects/p/subscriptions/dev--gyrinx.foreign--foreign_tasks.take-sub"
NOW = datetime.now(UTC)


@pytest.mark.parametrize("size", [100_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
async def test_a_foreign_message_is_run_wrapped_or_not(
    start: Start, database_url: str, record: Record, size: int
) -> None:
    instance = start(database_url, {"TASKS_SERVICE_URLS": f"heavy={HEAVY}"}, modules="foreign_tasks")
    own = instance.pusher()
    heavy = Pusher(own.client, own.url, HEAVY, own.email, own.signer)
    elsewhere = replace(heavy, audience="https://elsewhere.example")
    data = b"\xff" * size
    wrapped = encode_envelope(data, "1", NOW, SUBSCRIPTION, {"eventType": "OBJECT_FINALIZE"})
    metadata = {
        "x-goog-pubsub-subscription-name": SUBSCRIPTION,
        "x-goog-pubsub-message-id": "2",
        "x-goog-pubsub-publish-time": NOW.isoformat(),
        "eventType": "OBJECT_FINALIZE",
    }

    def unwrapped(headers: dict[str, str]) -> httpx.Response:
        return own.client.post(f"{own.url}/tasks/pubsub/", content=b"not JSON", headers=headers)

    assert [heavy.send(wrapped).status_code, own.send(wrapped).status_code] == [200, 200]
    assert unwrapped(heavy.headers() | metadata).status_code == 200
    assert unwrapped(metadata).status_code == 403
    assert unwrapped(elsewhere.headers() | metadata).status_code == 403
    assert unwrapped(heavy.headers()).status_code == 400

    ids = [foreign_id(open_push(encode_envelope(b"", number, NOW, SUBSCRIPTION))) for number in ("1", "2")]
    rows = await record.fetch(
        "SELECT task_id, attempt, return_value::text, attributes::text FROM task_executions ORDER BY enqueued_at, (return_value->>'size')::int DESC"
    )
    assert [row["task_id"] for row in rows] == ids
    assert [row["attempt"] for row in rows] == [1, 1]
    assert f'"size":{size},' in rows[0]["return_value"]
    assert '"data":"not JSON"' in rows[1]["return_value"]
    assert '"eventtype": "OBJECT_FINALIZE"' in rows[1]["attributes"]
    assert '"authorization"' not in rows[1]["attributes"]
    [rejected] = await record.fetch("SELECT reason, detail FROM rejected_messages")
    assert rejected["reason"] == "malformed_envelope"
    assert rejected["detail"].endswith("if its subscription is unwrapped (noWrapper), set writeMetadata")
