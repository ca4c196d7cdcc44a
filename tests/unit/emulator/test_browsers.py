"""A site that a developer visits publishes nothing; programs on this machine do."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest

from receiver.emulator.broker import Broker
from receiver.emulator.pubsub import create_pubsub

TOPIC = "/v1/projects/p/topics/topic"
MESSAGE = '{"messages": [{"data": "eA=="}]}'


async def publish(headers: Mapping[str, str]) -> int:
    """A message for a topic that is there, as `text/plain`: what a page may send without being asked for leave."""
    broker = Broker()
    broker.put_topic(TOPIC.removeprefix("/v1/"), {"name": TOPIC.removeprefix("/v1/")})
    transport = httpx.ASGITransport(app=create_pubsub(broker))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8085") as client:
        plain = {"content-type": "text/plain", **headers}
        answer = await client.post(f"{TOPIC}:publish", content=MESSAGE, headers=plain)
    broker.close()
    return answer.status_code


@pytest.mark.parametrize("host", ["127.0.0.1:8085", "localhost:8085", "[::1]:8085", "127.0.0.1"])
async def test_a_program_on_this_machine_publishes(host: str) -> None:
    assert await publish({"host": host}) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"sec-fetch-site": "cross-site"},
        {"host": "bent.example:8085"},
        {"host": "127.0.0.1.bent.example"},
        {"host": "[::1"},
        {"host": ""},
    ],
    ids=str,
)
async def test_a_page_of_a_browser_does_not(headers: Mapping[str, str]) -> None:
    assert await publish(headers) == 403
